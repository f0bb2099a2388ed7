"""Logins between sending a user away and their coming back, in any mapping of text to text."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from oauth2broker.errors import BackendError, BrokerError, StateMismatchError
from oauth2broker.flows.broker import Broker
from oauth2broker.flows.session import AuthorizationSession
from oauth2broker.forking import forget_in_children
from oauth2broker.records import StoreKey
from oauth2broker.secret import TokenSecret, usable_secret

_MOST_LOGINS = 10_000
Result = TypeVar("Result")


class LoginsHere(MutableMapping[str, str]):
    """Logins of this process; expired ones are dropped, and the oldest of too many. Thread-safe."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # itself, whatever is in it

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._texts: dict[str, tuple[datetime, str]] = {}
        self._lock = threading.Lock()
        forget_in_children(self)

    def forget_after_fork(self) -> None:
        """Whoever held the lock is not in the child."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{len(self)} logins under way>"

    def __setitem__(self, state: str, text: str) -> None:
        expires_at, now = AuthorizationSession.from_json(text).expires_at, self._clock()
        with self._lock:
            self._texts[state] = expires_at, text
            while self._texts:
                oldest, (until, _) = next(iter(self._texts.items()))
                if until > now and len(self._texts) <= _MOST_LOGINS:
                    break
                del self._texts[oldest]

    def __getitem__(self, state: str) -> str:
        with self._lock:
            return self._texts[state][1]

    def __delitem__(self, state: str) -> None:
        with self._lock:
            del self._texts[state]

    def pop(self, state: str, default: Any = None) -> Any:
        """Give and forget; of two threads one gets it."""
        with self._lock:
            return self._texts.pop(state, (None, default))[1]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._texts))

    def __len__(self) -> int:
        return len(self._texts)


_here: weakref.WeakKeyDictionary[Broker, LoginsHere] = weakref.WeakKeyDictionary()
"""Of each broker, for as long as it lives: a callback is served by another session than the login was."""


def logins_here(broker: Broker) -> LoginsHere:
    """Give the logins that are under way in this process for ``broker``."""
    found = _here.get(broker)
    return _here.setdefault(broker, LoginsHere(broker.clock)) if found is None else found


class PendingLogins:
    """Reads and writes the caller's mapping, and makes a :class:`BackendError` of what it raises."""

    def __init__(self, texts: MutableMapping[str, str]) -> None:
        self._texts = texts

    def keep(self, state: str, text: TokenSecret) -> None:
        """Remember the JSON of a login under its state."""
        _asked(lambda: self._texts.__setitem__(state, text.expose()))

    def recall(self, state: str, key: StoreKey) -> tuple[AuthorizationSession, TokenSecret]:
        """Take out the login of ``state``: of two callbacks one gets it. Gives its JSON, too.

        Raises :class:`StateMismatchError` for an unknown one, and for one that is not for ``key``: somebody
        else's callback may have been slipped to our user (RFC 6749 section 10.12).
        """
        kept = _asked(lambda: _text(self._texts.get(state)))
        session = None if kept is None else AuthorizationSession.from_json(kept.expose())
        if kept is None or session is None or session.key != key:
            raise StateMismatchError("no login of this principal is under way with the callback's state")
        if _asked(lambda: _text(self._texts.pop(state, None))) is None:
            raise StateMismatchError("this login has been completed already")
        return session, kept


def callback_text(callback: str | Mapping[str, Any] | None) -> TokenSecret | None:
    """Give a callback, which holds a code, as a secret: its URL, or its parameters as a query string."""
    if callback is None or callback == "":
        return None
    if isinstance(callback, Mapping):
        getlist = getattr(callback, "getlist", None)  # the multi-dicts of Flask and Django
        values = {name: getlist(name) if callable(getlist) else callback[name] for name in callback}
        return TokenSecret(urlencode(values, doseq=True))
    return TokenSecret(callback if isinstance(callback, str) else "?")


def _text(value: Any) -> TokenSecret | None:
    return usable_secret(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)


def _asked(call: Callable[[], Result]) -> Result:
    error: BrokerError
    try:
        return call()
    except BrokerError as raised:
        error = copy.copy(raised)  # without its traceback, whose frames hold a code verifier
    except Exception as raised:  # noqa: BLE001 - a mapping may raise anything
        error = BackendError(f"the mapping of pending logins failed ({type(raised).__name__})")
    raise error
