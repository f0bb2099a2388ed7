"""A strict authorization server without a network: it rotates, and revokes a grant on reuse of a spent token.

It keeps a ledger of *presentations*: which credential was presented, when by the clock of the model,
whether it was processed, and what became of the answer. The rules read that ledger. Tokens are called
``rt-G-N`` and ``at-G-N``: grant G, and N-th token issued.

``ModelTransport`` is what the brokers send through. A send pauses twice: on its way to the provider, and
while the answer is on its way back. It never lasts longer than 30 seconds. A request whose sender lost
patience or died is a *ghost*: until these 30 seconds are over the provider may still process it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from oauth2broker import (
    BrokerError,
    GrantType,
    HttpRequest,
    HttpResponse,
    ProviderDescriptor,
    ProviderStrategy,
    ResponseMetadata,
    ResponseMetadataSlot,
    RotationPolicy,
    TransportError,
)
from tests.model.scheduler import Order, Scheduler, Task

if TYPE_CHECKING:
    from tests.model.rules import Rules

LONGEST_SEND = 30.0
LIFETIME = 100.0
RETRY_AFTER = 20
TOKEN_ENDPOINT = "https://provider.example.com/token"
REVOCATION_ENDPOINT = "https://provider.example.com/revoke"

DESCRIPTOR = ProviderDescriptor(
    "model",
    TOKEN_ENDPOINT,
    {GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN},
    authorization_endpoint="https://provider.example.com/authorize",
    revocation_endpoint=REVOCATION_ENDPOINT,
    rotation=RotationPolicy.SOMETIMES,
)


@dataclass(eq=False)
class Grant:
    """One consent. ``current`` is the only refresh token that works."""

    number: int
    alive: bool = True
    current: str = ""
    ended_at: int | None = None  # the step at which the store stopped to hold it
    is_uncertain: bool = False  # its login does not know whether the store has taken it

    def __str__(self) -> str:
        return f"grant {self.number}"


@dataclass(eq=False)
class Presentation:
    """A refresh token, or a code, on its way to the provider and what became of it.

    ``excused``: neither its sender nor anybody else can know what it brought, or remember it.
    """

    token: str
    task: Task
    sent_at: float
    turnover: int = 0  # of the store, when the sender read what it is about to replace
    processed: bool = False
    in_flight: bool = True
    ghost: bool = False
    excused: bool = False
    grant: Grant | None = None
    successor: str | None = None
    delivered: bool = False
    stored: bool = False
    released: bool = False


@dataclass(eq=False)
class Provider:
    """The authorization server."""

    rules: Rules
    grants: list[Grant] = field(default_factory=list)
    presentations: list[Presentation] = field(default_factory=list)
    codes: dict[str, bool] = field(default_factory=dict)
    codes_made: int = 0
    owner_of: dict[str, Grant] = field(default_factory=dict)
    number_of: dict[str, int] = field(default_factory=dict)
    step_of: dict[str, int] = field(default_factory=dict)
    reuses: int = 0

    def new_grant(self) -> Grant:
        grant = Grant(len(self.grants) + 1)
        self.grants.append(grant)
        return grant

    def issue(self, grant: Grant, *, rotate: bool = True) -> dict[str, Any]:
        """Give a success answer for ``grant``."""
        answer: dict[str, Any] = {"token_type": "Bearer", "expires_in": LIFETIME}
        answer["access_token"] = self._new_token("at", grant)
        if rotate:
            grant.current = answer["refresh_token"] = self._new_token("rt", grant)
        return answer

    def new_code(self, *, replaces: bool) -> str:
        """Give a code; ``replaces``: the grants that were there die when it is exchanged."""
        self.codes_made += 1
        code = f"code-{self.codes_made}"
        self.codes[code] = replaces
        return code

    def log_in(self, grant: Grant, *, replaces: bool) -> dict[str, Any]:
        """Give the answer to a code for ``grant``; ``replaces``: all others die."""
        for each in self.grants:
            each.alive = each is grant or (each.alive and not replaces)
        return self.issue(grant)

    def process(self, shown: Presentation, *, rotate: bool = True) -> dict[str, Any]:
        """Do what the token endpoint does, and give the answer."""
        shown.processed, shown.ghost = True, False
        grant = shown.grant
        if shown.token in self.codes:
            shown.grant = grant = self.new_grant()
            answer = self.log_in(grant, replaces=self.codes.pop(shown.token))
        else:
            if grant is None or not grant.alive:
                return {"error": "invalid_grant"}
            if shown.token != grant.current:
                grant.alive = False
                self.reuses += 1
                self.rules.reused(shown)
                return {"error": "invalid_grant"}
            answer = self.issue(grant, rotate=rotate)
        shown.successor = grant.current
        return answer

    def revoke(self, token: str) -> None:
        """Do what the revocation endpoint does (RFC 7009)."""
        grant = self.owner_of.get(token)
        if grant is not None:
            grant.alive = False

    def _new_token(self, kind: str, grant: Grant) -> str:
        number = len(self.number_of) + 1
        token = f"{kind}-{grant.number}-{number}"
        self.owner_of[token], self.number_of[token] = grant, number
        self.step_of[token] = self.rules.step()
        return token


class Unsent(Exception):  # noqa: N818 - says what happened
    """Nothing of a request went out."""


class ModelErrorMapper:
    """Knows the two ways in which the transport of the model fails."""

    def map_transport_error(
        self,
        strategy: ProviderStrategy,
        grant: GrantType,
        metadata: ResponseMetadata | None,
        error: Exception,
    ) -> BrokerError:
        return TransportError("no answer", sent=not isinstance(error, Unsent))


_REFUSALS: dict[Order, HttpResponse] = {
    Order.UNAVAILABLE: HttpResponse(503, {"retry-after": str(RETRY_AFTER)}, b""),
    Order.BAD_CLIENT: HttpResponse(401, {}, b'{"error": "invalid_client"}'),
    Order.GARBAGE: HttpResponse(502, {"content-type": "text/html"}, b"<html>"),
}
_ON_THE_WAY = (Order.GO, Order.LOSE, Order.KEEP, Order.UNSENT, *_REFUSALS)
_ON_THE_WAY_BACK = (Order.GO, Order.LOSE, Order.GARBAGE, Order.USELESS)


@dataclass(eq=False)
class ModelTransport:
    """Sends to the provider of the model, under its scheduler."""

    scheduler: Scheduler
    provider: Provider

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        metadata.take()
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if request.url == REVOCATION_ENDPOINT:
            return self._revoke(form["token"])
        return self._present(form.get("refresh_token") or form["code"])

    def _revoke(self, token: str) -> HttpResponse:
        until = self.scheduler.mono + LONGEST_SEND
        order = self._pause(f"revoking {token}", (Order.GO, Order.LOSE, Order.UNAVAILABLE), until)
        if order is Order.UNAVAILABLE:
            return _REFUSALS[order]
        self.provider.revoke(token)
        if order is Order.LOSE:
            raise TimeoutError
        return HttpResponse(200, {}, b"")

    def _present(self, token: str) -> HttpResponse:
        task = self.scheduler.current
        assert task is not None
        shown = Presentation(token, task, self.scheduler.mono)
        shown.grant = self.provider.owner_of.get(token)
        self.provider.rules.presenting(shown)
        self.provider.presentations.append(shown)
        try:
            return self._exchange(shown)
        except BaseException as error:
            shown.excused = not isinstance(error, Unsent)
            raise
        finally:
            shown.in_flight = False
            shown.ghost = shown.excused and not shown.processed

    def _exchange(self, shown: Presentation) -> HttpResponse:
        until = shown.sent_at + LONGEST_SEND
        order = self._pause(f"presenting {shown.token}", _ON_THE_WAY, until)
        if order is Order.UNSENT:
            raise Unsent
        if order is Order.LOSE:
            raise TimeoutError
        if order in _REFUSALS:
            shown.excused = order is Order.GARBAGE  # which tells the sender nothing
            return _REFUSALS[order]
        answer = self.provider.process(shown, rotate=order is not Order.KEEP)
        options = _ON_THE_WAY_BACK if shown.successor else _ON_THE_WAY_BACK[:3]
        order = self._pause(f"answer to {shown.token}", options, until)
        if order is Order.LOSE:
            raise TimeoutError
        if order is Order.GARBAGE:
            shown.excused = True
            return _REFUSALS[order]
        if order is Order.USELESS:
            answer["refresh_token"] = shown.successor
            del answer["access_token"]
        shown.delivered = True
        return HttpResponse(200 if shown.successor else 400, {}, json.dumps(answer).encode())

    def _pause(self, label: str, orders: Sequence[Order], until: float) -> Order:
        """Stop, for as long as a send may last; then there is no answer."""

        def options() -> Sequence[Order]:
            return orders if self.scheduler.mono < until else (Order.LOSE,)

        return self.scheduler.pause(label, options, until)
