"""A broker's tokens on the requests of ``requests``."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from requests import PreparedRequest, RequestException, Response, cookies as cookiejars
from requests.auth import AuthBase
from requests.utils import requote_uri, rewind_body

from oauth2broker.errors import BrokerError
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.grants import GrantType
from oauth2broker.integrations.redirects import Left, leads_elsewhere, leave_behind
from oauth2broker.integrations.signatures import Made, MakeAgain, Signature, signed_by
from oauth2broker.integrations.signed_calls import (
    LONGEST_REFUSAL,
    Origin,
    SignedCalls,
    carries,
    checked_origin,
    missing_scope,
)
from oauth2broker.records import TokenRecord

_SIGNATURES_KEPT = 8
_KEPT_BODIES = (bytes, bytearray, memoryview, str)
_MADE_ANEW = ("headers", "url", "body", "_body_position")


class BrokerAuth(AuthBase):
    """Signs requests of ``requests`` with a broker's token: ``Session.auth``, or ``auth=`` of one request.

    Each request gets the token that ``broker`` has for ``request`` (a :class:`CachedTokenRequest`) at that
    moment. ``grant`` says whose it is: the user's, or with ``client_credentials`` the client's own. When the
    API answers 401, the token is rejected and the request is sent once more with another, if its body can be
    sent again. On a redirect to another origin, the token stays behind; where it would go along in the body
    or the URL, following one is a :class:`ConfigError`. ``signer`` is a :class:`RequestSigner` for prepared
    requests; None puts the token where the provider's API wants it.

    A request raises what the broker raises, and nothing is sent then: :class:`AuthorizationRequiredError`,
    :class:`InvalidGrantError` or :class:`RevokedError` when the user must authorize again,
    :class:`TransientError`, :class:`TransportError` ... Besides, :class:`ConfigError` for a URL that tokens
    may not go to (RFC 6750 section 5.3) and a token that cannot be attached, and
    :class:`InsufficientScopeError` for a 403 that says so. Safe to share between threads.
    """

    def __init__(
        self,
        broker: Broker,
        request: CachedTokenRequest,
        grant: str = GrantType.AUTHORIZATION_CODE,
        *,
        signer: Any | None = None,
    ) -> None:
        self._calls = SignedCalls(broker, request, grant, signer)

    def __call__(self, prepared: PreparedRequest) -> PreparedRequest:
        return self.sign(prepared)

    def sign(self, prepared: PreparedRequest, again: MakeAgain | None = None) -> PreparedRequest:
        """Sign ``prepared``. ``again`` makes that request anew, unsigned, to be sent with another token.

        It is for requests that carry the token in other places, too; None from it: that cannot be done.
        """
        origin = checked_origin(prepared.url or "")
        record = self._calls.record()
        hooks = _hooks_on(prepared)
        watches = [hook for hook in hooks if isinstance(hook, _Watch)]
        for watch in watches:  # it was signed before
            watch.withdraw(prepared)
        mine = next((watch for watch in watches if watch.serves(self._calls, origin)), None)
        mine = mine or _Watch(self._calls, origin, again and Made.of(prepared, again))
        others = [hook for hook in hooks if not isinstance(hook, _Watch)]
        prepared.hooks = {**(prepared.hooks or {}), "response": [mine, *others]}  # its copies keep theirs
        mine.sign(prepared, record)
        return prepared


def _hooks_on(prepared: PreparedRequest) -> list[Any]:
    found: Any = (prepared.hooks or {}).get("response") or []
    return [found] if callable(found) else list(found)


class _Watch:
    """Signs one prepared request and watches over its responses, as a hook of ``requests``.

    ``requests`` hands hooks on to the requests of redirects. So this acts only on a response whose request
    carries a signature made here.
    """

    def __init__(self, calls: SignedCalls, origin: Origin, made: Made | None = None) -> None:
        self._calls = calls
        self._origin = origin
        self._made = made
        self._signatures: list[Signature] = []  # the latest first
        self._requests: weakref.WeakKeyDictionary[PreparedRequest, None] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with a request, it is a hook that does nothing."""
        return _NoWatch, ()

    def __deepcopy__(self, memo: object) -> _Watch:
        return self

    def __call__(self, response: Response, **kwargs: Any) -> Response:
        signature = self._signature_on(response.request)
        if signature is None:
            self._mind_redirect(response, ())
            return response
        if response.status_code == 401:
            response, signature = self._answer_to_refusal(response, signature, kwargs)
        else:
            self._calls.note_accepted(signature.record)
        if response.status_code == 403:
            _require_scope(response, signature.record, stream=bool(kwargs.get("stream")))
        self._mind_redirect(response, signature.names)
        return response

    def _mind_redirect(self, response: Response, names: tuple[str, ...]) -> None:
        """Have what ``requests`` copies to follow ``response`` carry the token within the origin only.

        ``names`` are the headers that were signed. What is copied need not be the request that was sent:
        adapters may send a copy of theirs.
        """
        known = [each for ref in self._requests.keyrefs() if (each := ref()) is not None]
        left: Left = ()
        if response.is_redirect:
            location = response.headers["Location"]
            if leads_elsewhere(response.url, location, self._origin, requote_uri):
                left = self._left_behind(response, names)
        elif not any("copy" in vars(each) for each in (response.request, *known)):
            return
        for each in {response.request, *known}:
            leave_behind(each, left, self._note)

    def _left_behind(self, response: Response, names: tuple[str, ...]) -> Left:
        """Give ``names`` and other headers with a token; None when it is in the next URL or body."""
        request = response.request
        keeps_body = response.status_code in (307, 308)
        if self._carries(response.headers["Location"]) or (keeps_body and self._carries(request.body)):
            return None
        return (*names, *(name for name, value in request.headers.items() if self._carries(value)))

    def _carries(self, sent: object) -> bool:
        return any(carries(sent, each.record.access_token) for each in self._signatures)

    def _note(self, request: PreparedRequest) -> None:
        self._requests[request] = None

    def sign(self, request: PreparedRequest, record: TokenRecord) -> Signature:
        """Put the token of ``record`` on ``request``. Raises :class:`BrokerError`."""
        found = signed_by(self._calls.signer, request, record, self._origin)
        if isinstance(found, BrokerError):
            raise found
        self._note(request)
        others = [each for each in self._signatures if each.marks != found.marks]
        self._signatures = [found, *others][:_SIGNATURES_KEPT]
        return found

    def serves(self, calls: SignedCalls, origin: Origin) -> bool:
        """Whether this signs with the tokens of ``calls`` for ``origin``."""
        return self._calls is calls and self._origin == origin

    def withdraw(self, request: PreparedRequest) -> None:
        """Take the signature off ``request``. The watch stays: copies of a request share their hooks."""
        signature = self._signature_on(request)
        if signature is not None:
            signature.undo(request)

    def _signature_on(self, request: PreparedRequest) -> Signature | None:
        return next((each for each in self._signatures if each.is_on(request)), None)

    def _answer_to_refusal(
        self, refused: Response, signature: Signature, kwargs: Mapping[str, Any]
    ) -> tuple[Response, Signature]:
        """Give the answer to the same request with another token, where there is one and it can be sent."""
        request = refused.request
        adapter = getattr(refused, "connection", None)  # not every adapter says that it was it
        try:
            record = self._calls.instead_of(signature.record)
            if record is None or adapter is None or not _rewind(request):
                return refused, signature
            other = self._sign_again(refused, signature, record)
        except Exception:
            refused.close()
            raise
        if other is None:
            return refused, signature
        _let_go(refused)
        _take_cookies(request, refused)
        begun = time.perf_counter()
        response: Response = adapter.send(request, **kwargs)
        response.elapsed = timedelta(seconds=time.perf_counter() - begun)
        response.history.append(refused)
        if response.status_code == 401:
            self._calls.note_refused_again(record)
        else:
            self._calls.note_accepted(record, retried=True)
        return response, other

    def _sign_again(self, refused: Response, signature: Signature, record: TokenRecord) -> Signature | None:
        """Replace the token on the request itself, which a redirect copies; ``refused`` keeps what was sent.

        Signs a copy first, so that no failure leaves a request without a token behind. None when the refused
        token would go along.
        """
        request = refused.request
        renewed = self._unsigned(request, signature)
        if renewed is None:
            return None
        other = self.sign(renewed, record)
        refused.request = PreparedRequest.copy(request)
        for name in _MADE_ANEW:
            setattr(request, name, getattr(renewed, name))
        return other

    def _unsigned(self, request: PreparedRequest, signature: Signature) -> PreparedRequest | None:
        """Give what was signed: made anew if it can be, because it has the token in other places, too."""
        found = PreparedRequest.copy(request)
        signature.undo(found)
        if self._made is None:
            return found
        if self._made.is_it(found):
            return self._made.again()
        token = signature.record.access_token  # a redirect made another request of it
        return None if carries(found.url, token) or carries(found.body, token) else found


class _NoWatch:
    """What became of a watch in another process: a hook that does nothing."""

    def __call__(self, response: Response, **kwargs: Any) -> Response:
        return response


def _rewind(request: PreparedRequest) -> bool:
    """Make the body of ``request`` ready to be sent again; False for one that cannot be.

    A file goes back to where it stood when the request was prepared.
    """
    if request.body is None or isinstance(request.body, _KEPT_BODIES):
        return True
    try:
        rewind_body(request)
    except Exception:  # noqa: BLE001 - a file of any kind: closed, without seek ...
        return False
    return True


def _let_go(response: Response) -> None:
    """End the exchange; with a short answer, its connection can be used again."""
    if _is_short(response):
        with contextlib.suppress(RequestException):
            _ = response.content
    response.close()


def _is_short(response: Response) -> bool:
    """Whether the body is known to be short, also after decoding."""
    length = response.headers.get("Content-Length", "")
    is_plain = response.headers.get("Content-Encoding", "identity").lower() == "identity"
    return is_plain and length.isascii() and length.isdecimal() and int(length[:9]) <= LONGEST_REFUSAL


def _take_cookies(request: PreparedRequest, response: Response) -> None:
    """Send along the cookies of ``response``, unless the caller wrote the Cookie header."""
    jar, functions = cast(Any, request)._cookies, cast(Any, cookiejars)  # which have no types
    if jar is None:  # a request that was not prepared whole
        return
    sent = request.headers.pop("Cookie", None)
    made_here = functions.get_cookie_header(jar, request)
    functions.extract_cookies_to_jar(jar, response.request, response.raw)
    if sent is not None and sent != made_here:
        request.headers["Cookie"] = sent
    else:
        request.prepare_cookies(jar)


def _require_scope(response: Response, record: TokenRecord, *, stream: bool) -> None:
    """Raise :class:`InsufficientScopeError` for a 403 that says so. Who streams can still read the body."""
    error = missing_scope(response.headers, b"", record)
    is_json = "json" in response.headers.get("Content-Type", "").lower()
    if error is None and is_json and (not stream or _is_short(response)):
        body = response.content
        error = missing_scope({}, body, record) if len(body) <= LONGEST_REFUSAL else None
    if error is not None:
        response.close()
        raise error
