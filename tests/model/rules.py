"""What must hold after every step, whatever the schedule; numbered as in the list in ``test_model``.

The rules watch: the store tells them of every fetch and write, the provider of every presentation, the
world of every step and of every call that ended. They never raise in a task, where the library might catch
it; what they find is kept in ``broken`` and raised by the world after the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oauth2broker import (
    BrokerError,
    ConfigError,
    InvalidClientError,
    StoreError,
    TokenRecord,
    TokenSecret,
)
from oauth2broker.flows.request import Need
from tests.model.provider import Grant, Presentation

if TYPE_CHECKING:
    from tests.model.world import Call, World

SETTLED = 33.0
"""No answer arrives that long after a send: 35 seconds after the attempt was written down, which may have
taken two."""


class Rules:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.broken: list[str] = []
        self.turnover = 0
        self.troubles = 0
        self.store_failures = 0
        self._world = world
        self._last_dead_step = -1

    def step(self) -> int:
        """Give the number of the step that is being made."""
        return self._world.step

    def require(self, holds: bool, what: str) -> None:
        """Note that ``what`` happened unless it ``holds``."""
        if not holds:
            self.broken.append(what)

    # The provider tells.

    def presenting(self, shown: Presentation) -> None:
        """1: a token is not presented while an answer to it may arrive, nor (2) when its answer is known."""
        call, now = self._world.current_call(), self._world.scheduler.mono
        shown.turnover = call.turnover if call is not None and call.kind == "login" else self.turnover
        for earlier in self._presentations_of(shown.token):
            self.require(not earlier.in_flight, f"1: {shown.token} is presented twice at the same time")
            if earlier.excused:
                soon = now - earlier.sent_at < SETTLED
                self.require(not soon, f"1: {shown.token} is presented while an answer may arrive")
            elif earlier.delivered and earlier.successor is None:
                self.require(False, f"2: {shown.token} is presented though it was refused for good")
        stored = None if shown.grant is None else self._world.store.record  # a code need not wait
        if stored is not None and stored.retry_at is not None and stored.attempted_at is not None:
            left = (stored.retry_at - stored.attempted_at).total_seconds()
            self.require(not 0 < left <= 3600, "the provider is asked before `retry_at`")

    def reused(self, shown: Presentation) -> None:
        """2: the provider sees a spent token once for each answer that was lost, else never."""
        earlier = [p for p in self._presentations_of(shown.token) if p is not shown]
        lost = sum(p.excused for p in earlier)
        again = sum(p.processed and p.successor is None for p in earlier)
        self.require(lost > again, f"2: {shown.token} is spent, and presented though no answer was lost")

    # The store tells.

    def fetched(self, record: TokenRecord | None) -> None:
        """Keep what a caller saw on entry."""
        call = self._world.current_call()
        if call is not None and not call.has_read:
            call.seen, call.has_read, call.turnover = record, True, self.turnover

    def store_failed(self, label: str, taken: TokenRecord | None = None) -> None:
        """Take note that a call of the store failed; whoever was to write something down could not.

        Or does not know that it could: the record was ``taken``.
        """
        grant = self.grant_of(taken)
        if label == "save" and grant is not None:
            grant.is_uncertain = True
        self.store_failures += 1
        self.troubles += 1
        task = self._world.scheduler.current
        if task is not None:
            task.owner.store_failed_at = self._world.step
        shown = self._last_shown()
        if label == "revoke" and shown is not None:
            shown.excused = True  # the dead grant could not be marked

    def wrote(self, label: str, before: TokenRecord | None, after: TokenRecord | None) -> None:
        """4 and 5: what a write did to the record."""
        old, new = self.grant_of(before), self.grant_of(after)
        if old is not new and old is not None:
            old.ended_at = self._world.step
        if old is not new or (old is None and before != after):
            self.turnover += 1
        if new is not None and self._is_own_login(new):
            new.ended_at = None  # a logout while the login is under way came before it, then
        elif new is not None and not new.is_uncertain:
            self.require(new.ended_at is None, f"4: {new}, which had ended, is alive in the store again")
        for shown in self._world.provider.presentations:
            shown.stored |= shown.successor is not None and self.holds(after, shown.successor)
        if label == "revoke" and old is not None and new is None and before is not None:
            self._buried(before)

    def _is_own_login(self, grant: Grant) -> bool:
        call, shown = self._world.current_call(), self._last_shown()
        return call is not None and call.kind == "login" and shown is not None and shown.grant is grant

    def _buried(self, before: TokenRecord) -> None:
        call, shown = self._world.current_call(), self._last_shown()
        if call is None or call.kind in {"logout", "login"}:
            return
        is_refused = shown is not None and shown.delivered and shown.successor is None
        is_its = shown is not None and self.holds(before, shown.token)
        self.require(is_refused and is_its, "5: what is buried is not what was refused")

    # The world tells.

    def stepped(self) -> None:
        """3: no successor is lost. Then note whether the grant is dead at this moment."""
        for shown in self._world.provider.presentations:
            if shown.delivered and shown.successor and not shown.released:
                self._require_kept(shown, shown.successor)
        if self._is_dead():
            self._last_dead_step = self._world.step

    def ended(self, call: Call) -> None:
        """6: a call ends in a record that answers it, or in the right error."""
        if call.killed or isinstance(call.error, KeyboardInterrupt):
            return
        if call.error is None:
            self._require_answer(call)
        elif isinstance(call.error, BrokerError):
            self._require_cause(call, call.error)
        else:
            self.require(False, f"6: {call.name} raised {call.error!r}")

    def grant_of(self, record: TokenRecord | None) -> Grant | None:
        """Give the grant that a record keeps alive."""
        if record is None or record.revoked_at is not None:
            return None
        token = record.refresh_token or record.access_token
        return self._world.provider.owner_of.get(token.expose())

    def holds(self, record: TokenRecord | None, token: str) -> bool:
        """Whether ``token`` is the refresh token of ``record``."""
        return record is not None and record.refresh_token == TokenSecret(token)

    def knows(self, token: str) -> bool:
        """Whether ``token`` is in the store or in a process, or in the hands of one that will write it."""
        copies = [self._world.store.record]
        for process in self._world.processes:
            copies += [kept.record for kept in process.keeper.unsaved.values()]
        if any(self.holds(copy, token) for copy in copies):
            return True
        return any(
            shown.successor == token and not shown.task.ended and not shown.excused
            for shown in self._world.provider.presentations
        )

    def _require_kept(self, shown: Presentation, successor: str) -> None:
        grant = shown.grant
        assert grant is not None
        is_replaced = not shown.stored and shown.turnover != self.turnover
        if shown.excused or is_replaced or successor != grant.current or grant.ended_at is not None:
            shown.released = True
            return
        self.require(self.knows(successor), f"3: {successor} came, and nobody has it any more")

    def _is_dead(self) -> bool:
        record, grant = self._world.store.record, self.grant_of(self._world.store.record)
        if record is None or grant is None or record.refresh_token is None or not grant.alive:
            return True
        return not self.knows(grant.current)

    def _require_answer(self, call: Call) -> None:
        record = call.record
        if call.kind == "logout":
            is_done = record is None or record.revoked_at is not None
            self.require(is_done, "6: a logout gives what is no tombstone")
        elif record is None or record.revoked_at is not None or not record.access_token:
            self.require(False, f"6: {call.name} got no token")
        elif call.kind != "login":
            self._require_wanted(call, record)
            self._require_usable(call, record)

    def _require_wanted(self, call: Call, record: TokenRecord) -> None:
        """6: neither what was rejected, nor what was seen on entry, nor anything older."""
        self.require(not call.request.rejects(record), f"6: {call.name} got the token it rejected")
        seen, provider = call.seen, self._world.provider
        if seen is None or not seen.access_token or not (call.request.force or call.request.rejects(seen)):
            return
        token = record.access_token.expose()
        if self.grant_of(seen) is provider.owner_of[token]:
            ahead = provider.number_of[token] - provider.number_of[seen.access_token.expose()]
            no_telling = record.issued_at == seen.issued_at or self._is_just_obtained(token, call)
            self.require(
                ahead > 0 or (ahead < 0 and no_telling),
                f"6: {call.name} insists on another token, and got what is no newer",
            )

    def _is_just_obtained(self, token: str, call: Call) -> bool:
        """Whether a flight that ``call`` was in may have obtained it: such a token is served to all in it."""
        return self._world.provider.step_of[token] >= call.origin

    def _require_usable(self, call: Call, record: TokenRecord) -> None:
        """6 and 4: it serves, or has just been obtained, and its grant had not ended before."""
        token, provider = record.access_token.expose(), self._world.provider
        is_usable = call.request.window_at(record, self._world.now()) is not Need.MANDATORY
        is_new = self._is_just_obtained(token, call)
        self.require(is_usable or is_new, f"6: {call.name} got {token}, which no longer serves")
        grant = provider.owner_of[token]
        gone = grant.ended_at is not None and grant.ended_at < call.origin and not grant.is_uncertain
        knew = call.owner.store_failed_at < call.origin  # a store that is down tells of no logout
        self.require(not (gone and knew), f"4: {call.name} got {token}, whose grant had ended before")

    def _require_cause(self, call: Call, error: BrokerError) -> None:
        what = f"6: {call.name} got {type(error).__name__} ({error})"
        if call.kind == "login":
            self.require(self.troubles > 0, f"{what} and nothing had gone wrong")
            return
        if error.reauthorize:
            self.require(self._last_dead_step >= call.origin, f"{what}, but the grant lives")
            return
        self.require(self.troubles > 0, f"{what} and nothing had gone wrong")
        if isinstance(error, StoreError):
            self.require(self.store_failures > 0, f"{what}, but the store did not fail")
        if isinstance(error, ConfigError):
            self.require(isinstance(error, InvalidClientError), what)

    def _last_shown(self) -> Presentation | None:
        """Give what the task that runs presented last."""
        task = self._world.scheduler.current
        found = [p for p in self._world.provider.presentations if p.task is task]
        return found[-1] if found else None

    def _presentations_of(self, token: str) -> list[Presentation]:
        return [p for p in self._world.provider.presentations if p.token == token]
