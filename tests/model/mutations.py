"""Mistakes to plant in the library: each undoes one thing that the protocol rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from oauth2broker import (
    BrokerError,
    CachedTokenRequest,
    CompareAndSwapOutcome,
    InvalidGrantError,
    StoreError,
    TokenRecord,
)
from oauth2broker.answers import TokenFailure
from oauth2broker.flows import cached, refresh, turn
from oauth2broker.flows.keeper import Keeper, Unsaved, write_surely
from oauth2broker.flows.refresh import _Renewal
from oauth2broker.records import StoreKey
from tests.model.explore import Setting
from tests.model.moves import Trouble


def bury_whatever_is_stored(patch: pytest.MonkeyPatch) -> None:
    """A tombstone is written without looking whether the store still holds what was refused."""

    def bury(self: _Renewal, attempted: TokenRecord, error: InvalidGrantError) -> None:
        self.tools.store.revoke(self.key, self.tools.clock())
        raise error

    patch.setattr(_Renewal, "_bury", bury)


def do_not_read_again(patch: pytest.MonkeyPatch) -> None:
    """Under the lease, what was read before it is taken for what is stored."""
    patch.setattr(_Renewal, "_fetch_alive", lambda self: self.seen)


def do_not_mark(patch: pytest.MonkeyPatch) -> None:
    """Nobody writes down that a refresh token is about to be presented."""
    patch.setattr(_Renewal, "_mark_attempt", lambda self, record, sent_at: record)


def ignore_marks(patch: pytest.MonkeyPatch) -> None:
    """A refresh token whose answer was lost is presented again at once."""
    patch.setattr(refresh, "seconds_to_settle", lambda *_: 0.0)


def settle_too_soon(patch: pytest.MonkeyPatch) -> None:
    """A lost answer is given up before the send must have ended."""
    settle = turn.seconds_to_settle
    patch.setattr(refresh, "seconds_to_settle", lambda *args: max(settle(*args) - 10.0, 0.0))


def save_instead_of_swapping(patch: pytest.MonkeyPatch) -> None:
    """What came is stored whatever is there."""

    def swap(self: _Renewal, expected: TokenRecord, replacement: TokenRecord) -> CompareAndSwapOutcome:
        self.tools.store.save(replacement)
        return CompareAndSwapOutcome.UPDATED

    patch.setattr(_Renewal, "_swap", swap)


def drop_what_is_unsaved(patch: pytest.MonkeyPatch) -> None:
    """A record that the store does not take is served, and forgotten."""

    def put(self: Keeper, write: Callable[[], Any], *_: object) -> Any:
        try:
            return write_surely(write, self._bounds.store)
        except StoreError:
            return None

    patch.setattr(Keeper, "put", put)


def let_go_of_the_lease_of_what_is_unsaved(patch: pytest.MonkeyPatch) -> None:
    """While a record is unsaved, others may renew what it replaces."""
    put = Keeper.put

    def without_lease(
        self: Keeper,
        write: Callable[[], Any],
        record: TokenRecord,
        replaced: TokenRecord | None,
        _: ExitStack,
    ) -> Any:
        return put(self, write, record, replaced, ExitStack())

    patch.setattr(Keeper, "put", without_lease)


def prefer_what_is_unsaved(patch: pytest.MonkeyPatch) -> None:
    """An unsaved record stands even when somebody has put another one there, or logged out."""
    patch.setattr(Unsaved, "stands_for", lambda self, stored: True)


def ignore_the_lease(patch: pytest.MonkeyPatch) -> None:
    """Processes do not keep out of each other's way."""

    @contextmanager
    def hold(self: Keeper, key: StoreKey, timeout: float) -> Iterator[ExitStack]:
        yield ExitStack()

    patch.setattr(Keeper, "_hold", hold)


def serve_what_was_rejected(patch: pytest.MonkeyPatch) -> None:
    """Who insists on another token is content with any when the renewal fails."""
    answer = cached.answer

    def plain(request: CachedTokenRequest, *args: Any) -> TokenRecord | BrokerError | None:
        return answer(CachedTokenRequest(request.tenant, request.principal, request.scope), *args)

    patch.setattr(cached, "answer", plain)


def lose_the_token_of_a_useless_answer(patch: pytest.MonkeyPatch) -> None:
    """A refresh token in an answer that cannot be used is thrown away with the rest."""
    note = _Renewal._note_failure

    def without_token(
        self: _Renewal, record: TokenRecord, attempted: TokenRecord, failure: TokenFailure
    ) -> None:
        note(self, record, attempted, replace(failure, refresh_token=None))

    patch.setattr(_Renewal, "_note_failure", without_token)


def ignore_back_off(patch: pytest.MonkeyPatch) -> None:
    """A provider that said when to come back is asked at once."""
    patch.setattr(refresh, "seconds_to_back_off", lambda *_: 0.0)


def take_every_failure_for_settled(patch: pytest.MonkeyPatch) -> None:
    """A timeout is taken for a refusal: the mark is cleared."""
    note = _Renewal._note_failure

    def settled(self: _Renewal, record: TokenRecord, attempted: TokenRecord, failure: TokenFailure) -> None:
        note(self, record, attempted, replace(failure, settled=True))

    patch.setattr(_Renewal, "_note_failure", settled)


def do_not_pass_on_a_death(patch: pytest.MonkeyPatch) -> None:
    """A grant that the provider refused for good is not marked as dead."""

    def bury(self: _Renewal, attempted: TokenRecord, error: InvalidGrantError) -> None:
        raise error

    patch.setattr(_Renewal, "_bury", bury)


@dataclass(frozen=True, slots=True)
class Planted:
    """A mistake, and where it comes to light."""

    mutation: Callable[[pytest.MonkeyPatch], None]
    setting: Setting


def _planted(
    mutation: Callable[[pytest.MonkeyPatch], None],
    *troubles: Trouble,
    kind: str = "plain",
    state: str = "expired",
) -> Planted:
    calls = (("plain", 0), (kind, 1), (kind, 0))
    return Planted(mutation, Setting(calls, state, frozenset(troubles)))


MUTATIONS: tuple[Planted, ...] = (
    _planted(bury_whatever_is_stored, Trouble.LOGIN, kind="force"),
    _planted(do_not_read_again),
    _planted(do_not_mark, Trouble.ANSWERS, Trouble.TIME),
    _planted(ignore_marks, Trouble.ANSWERS, Trouble.TIME),
    _planted(settle_too_soon, Trouble.ANSWERS, Trouble.TIME),
    _planted(take_every_failure_for_settled, Trouble.ANSWERS, Trouble.TIME),
    _planted(save_instead_of_swapping, Trouble.LOGOUT),
    _planted(drop_what_is_unsaved, Trouble.STORE),
    _planted(let_go_of_the_lease_of_what_is_unsaved, Trouble.STORE, Trouble.TIME),
    _planted(prefer_what_is_unsaved, Trouble.STORE, Trouble.LOGOUT),
    _planted(ignore_the_lease, kind="force"),
    _planted(serve_what_was_rejected, Trouble.PROVIDER, kind="rejecting", state="fresh"),
    _planted(lose_the_token_of_a_useless_answer, Trouble.PROVIDER),
    _planted(ignore_back_off, Trouble.PROVIDER),
    _planted(do_not_pass_on_a_death, Trouble.LOGOUT),
)
