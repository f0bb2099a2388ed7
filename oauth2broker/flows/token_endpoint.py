"""One call to the provider: ask the budget, build, send, read. Decides nothing about records."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from oauth2broker import answers, oauth
from oauth2broker.answers import TokenFailure
from oauth2broker.client import Client
from oauth2broker.errors import BrokerError, ConfigError, DelayedError, TransientError, TransportError
from oauth2broker.ext.rate_limit import (
    Delay,
    RateLimitContext,
    RateLimitDecision,
    RateLimitPolicy,
    RetryDirective,
)
from oauth2broker.flows.telemetry import Call, Telemetry
from oauth2broker.flows.transport import CallAmendments, Transport, call_amendments
from oauth2broker.grants import GrantType
from oauth2broker.obs import RefreshResult, logger
from oauth2broker.payloads import TokenAnswer
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.provider.strategy import CallbackContext, ProviderStrategy
from oauth2broker.records import TokenFamily, TokenRecord
from oauth2broker.scopes import ScopeSet
from oauth2broker.secret import TokenSecret
from oauth2broker.transports.base import (
    HttpRequest,
    HttpResponse,
    ResponseMetadata,
    ResponseMetadataSlot,
    TransportErrorMapper,
)

_COME_BACK_LATER = {429, 503}
_ENDPOINTS = {GrantType.REFRESH_TOKEN: Endpoint.REFRESH}
_SHORT_PAUSE = 1.0  # seconds, where the provider does not say how long


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A token request ready to be sent, the secrets in it, and what is kept of the callback before it.

    ``budget`` is what the rate limit policy was told of it.
    """

    grant: GrantType
    request: HttpRequest
    secrets: tuple[TokenSecret, ...] = field(repr=False)
    callback: Mapping[str, str] = field(repr=False)
    budget: RateLimitContext


class TokenEndpoint:
    """The provider as one client sees it. Safe to share between threads."""

    def __init__(
        self,
        descriptor: ProviderDescriptor,
        strategy: ProviderStrategy,
        client: Client,
        transport: Callable[[], Transport],
        rate_limit: RateLimitPolicy | None,
        clock: Callable[[], datetime],
        telemetry: Telemetry,
    ) -> None:
        self.descriptor = descriptor
        self.strategy = strategy
        self.client = client
        self._transport = transport
        self._rate_limit = rate_limit
        self._clock = clock
        self._telemetry = telemetry

    def prepare(
        self,
        family: TokenFamily,
        scope: ScopeSet,
        grant: GrantType,
        params: Mapping[str, str | TokenSecret],
        extra: Mapping[str, Any],
        now: datetime,
    ) -> PreparedCall:
        """Build the token request that presents ``params``, if the budget allows for the call.

        Raises what keeps it from being built. ``extra`` is what is kept with the record, or what its callback
        brought.
        """
        budget = RateLimitContext(family.tenant, family.provider, scope, grant, now)
        if self._rate_limit is not None:
            _require_allowed(self._rate_limit.evaluate, budget)
        built = oauth.build_token_request(
            self.descriptor, self.strategy, self.client, grant, params, extra, now
        )
        if isinstance(built, BrokerError):
            raise built
        brought = extra if grant is GrantType.AUTHORIZATION_CODE else {}
        return PreparedCall(grant, built.request, built.secrets, brought, budget)

    def look_again(self, call: PreparedCall) -> None:
        """Raise :class:`DelayedError` when the provider has asked for a pause since ``call`` was allowed."""
        ask = getattr(self._rate_limit, "look_again", None)
        if ask is not None:
            _require_allowed(ask, replace(call.budget, now=self._clock()))

    def send(self, call: PreparedCall) -> TokenAnswer | TokenFailure:
        """Send ``call`` once and read the answer. Never raises."""
        result = self._exchange(call)
        if isinstance(result, TokenFailure) and result.error.status in _COME_BACK_LATER:
            self._tell_policy(call.budget, result.error)
        if isinstance(result, TokenFailure) and not result.settled:
            self._telemetry.note(RefreshResult.UNKNOWN)
        return result

    def revoke(self, record: TokenRecord, now: datetime) -> None:
        """Revoke the grant of ``record`` at the provider (RFC 7009); does nothing where it has no endpoint.

        A provider that cannot revoke this kind of token, or no longer knows it, counts as done.
        """
        url = self.descriptor.revocation_endpoint
        if url is None:
            return
        built = oauth.build_revocation_request(self.descriptor, self.strategy, self.client, url, record, now)
        if isinstance(built, BrokerError):
            raise built
        if built is None:
            return
        failure: TokenFailure | None
        with self._call(Endpoint.REVOCATION, built.request) as told:
            response = self._send(record.grant, built.request, told)
            if isinstance(response, TokenFailure):
                failure = response
            else:
                failure = answers.read_revocation_failure(
                    response, record.grant, self.descriptor, self.strategy, built.secrets
                )
            told.ends_in(None if failure is None else failure.error)
        if failure is not None:
            raise failure.error

    def revoke_quietly(self, record: TokenRecord, now: datetime) -> None:
        """Revoke what nobody will use; a failure is logged."""
        try:
            self.revoke(record, now)
        except BrokerError as error:
            logger.warning("an unused grant could not be revoked: %s", type(error).__name__)

    def check_callback(self, params: Mapping[str, str]) -> BrokerError | None:
        """Give what the strategy has against a callback. Never raises: ``params`` hold a code."""
        hook = getattr(self.strategy.check_callback, "__func__", None)
        if hook is ProviderStrategy.check_callback:
            return None  # without asking where the secret is kept
        secret = None if self.client.secret is None else self.client.secret.read()
        if isinstance(secret, BrokerError):
            return secret
        context = CallbackContext(params, self.descriptor.token_endpoint, secret)
        return oauth.call_hook("check_callback", lambda: self.strategy.check_callback(context))

    def _exchange(self, call: PreparedCall) -> TokenAnswer | TokenFailure:
        amendments = call_amendments.get()
        request = call.request if amendments is None else amendments.amend_request(call.grant, call.request)
        if isinstance(request, BrokerError):
            return TokenFailure(request, settled=True)
        with self._call(_ENDPOINTS.get(call.grant, Endpoint.TOKEN), request) as told:
            response = self._send(call.grant, request, told)
            result = (
                response if isinstance(response, TokenFailure) else self._read(call, response, amendments)
            )
            told.ends_in(result.error if isinstance(result, TokenFailure) else None)
        return result

    def _read(
        self, call: PreparedCall, response: HttpResponse, amendments: CallAmendments | None
    ) -> TokenAnswer | TokenFailure:
        if amendments is not None:
            response = amendments.amend_response(call.grant, response)
        try:
            return answers.read_token_answer(
                response, call.grant, self.descriptor, self.strategy, call.secrets, call.callback
            )
        except Exception as raised:  # noqa: BLE001 - the last guard of an answer that may hold a new token
            return TokenFailure(TransientError(f"no sense in the answer ({type(raised).__name__})"), False)

    def _tell_policy(self, budget: RateLimitContext, error: BrokerError) -> None:
        """Let a policy that wants to know learn that the provider asked for a pause."""
        hold_back = getattr(self._rate_limit, "hold_back", None)
        if hold_back is None:
            return
        seconds = _SHORT_PAUSE if error.retry_after is None else error.retry_after
        try:
            hold_back(
                replace(budget, now=self._clock()),
                RetryDirective(seconds, f"the provider answered {error.status}"),
            )
        except Exception as raised:  # noqa: BLE001 - a policy may raise anything, and a token may have come
            logger.warning("the rate limit policy failed: %s", type(raised).__name__)

    def _call(self, endpoint: Endpoint, request: HttpRequest) -> AbstractContextManager[Call]:
        """Tell of a call to the provider."""
        described = self.descriptor
        known = described.token_endpoint, described.refresh_endpoint, described.revocation_endpoint
        return self._telemetry.call(endpoint, request.method, request.url, known)

    def _send(self, grant: GrantType, request: HttpRequest, told: Call) -> HttpResponse | TokenFailure:
        transport, slot = self._transport(), ResponseMetadataSlot()
        try:
            with told:
                response = transport.client.send(request, slot)
        except Exception as raised:  # noqa: BLE001 - a transport may raise anything
            return self._failure(transport.mapper, grant, slot.take(), raised)
        is_one = isinstance(response, HttpResponse)
        if is_one and type(response.status) is int and type(response.body) is bytes:
            told.status = response.status
            return response
        error = TransportError(f"the transport gave no whole HttpResponse but {type(response).__name__}")
        return TokenFailure(error, settled=False)

    def _failure(
        self,
        mapper: TransportErrorMapper,
        grant: GrantType,
        metadata: ResponseMetadata | None,
        raised: Exception,
    ) -> TokenFailure:
        error: object = None
        try:
            error = mapper.map_transport_error(self.strategy, grant, metadata, raised)
        except Exception as failed:  # noqa: BLE001 - so may a mapper
            logger.warning("the transport error mapper failed: %s", type(failed).__name__)
        if not isinstance(error, BrokerError):
            error = TransportError(f"the transport failed ({type(raised).__name__})")
        never_sent = isinstance(error, TransportError) and not error.sent
        refused_here = isinstance(raised, ConfigError)  # the transport would not send it
        turned_away = metadata is not None and metadata.status in _COME_BACK_LATER
        return TokenFailure(copy.copy(error), settled=never_sent or refused_here or turned_away)


def _require_allowed(ask: Callable[[RateLimitContext], RateLimitDecision], context: RateLimitContext) -> None:
    """Raise :class:`DelayedError` when the rate limit policy says to come back later."""
    failed: str | None = None
    delay: RetryDirective | None = None
    try:
        decision = ask(context)
        if not isinstance(decision, RateLimitDecision):
            failed = f"it decided {type(decision).__name__}"
        if isinstance(decision, Delay):
            delay = RetryDirective(decision.directive.retry_after, decision.directive.reason)
    except BrokerError:
        raise
    except Exception as raised:  # noqa: BLE001 - a policy may raise anything
        failed = type(raised).__name__
    if failed is not None:
        raise ConfigError(f"the rate limit policy failed ({failed})")
    if delay is not None:
        raise DelayedError(f"not called: {delay.reason}", retry_after=delay.retry_after)
