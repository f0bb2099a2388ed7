"""Authorization code with PKCE (RFC 6749 section 4.1, RFC 7636), from redirect to stored token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import cast

from oauth2broker import oauth
from oauth2broker.answers import TokenFailure
from oauth2broker.errors import AuthorizationError, ConfigError
from oauth2broker.flows.callback import Callback
from oauth2broker.flows.session import AuthorizationSession
from oauth2broker.flows.singleflight import Outcome
from oauth2broker.flows.tools import Tools
from oauth2broker.grants import GrantType
from oauth2broker.ids import PrincipalId, TenantId
from oauth2broker.issued import build_record, read_subject
from oauth2broker.obs import RefreshResult
from oauth2broker.payloads import read_extra
from oauth2broker.provider.descriptor import SET_BY_THE_BROKER, ProviderDescriptor
from oauth2broker.provider.kinds import PkceSupport
from oauth2broker.quoting import safe_text
from oauth2broker.records import LONG_AGO, TokenRecord, checked_text
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret
from oauth2broker.urls import checked_redirect_uri


class AuthorizationFlow:
    """Starts and completes authorizations. Safe to share between threads."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._endpoint = tools.endpoint

    def start(
        self,
        tenant: str,
        principal: str,
        scope: str | Iterable[str],
        redirect_uri: str,
        *,
        resource: str | None,
        extra_params: Mapping[str, str] | None,
        lifetime: timedelta,
    ) -> AuthorizationSession:
        """Make a session and the URL to send the user to."""
        descriptor, client_id = self._endpoint.descriptor, self._endpoint.client.client_id
        descriptor.require_grant(GrantType.AUTHORIZATION_CODE)
        endpoint = descriptor.authorization_endpoint
        if endpoint is None:
            raise ConfigError(f"provider {descriptor.id} has no authorization_endpoint")
        tenant, principal = TenantId(tenant), PrincipalId(principal)
        scope, redirect_uri = ScopeSet(scope), checked_redirect_uri(redirect_uri)
        resource = None if resource is None else checked_text("resource", resource)
        state, verifier, challenge = oauth.new_state(), TokenSecret(""), ""
        ours = {"response_type": "code", "client_id": client_id, "redirect_uri": redirect_uri, "state": state}
        ours.update(oauth.format_scope(scope, descriptor.scope_delimiter))
        ours.update(oauth.format_resource(descriptor, resource))
        if descriptor.pkce is not PkceSupport.UNSUPPORTED:
            verifier = oauth.new_code_verifier()
            challenge = oauth.build_code_challenge(verifier)
            ours.update(code_challenge=challenge, code_challenge_method="S256")
        params = _joined(ours, descriptor.authorization_params, extra_params or {})
        self._augment(params)
        oauth.rename_params(descriptor, params)
        return AuthorizationSession(
            tenant=tenant,
            principal=principal,
            provider=descriptor.id,
            client_id=client_id,
            scope=scope,
            redirect_uri=redirect_uri,
            resource=resource,
            state=state,
            code_verifier=verifier,
            code_challenge=challenge,
            authorize_url=oauth.build_authorization_url(endpoint, params),
            expires_at=self._tools.clock() + lifetime,
        )

    def complete(self, session: AuthorizationSession, callback: Callback | str) -> TokenRecord:
        """Check a callback (or what is wrong with it) against its session, then exchange its code."""
        self._require_own(session)
        if isinstance(callback, str):
            raise AuthorizationError(f"the callback cannot be used: {callback}")
        session.require_state(callback.state)
        self._require_issuer(callback.iss)
        if callback.error is not None:
            session.claim(self._tools.clock())
            raise _denied(callback, self._endpoint.descriptor)
        if callback.code is None:
            raise AuthorizationError("the callback cannot be used: it carries no code")
        refused = self._endpoint.check_callback(callback.params)
        if refused is not None:
            raise refused
        kept = self._endpoint.descriptor.quirks.callback_members
        brought = {name: callback.params[name] for name in kept if name in callback.params}
        return self._exchange(session, callback.code, brought)

    def exchange(self, session: AuthorizationSession, code: TokenSecret | None) -> TokenRecord:
        """Exchange a code whose callback the caller has checked."""
        self._require_own(session)
        if code is None:
            raise AuthorizationError("the code is not usable text")
        return self._exchange(session, code, {})

    def _augment(self, params: dict[str, str]) -> None:
        hook = self._endpoint.strategy.augment_authorization_request
        error = oauth.call_hook("augment_authorization_request", lambda: hook(params))
        if error is not None:
            raise error
        if not oauth.is_form(params):
            raise ConfigError("the strategy's augment_authorization_request left what cannot be sent")

    def _require_own(self, session: AuthorizationSession) -> None:
        self._endpoint.descriptor.require_grant(GrantType.AUTHORIZATION_CODE)
        if session.provider != self._endpoint.descriptor.id:
            raise ConfigError("the session belongs to another provider")
        if session.client_id != self._endpoint.client.client_id:
            raise ConfigError("the session belongs to another client id")

    def _require_issuer(self, iss: str | None) -> None:
        """Refuse an answer of another authorization server (RFC 9207 section 2.4)."""
        descriptor = self._endpoint.descriptor
        if iss is None and descriptor.iss_required:
            raise AuthorizationError("the callback carries no iss", error="invalid_issuer")
        if iss is not None and descriptor.issuer is not None and iss != descriptor.issuer:
            raise AuthorizationError("the callback's iss is another issuer", error="invalid_issuer")

    def _exchange(
        self, session: AuthorizationSession, code: TokenSecret, brought: Mapping[str, str]
    ) -> TokenRecord:
        outcome = self._tools.flights.lead(session.key, partial(self._fly, session, code, brought))
        return cast("TokenRecord", outcome.record)

    def _fly(self, session: AuthorizationSession, code: TokenSecret, brought: Mapping[str, str]) -> Outcome:
        with self._tools.keeper.lease(session.key) as lease:
            return Outcome(self._obtain(session, code, brought, lease), renewed=True)

    def _obtain(
        self, session: AuthorizationSession, code: TokenSecret, brought: Mapping[str, str], lease: ExitStack
    ) -> TokenRecord:
        """Exchange ``code``; ``brought`` is what is kept of the callback."""
        grant, key = GrantType.AUTHORIZATION_CODE, session.key
        previous = self._tools.store.fetch(key)  # first: a store that cannot be read must not cost the code
        params = _exchange_params(session, code, self._endpoint.descriptor)
        now = self._tools.clock()
        call = self._endpoint.prepare(key.family, session.scope, grant, params, brought, now)
        sent_at = self._tools.clock()
        session.claim(sent_at)
        result = self._endpoint.send(call)
        if isinstance(result, TokenFailure):
            self._recover(session, result, brought, previous, sent_at, lease)
            raise result.error
        record = build_record(
            result,
            key,
            session.scope,
            issued_at=sent_at,
            descriptor=self._endpoint.descriptor,
        )
        record = _with_kept_refresh_token(record, previous)
        if not self._tools.keeper.save(record, previous, lease):
            self._tools.telemetry.note(RefreshResult.PERSIST_FAILED)
        return record

    def _recover(
        self,
        session: AuthorizationSession,
        failure: TokenFailure,
        brought: Mapping[str, str],
        previous: TokenRecord | None,
        sent_at: datetime,
        lease: ExitStack,
    ) -> None:
        """Say whether the code can be tried again; keep a refresh token that came all the same."""
        if failure.settled and failure.error.retryable:
            session.release()
        elif failure.error.retryable:  # the code may be spent: the same call will not succeed
            failure.error.retryable, failure.error.reauthorize = False, True
        if failure.refresh_token is None:
            return
        rescued = TokenRecord(
            family=session.key.family,
            scope=session.scope,
            resource=session.resource,
            access_token="",
            refresh_token=failure.refresh_token,
            issued_at=sent_at,
            expires_at=LONG_AGO,
            extra=read_extra(brought, self._endpoint.descriptor.quirks),
        )
        self._tools.keeper.save(rescued, previous, lease)


def _joined(
    ours: Mapping[str, str], descriptor_params: Mapping[str, str], extra_params: Mapping[str, str]
) -> dict[str, str]:
    """Add what the descriptor and the caller want to say; neither may override what we set."""
    params = dict(ours)
    for source, extras in (("authorization_params", descriptor_params), ("extra_params", extra_params)):
        for name, value in extras.items():
            if not oauth.is_form({name: value}):
                raise ConfigError(f"{source} maps strings to strings")
            if name in SET_BY_THE_BROKER or name in ours:
                raise ConfigError(f"{source} may not override {name}")
            params[name] = value
    return params


def _exchange_params(
    session: AuthorizationSession, code: TokenSecret, descriptor: ProviderDescriptor
) -> dict[str, str | TokenSecret]:
    params: dict[str, str | TokenSecret] = {"code": code, "redirect_uri": session.redirect_uri}
    if session.code_verifier:
        params["code_verifier"] = session.code_verifier
    return {**params, **oauth.format_resource(descriptor, session.resource)}


def _with_kept_refresh_token(record: TokenRecord, previous: TokenRecord | None) -> TokenRecord:
    """Some providers send a refresh token on first consent only: keep it, unless another user came back."""
    if record.refresh_token is not None or previous is None or previous.refresh_token is None:
        return record
    subjects = {read_subject(record.id_token), read_subject(previous.id_token)} - {None}
    if len(subjects) > 1:
        return record
    return replace(
        record,
        refresh_token=previous.refresh_token,
        refresh_expires_at=previous.refresh_expires_at,
        attempted_at=previous.attempted_at,
    )


def _denied(callback: Callback, descriptor: ProviderDescriptor) -> AuthorizationError:
    error = safe_text(callback.error, limit=64) or "unreadable"
    error = descriptor.quirks.error_codes.get(error, error)
    description = safe_text(callback.error_description)
    message = f"the authorization ended in {error}" + (f" ({description})" if description else "")
    return AuthorizationError(message, error=error, description=description)
