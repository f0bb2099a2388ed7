"""Apple takes as client secret a JWT that the client signs. Needs the extra ``jwt``.

See https://developer.apple.com/documentation/accountorganizationaldatasharing/creating-a-client-secret.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from oauth2broker.client_auth.assertions import require_jwt, sign_jwt
from oauth2broker.client_auth.sources import SecretLike, SecretSource, secret_source
from oauth2broker.errors import BrokerError, ConfigError
from oauth2broker.secret import TokenSecret

_AUDIENCE = "https://appleid.apple.com"
_LIFETIME = timedelta(hours=1)  # Apple takes up to six months
_SERVES = timedelta(minutes=50)


class AppleClientSecret:
    """Gives the client secret for Sign in with Apple: ``Broker(..., client_secret=AppleClientSecret(...))``.

    ``team_id``, ``client_id`` (the Services ID or the App ID) and ``key_id`` are as in Apple's developer
    account; ``private_key`` is the PEM text of the key (.p8), a path to it, or a callable that gives it. What
    is given serves for an hour and is made anew ten minutes before. ``clock`` gives aware datetimes. Safe to
    share between threads; its repr shows no secret. Raises :class:`ConfigError`.
    """

    def __init__(
        self,
        team_id: str,
        client_id: str,
        key_id: str,
        private_key: SecretLike,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._claims = {"iss": team_id, "aud": _AUDIENCE, "sub": client_id}
        self._key_id = key_id  # before anything is raised: who reports that shows a repr of us
        source = secret_source(private_key)
        del private_key  # from here on nothing plain is in this frame
        require_jwt()
        if isinstance(source, ConfigError):
            raise source
        self._key: SecretSource = source
        self._clock = clock
        self._made: tuple[datetime, TokenSecret] | None = None

    def __call__(self) -> TokenSecret:
        """Give a client secret that serves for ten minutes at least."""
        now, made = self._clock(), self._made
        if made is None or not timedelta() <= now - made[0] < _SERVES:
            self._made = made = now, self._signed(now)  # threads that race each get one that serves
        return made[1]

    def __repr__(self) -> str:
        return f"AppleClientSecret({self._claims['sub']!r}, key_id={self._key_id!r})"

    def _signed(self, now: datetime) -> TokenSecret:
        key = self._key.read()
        if isinstance(key, BrokerError):
            raise key
        times = {"iat": int(now.timestamp()), "exp": int((now + _LIFETIME).timestamp())}
        signed = sign_jwt({**self._claims, **times}, key, "ES256", {"kid": self._key_id})
        if isinstance(signed, ConfigError):
            raise signed
        return signed
