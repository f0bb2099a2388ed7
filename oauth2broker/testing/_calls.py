"""What the token endpoint remembers about the calls it got: everything but the secrets."""

import itertools
import threading
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime

from oauth2broker.testing.faults import Fault

_NO_FAULT = Fault()


@dataclass(frozen=True, slots=True)
class TokenCall:
    """One call of the token endpoint. Holds no secret.

    `grant_type` and `client_id` are empty when the request could not be read. `status` is None as
    long as nothing has been answered: for good when a fault swallowed the answer. `error` is the
    `error` member of the answer's JSON. `at` is the time of arrival by the provider's clock.
    """

    grant_type: str
    client_id: str
    status: int | None
    error: str | None
    at: datetime


class CallLog:
    """The calls in order of arrival, and the faults that wait for the next ones. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._calls: dict[int, TokenCall] = {}
        self._faults: deque[Fault] = deque()

    def inject(self, fault: Fault, times: int) -> None:
        """Queue a fault for the next `times` calls that have none yet."""
        with self._lock:
            self._faults.extend([fault] * times)

    def arrive(self, grant_type: str, client_id: str, at: datetime) -> tuple[int, Fault]:
        """Record a call; give its number and the fault it has to suffer."""
        call = TokenCall(grant_type, client_id, None, None, at)
        with self._lock:
            number = next(self._numbers)
            self._calls[number] = call
            return number, self._faults.popleft() if self._faults else _NO_FAULT

    def finish(self, number: int, status: int, error: str | None) -> None:
        """Record what a call is answered, unless it has been forgotten meanwhile."""
        with self._lock:
            if (call := self._calls.get(number)) is not None:
                self._calls[number] = replace(call, status=status, error=error)

    def snapshot(self) -> tuple[TokenCall, ...]:
        """Give the calls so far, in order of arrival."""
        with self._lock:
            return tuple(self._calls.values())

    def clear(self) -> None:
        """Forget the calls; faults that wait go on waiting."""
        with self._lock:
            self._calls.clear()
