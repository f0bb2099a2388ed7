"""Methods that prove a secret or a key by signing with it (RFC 7523 section 2.2). Need the extra ``jwt``.

The only file that imports PyJWT and cryptography, and inside functions: most clients do not sign. Functions
that hold a plain key return what went wrong instead of raising it, so that no traceback shows their locals.
"""

from __future__ import annotations

import importlib.util
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from oauth2broker.client_auth.base import ClientAuthentication, ClientIdentity
from oauth2broker.client_auth.sources import SecretLike, SecretSource, secret_source
from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.frozen import FrozenMapping, thaw
from oauth2broker.provider.checks import checked_mapping
from oauth2broker.provider.kinds import ClientAuthMethod
from oauth2broker.provider.strategy import RequestDraft
from oauth2broker.records import checked_text
from oauth2broker.secret import TokenSecret

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LIFETIME = timedelta(minutes=2)  # some providers refuse an exp that is five minutes ahead
_SHORTEST_SECRET = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes, RFC 7518 section 3.2
_SHORTEST_RSA_KEY = 2048  # bits, RFC 7518 sections 3.3 and 3.5
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}  # RFC 7518 section 3.4
_KEY_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", *_CURVES, "EdDSA")
_SET_BY_US = frozenset({"alg", "kid", "b64", "crit"})


class _Assertion(ClientAuthentication):
    """Signs a fresh assertion for each request, with a ``jti`` of its own."""

    _headers: Mapping[str, Any] = {}

    def __init__(self, source: SecretSource | ConfigError, algorithm: str, algorithms: Iterable[str]) -> None:
        if algorithm not in list(algorithms):
            raise ConfigError(f"algorithm is one of {', '.join(algorithms)}")
        require_jwt()
        if isinstance(source, ConfigError):
            raise source
        self._source = source
        self._algorithm = algorithm

    def authenticate(
        self, draft: RequestDraft, identity: ClientIdentity
    ) -> Iterable[TokenSecret] | BrokerError:
        key = self._source.read()
        if isinstance(key, BrokerError):
            return key
        claims = {
            "iss": identity.client_id,
            "sub": identity.client_id,
            "aud": identity.audience,
            "jti": secrets.token_urlsafe(24),
            "iat": int(identity.now.timestamp()),
            "exp": int((identity.now + ASSERTION_LIFETIME).timestamp()),
        }
        assertion = sign_jwt(claims, key, self._algorithm, self._headers)
        if isinstance(assertion, ConfigError):
            return assertion
        draft.form["client_id"] = identity.client_id
        draft.form["client_assertion_type"] = ASSERTION_TYPE
        draft.form["client_assertion"] = assertion.expose()
        return [assertion] if self.secret is None else [assertion, key]  # of a private key nothing is sent


class ClientSecretJwt(_Assertion):
    """An assertion signed with the client secret (HS256, HS384 or HS512).

    ``secret`` is text, a path to a file that holds it, or a callable that gives it.
    """

    methods: ClassVar[tuple[ClientAuthMethod, ...]] = (ClientAuthMethod.CLIENT_SECRET_JWT,)

    def __init__(self, secret: SecretLike, *, algorithm: str = "HS256") -> None:
        source = secret_source(secret)
        del secret  # from here on nothing plain is in this frame
        super().__init__(source, algorithm, _SHORTEST_SECRET)
        self.secret = self._source


class PrivateKeyJwt(_Assertion):
    """An assertion signed with a private key, of which the provider has the public half.

    ``key`` is PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted) or a JSON Web Key (RFC 7517), as text, a path to
    a file that holds it, or a callable that gives it. ``algorithm`` is RS256, PS256, ES256 (also with 384 and
    512) or EdDSA. ``key_id`` is the ``kid`` that the provider knows the key by; None is the one in the JSON
    Web Key, if any. ``headers`` are further members of the JOSE header, such as ``x5t#S256``.
    """

    methods: ClassVar[tuple[ClientAuthMethod, ...]] = (ClientAuthMethod.PRIVATE_KEY_JWT,)

    def __init__(
        self,
        key: SecretLike,
        *,
        algorithm: str,
        key_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        source = secret_source(key)
        del key  # from here on nothing plain is in this frame
        super().__init__(source, algorithm, _KEY_ALGORITHMS)
        members = dict(checked_mapping("headers", headers))
        if _SET_BY_US & members.keys():
            raise ConfigError(f"headers may not set {', '.join(sorted(_SET_BY_US & members.keys()))}")
        if key_id is not None:
            members["kid"] = checked_text("key_id", key_id)
        self._headers = FrozenMapping(members)


def require_jwt() -> None:
    """Raise :class:`ConfigError` unless the extra ``jwt`` is installed."""
    if not all(map(importlib.util.find_spec, ("jwt", "cryptography"))):
        raise ConfigError("signing needs PyJWT and cryptography: pip install 'oauth2broker[jwt]'")


def sign_jwt(
    claims: Mapping[str, Any], key: TokenSecret, algorithm: str, headers: Mapping[str, Any]
) -> TokenSecret | ConfigError:
    """Give a signed JWT (RFC 7519), or what is wrong. Never raises: its frame holds the plain key."""
    try:
        import jwt

        read = _shared_secret if algorithm in _SHORTEST_SECRET else _private_key
        material = read(key.expose(), algorithm)
        if isinstance(material, ConfigError):
            return material
        signer, stated = material
        return TokenSecret(jwt.encode(dict(claims), signer, algorithm, {**stated, **thaw(headers)}))
    except Exception as error:  # noqa: BLE001 - whatever a key that is none makes of the libraries
        return ConfigError(f"the key cannot sign with {algorithm} ({type(error).__name__})")


def _shared_secret(plain: str, algorithm: str) -> tuple[Any, dict[str, str]] | ConfigError:
    shortest = _SHORTEST_SECRET[algorithm]
    if len(plain.encode()) < shortest:
        return ConfigError(f"{algorithm} needs a client secret of at least {shortest} bytes")
    return plain, {}


def _private_key(plain: str, algorithm: str) -> tuple[Any, dict[str, str]] | ConfigError:
    """Give a key that signs with ``algorithm``, and what it says of itself for the header."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from jwt import PyJWK

    stated: dict[str, str] = {}
    if plain.lstrip().startswith("{"):
        members = json.loads(plain)
        key: Any = PyJWK(members, algorithm).key
        if isinstance(members.get("kid"), str):
            stated["kid"] = members["kid"]
    elif "-----BEGIN OPENSSH" in plain:
        return ConfigError("the key is in OpenSSH's own format; give it as PEM (PKCS #8)")
    elif "-----BEGIN" in plain and "PRIVATE KEY-----" not in plain:
        return ConfigError(
            f"{algorithm} needs the private half of a key, not its public half or a certificate"
        )
    elif "-----BEGIN" in plain:
        try:
            key = load_pem_private_key(plain.encode(), password=None)
        except TypeError:
            return ConfigError(
                "the key is encrypted; give it decrypted, by a callable if it must not lie about"
            )
    else:
        return ConfigError("the key is neither PEM nor a JSON Web Key (a path is given as pathlib.Path)")
    return _mismatch(key, algorithm) or (key, stated)


def _mismatch(key: Any, algorithm: str) -> ConfigError | None:
    """Give what keeps ``key`` from signing with ``algorithm`` (RFC 7518 section 3.1, RFC 8037)."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    kinds: Any
    if algorithm in _CURVES:
        name, kinds = "an elliptic curve key", (ec.EllipticCurvePrivateKey,)
    elif algorithm == "EdDSA":
        name, kinds = "an Ed25519 or Ed448 key", (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    else:
        name, kinds = "an RSA key", (rsa.RSAPrivateKey,)
    if not isinstance(key, kinds):
        return ConfigError(f"{algorithm} needs the private half of {name}, not {type(key).__name__}")
    if algorithm in _CURVES and key.curve.name != _CURVES[algorithm]:
        return ConfigError(f"{algorithm} needs a key on {_CURVES[algorithm]}, not {key.curve.name}")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _SHORTEST_RSA_KEY:
        return ConfigError(f"{algorithm} needs an RSA key of at least {_SHORTEST_RSA_KEY} bits")
    return None
