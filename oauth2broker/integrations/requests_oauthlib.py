"""A drop-in for ``requests_oauthlib.OAuth2Session`` whose tokens are a broker's."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn, cast
from urllib.parse import quote

from oauthlib.oauth2 import OAuth2Token, WebApplicationClient
from requests import PreparedRequest, Request, Session
from requests_oauthlib import OAuth2Session  # type: ignore[import-untyped]

from oauth2broker import oauth
from oauth2broker.errors import AuthorizationError, BrokerError, ConfigError, StateMismatchError
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.callback import parse_callback
from oauth2broker.flows.request import CachedTokenRequest
from oauth2broker.grants import GrantType
from oauth2broker.integrations.compliance import ComplianceHooks, Hook, amended
from oauth2broker.integrations.oauthlib_tokens import GivenToken, token_members
from oauth2broker.integrations.pending import PendingLogins, callback_text, logins_here
from oauth2broker.integrations.protected_request import ProtectedRequest
from oauth2broker.integrations.requests import BrokerAuth
from oauth2broker.integrations.session_token import SessionToken
from oauth2broker.integrations.signed_calls import checked_origin
from oauth2broker.records import TokenRecord, checked_grant, checked_text
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret, usable_secret

_SUPERSEDED_PKCE = frozenset({"code_challenge", "code_challenge_method"})
_PREPARED = ("params", "cookies", "json")
_NO_PASSWORDS = (
    "the password grant (RFC 6749 section 4.3) is not carried: it shows the user's password to the program. "
    "Use authorization_code, or client_credentials"
)
_NO_FRAGMENTS = (
    "the implicit grant (RFC 6749 section 4.2) is not carried: it shows tokens to the browser. "
    "Use authorization_url and fetch_token; with PKCE they need no client secret"
)
_NO_COPIES = "a BrokerSession cannot be copied or pickled: its broker has secrets and locks"

TokenUpdater = Callable[[dict[str, Any]], object]


class BrokerSession(OAuth2Session):  # type: ignore[misc]
    """An ``OAuth2Session`` of one principal: code that uses one works when only its constructor changes.

    ``request`` says whose token is used; with ``grant`` client_credentials it is the client's own. Tokens are
    the broker's: stored, renewed and shared with whoever else uses the broker or its store. ``pending`` maps
    the ``state`` of a login to what must be remembered of it (JSON, with the code verifier in plain), so that
    the callback may be served by another object or process; None: in memory, one for all sessions of a
    broker. ``token`` is imported as by assigning to :attr:`token`. ``signer`` is as in :class:`BrokerAuth`.
    ``token_updater`` is called with the token, as a dict, when it is another than the session last saw.

    URLs and secrets that the methods take are superseded by the broker's descriptor and client. What
    :meth:`request` and its kin send has a token, but with ``withhold_token`` or an ``auth`` of the caller's
    own. Raises :class:`BrokerError` and what requests raises; nothing of oauthlib. As safe to share between
    threads as a :class:`requests.Session`. Cannot be copied or pickled.
    """

    def __init__(
        self,
        broker: Broker,
        request: CachedTokenRequest,
        *,
        grant: str = GrantType.AUTHORIZATION_CODE,
        redirect_uri: str | None = None,
        state: str | Callable[[], str] | None = None,
        pending: MutableMapping[str, str] | None = None,
        token_updater: Callable[[dict[str, Any]], object] | None = None,
        signer: Any | None = None,
        token: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a session for the token that ``broker`` has for ``request``; see the class."""
        given = GivenToken(token)
        del token  # from here on nothing plain is in this frame
        if not isinstance(broker, Broker):
            raise ConfigError(f"broker is a Broker, not {type(broker).__name__}")
        if grant == "password":
            raise ConfigError(_NO_PASSWORDS)
        if pending is not None and not all(hasattr(pending, each) for each in ("__setitem__", "get", "pop")):
            raise ConfigError(f"pending is a mutable mapping, not {type(pending).__name__}")
        if token_updater is not None and not callable(token_updater):
            raise ConfigError(f"token_updater is a function, not {type(token_updater).__name__}")
        self._broker = broker
        self._signer = signer
        self._grant = checked_grant(grant)
        self._logins = PendingLogins(logins_here(broker) if pending is None else pending)
        self._updater: TokenUpdater | None = None
        self._hooks: dict[str, set[Hook]] = {}
        self._aim(request)
        super().__init__(
            client=WebApplicationClient(self.client_id),
            redirect_uri=redirect_uri,
            state=state or oauth.new_state,
            token_updater=token_updater,
        )
        self.auth: Any = _leave_alone
        self._tokens.take_over(given)

    def __repr__(self) -> str:
        if not hasattr(self, "_tokens"):
            return "BrokerSession()"  # its arguments were refused, and who reports that shows a repr of us
        family = self._tokens.key.family
        return f"BrokerSession({family.tenant!r}, {family.principal!r}, {family.provider!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(_NO_COPIES)

    def __getstate__(self) -> NoReturn:
        raise TypeError(_NO_COPIES)

    # What the session is about.

    @property
    def client_id(self) -> str:
        """The broker's; it cannot be changed here."""
        return self._tokens.key.family.client_id

    @client_id.setter
    def client_id(self, value: str) -> None:
        if value != self.client_id:
            raise ConfigError("the client id is the broker's: make a Broker for another one")

    @client_id.deleter
    def client_id(self) -> None:
        raise ConfigError("the client id is the broker's")

    @property
    def scope(self) -> list[str]:
        """What is asked for. Assigning to it makes this a session for the token of another scope."""
        return list(self._tokens.request.scope)

    @scope.setter
    def scope(self, scope: str | Iterable[str] | None) -> None:
        self._aim(replace(self._tokens.request, scope=ScopeSet(scope or ())))

    @property
    def token(self) -> dict[str, Any]:
        """The stored token as oauthlib has it, in plain; empty when there is none. Calls no provider.

        Assigning to it imports a token that was kept elsewhere, if nothing is stored yet; what is stored
        stays, a tombstone too, because its refresh token may have replaced the one that is assigned. An empty
        one imports nothing; :meth:`Broker.revoke` logs out. Raises :class:`ConfigError` for what is no token,
        :class:`StoreError`.
        """
        record = self._tokens.stored()
        return {} if record is None else _shown(self._tokens, record)

    @token.setter
    def token(self, value: Mapping[str, Any] | None) -> None:
        given = GivenToken(value)
        del value  # from here on nothing plain is in this frame
        self._tokens.take_over(given)

    @property
    def access_token(self) -> str | None:
        """The stored access token in plain, None when there is none. Assigning is as for :attr:`token`."""
        return self.token.get("access_token")

    @access_token.setter
    def access_token(self, value: str | None) -> None:
        given = GivenToken({"access_token": value} if value else None)
        del value  # from here on nothing plain is in this frame
        self._tokens.take_over(given)

    @access_token.deleter
    def access_token(self) -> None:
        raise ConfigError("the token is the broker's: revoke it there to log out")

    @property
    def authorized(self) -> bool:
        """Whether a token can be had without the user: one that works, or something to renew it with."""
        return self._tokens.can_be_had()

    @property
    def token_updater(self) -> TokenUpdater | None:
        """What is called with a token that is another than the session last saw."""
        return self._updater

    @token_updater.setter
    def token_updater(self, update: TokenUpdater | None) -> None:
        tokens, self._updater = self._tokens, update
        tokens.tell = None if update is None else lambda record: update(_shown(tokens, record))

    @property
    def compliance_hook(self) -> dict[str, set[Hook]]:
        """The hooks by name; :meth:`register_compliance_hook` adds one."""
        return self._hooks

    @compliance_hook.setter
    def compliance_hook(self, hooks: dict[str, set[Hook]]) -> None:
        self._hooks = self._tokens.hooks = hooks

    # Getting a token.

    def new_state(self) -> str:
        """Give the state for a login: what was given to the constructor, or a fresh one."""
        made = self.state() if callable(self.state) else self.state
        self._state = checked_text("state", made)
        return self._state

    def authorization_url(
        self, url: str | None = None, state: str | None = None, **kwargs: Any
    ) -> tuple[str, str]:
        """Begin a login (RFC 6749 section 4.1.1) and give the URL to send the user to, and its state.

        ``url`` is superseded by the descriptor's, ``kwargs`` join the URL. PKCE is the broker's, a code
        challenge among them is left out. What must be remembered goes to ``pending``. Raises
        :class:`ConfigError`, :class:`BackendError` when ``pending`` fails.
        """
        if self.redirect_uri is None:
            raise ConfigError("a login needs BrokerSession(..., redirect_uri=...)")
        self._state = state = checked_text("state", state or self.new_state())
        request = self._tokens.request
        made = self._broker.start_authorization(
            request.tenant,
            request.principal,
            request.scope,
            self.redirect_uri,
            resource=request.resource,
            extra_params=self._extra_params(kwargs),
        )
        url = made.authorize_url.replace(made.state, quote(state, safe=""))
        made = replace(made, state=state, authorize_url=url)
        self._logins.keep(state, TokenSecret(made.to_json()))
        return made.authorize_url, state

    def fetch_token(
        self,
        token_url: str | None = None,
        code: str | None = None,
        authorization_response: str | Mapping[str, Any] | None = None,
        body: str = "",
        auth: Any = None,
        username: str | None = None,
        password: str | None = None,
        **superseded: Any,
    ) -> dict[str, Any]:
        """Exchange the code of a callback, or give the client's own token; the token as a dict, in plain.

        ``authorization_response`` is the URL that the user came back to (or its parameters); with ``code``
        alone, the state is this session's. Anything else is the broker's matter and not looked at. Raises
        :class:`StateMismatchError` for a state that this principal has no login for, what
        :meth:`Broker.complete_authorization` or :meth:`Broker.client_credentials` raises, and
        :class:`ConfigError` for the password grant.
        """
        came, secret = callback_text(authorization_response), usable_secret(code)
        wants_password = username is not None or password is not None
        del code, authorization_response, body, auth, password, superseded  # nothing plain is in this frame
        if wants_password:
            raise ConfigError(_NO_PASSWORDS)
        if self._grant is GrantType.CLIENT_CREDENTIALS:
            return self._given(self._tokens.obtain())
        if came is None and secret is None:
            raise ConfigError("fetch_token takes authorization_response, or code")
        return self._given(self._log_in(came, secret))

    def refresh_token(
        self, token_url: str | None = None, refresh_token: str | None = None, **superseded: Any
    ) -> dict[str, Any]:
        """Renew the token now (RFC 6749 section 6), whatever is left of it; the new one as a dict, in plain.

        ``refresh_token`` is imported when nothing is stored; else the stored one is used. Raises what
        :meth:`Broker.refresh_access_token` raises.
        """
        given = GivenToken({"refresh_token": refresh_token} if refresh_token else None)
        del refresh_token, superseded  # from here on nothing plain is in this frame
        self._tokens.take_over(given)
        return self._given(self._tokens.obtain(force=True))

    def token_from_fragment(self, authorization_response: str) -> NoReturn:
        """Raise :class:`ConfigError`: the implicit grant is not carried."""
        del authorization_response
        raise ConfigError(_NO_FRAGMENTS)

    # Using it.

    def request(
        self,
        method: str,
        url: str,
        data: Any = None,
        headers: Any = None,
        withhold_token: bool = False,
        client_id: str | None = None,
        client_secret: str | None = None,
        files: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Send a request with the token, as :class:`BrokerAuth` does, after the protected_request hooks.

        When it is sent again with another token, they are called again, for the request as it is given here.
        ``withhold_token`` sends it without, ``auth`` (here or on the session) with that instead. Raises
        :class:`ConfigError` for http to other hosts than loopback, and what the broker and requests raise.
        """
        del client_id, client_secret
        url = url.decode() if isinstance(url, bytes) else str(url)
        checked_origin(url)
        if not withhold_token:
            hooks = tuple(self.compliance_hook["protected_request"])
            signs = kwargs.get("auth") is None and self.auth in (None, _leave_alone)
            if signs:
                kwargs["auth"] = self._auth
                self._tokens.look_first()
                if hooks:  # they may want to know the token that will be sent
                    self._tokens.obtain()
            if hooks and (signs or self.token):
                made = ProtectedRequest(hooks, url, headers, data, files)
                url, headers, data = made.shown()
                files = made.files
                if signs:
                    again = partial(self._made_again, method, made, dict(kwargs))
                    kwargs["auth"] = partial(self._auth.sign, again=again)
        return Session.request(self, method, url, headers=headers, data=data, files=files, **kwargs)

    # Inside.

    def _made_again(
        self, method: str, made: ProtectedRequest, given: Mapping[str, Any]
    ) -> PreparedRequest | None:
        """Prepare a request anew, with the token of now where the hooks put it; None when it cannot be."""
        if not made.rewind():
            return None
        url, headers, data = made.shown()
        more = {name: given.get(name) for name in _PREPARED}
        anew = Request(method.upper(), url, headers, made.files, data, auth=_leave_alone, **more)
        return Session.prepare_request(self, anew)

    def _aim(self, request: CachedTokenRequest) -> None:
        """Make this a session for the token of ``request``."""
        self._tokens = tokens = SessionToken(self._broker, request, self._grant)
        self._auth = BrokerAuth(cast("Broker", tokens), request, self._grant, signer=self._signer)
        self.token_updater, self.compliance_hook = self._updater, self._hooks

    def _given(self, record: TokenRecord) -> dict[str, Any]:
        """Give the token that the caller asked for, which is no news for ``token_updater``."""
        return _shown(self._tokens, self._tokens.take_note(record))

    def _log_in(self, came: TokenSecret | None, code: TokenSecret | None) -> TokenRecord:
        """Complete the login that a callback, or the session's own state, names."""
        state = self._own_state() if came is None else self._came_back_with(came)
        session, kept = self._logins.recall(state, self._tokens.key)
        hooks = ComplianceHooks(self.compliance_hook)
        try:
            with amended(hooks):
                if came is not None:
                    return self._broker.complete_authorization(session, came.expose())
                return self._broker.exchange_code(session, code.expose() if code else "")
        except BrokerError as error:
            if error.retryable or hooks.stopped:  # the code was not spent
                with suppress(BrokerError):
                    self._logins.keep(state, kept)
            raise

    def _extra_params(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Give the parameters that nobody else sets already; as before, empty ones are left out."""
        texts = {name: str(value) for name, value in given.items() if value and name not in _SUPERSEDED_PKCE}
        ours = dict(self._broker.descriptor.authorization_params)
        resource = self._tokens.request.resource
        if resource is not None:
            ours["resource"] = resource
        return {name: text for name, text in texts.items() if ours.get(name) != text}

    def _own_state(self) -> str:
        if not isinstance(self._state, str):
            raise StateMismatchError("a code alone needs the session's state: give authorization_response")
        return self._state

    def _came_back_with(self, came: TokenSecret) -> str:
        """Give the state of a callback; one that the session was told must be the same."""
        found = parse_callback(came.expose())
        if isinstance(found, str):
            raise AuthorizationError(f"the callback cannot be used: {found}")
        if found.state is None:
            raise StateMismatchError("the callback carries no state")
        known = self._state if isinstance(self._state, str) else found.state
        if not hmac.compare_digest(known.encode("utf-8", "replace"), found.state.encode("utf-8", "replace")):
            raise StateMismatchError("the callback's state is not the one of this session")
        return found.state


def _shown(tokens: SessionToken, record: TokenRecord) -> dict[str, Any]:
    """Give the token of ``record`` as oauthlib has it, in plain."""
    return cast("dict[str, Any]", OAuth2Token(token_members(record, tokens.now()), list(record.scope)))


def _leave_alone(prepared: Any) -> Any:
    """Sign nothing: keeps requests from taking passwords from a .netrc file."""
    return prepared
