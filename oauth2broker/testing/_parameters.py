"""Reading OAuth parameters and client credentials from a request, strictly.

Everything here raises oauthlib's errors, which the endpoints know how to answer.
"""

import base64
from collections.abc import Set
from urllib.parse import parse_qsl, unquote_plus

from oauthlib.oauth2.rfc6749 import errors

from oauth2broker.testing._server import Request

Parameters = dict[str, str]

_FORM = "application/x-www-form-urlencoded"


def read_parameters(encoded: str, known: Set[str]) -> Parameters:
    """Decode the known parameters. None may come twice; an empty one counts as absent.

    RFC 6749 sections 3.1 and 3.2. Raises InvalidRequestError.
    """
    try:
        pairs = parse_qsl(encoded, errors="strict", max_num_fields=64)
    except ValueError:
        pairs = None
    if pairs is None:
        raise errors.InvalidRequestError(description="The parameters cannot be decoded.")
    pairs = [(name, value) for name, value in pairs if name in known]
    if len(dict(pairs)) < len(pairs):
        raise errors.InvalidRequestError(description="A parameter is repeated.")
    return dict(pairs)


def read_form(request: Request, known: Set[str]) -> Parameters:
    """Decode the form of a POST together with its client credentials, wherever they came.

    What came in the Authorization header is given as `client_id` and `client_secret`. Raises
    InvalidRequestError or InvalidClientError.
    """
    if request.headers.get_content_type() != _FORM:
        raise errors.InvalidRequestError(description=f"The body must be {_FORM}.")
    form = read_parameters(request.body.decode("latin-1"), known)
    authorization = request.headers.get("Authorization")
    return form if authorization is None else _with_basic(form, authorization)


def _with_basic(form: Parameters, authorization: str) -> Parameters:
    client_id, secret = _read_basic(authorization)
    if "client_secret" in form or form.get("client_id", client_id) != client_id:
        # RFC 6749 section 2.3: not more than one method in each request.
        raise errors.InvalidRequestError(description="The client authenticates in two ways.")
    return {**form, "client_id": client_id, "client_secret": secret}


def _read_basic(authorization: str) -> tuple[str, str]:
    """Decode Basic credentials; both parts are form-encoded (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
        client_id, secret = (unquote_plus(part, errors="strict") for part in pair.split(":", 1))
    except ValueError:
        client_id = secret = ""
    if scheme.lower() != "basic" or not client_id:
        raise errors.InvalidClientError(description="Only HTTP Basic is understood.")
    return client_id, secret
