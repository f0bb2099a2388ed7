"""What `FakeProvider` and its APIs were told to answer, in order."""

from __future__ import annotations

import json as json_format
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.testing._answer import Answer


@dataclass(frozen=True, slots=True)
class Issue:
    """A success whose answer has these members."""

    members: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"will_issue({', '.join(self.members)})"


@dataclass(frozen=True, slots=True)
class Refuse:
    """An OAuth error."""

    error: str
    status: int
    description: str | None
    headers: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"will_refuse({self.error!r})"


@dataclass(frozen=True, slots=True)
class Reply:
    """Anything."""

    answer: Answer

    def __str__(self) -> str:
        return f"will_answer({self.answer.status})"


@dataclass(frozen=True, slots=True)
class Fail:
    """No answer."""

    error: Exception

    def __str__(self) -> str:
        return f"will_fail({type(self.error).__name__})"


Step = Issue | Refuse | Reply | Fail


class Script:
    """Steps that are taken in order. A deque's operations are atomic."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque()

    def add(self, step: Step, times: int = 1) -> None:
        if not isinstance(times, int) or times < 1:
            raise ConfigError("times is a number of calls, at least 1")
        self._steps.extend([step] * times)

    def peek(self) -> Step | None:
        return self._steps[0] if self._steps else None

    def take(self) -> None:
        self._steps.popleft()

    def left(self) -> list[str]:
        return [str(step) for step in self._steps]


def built_answer(
    status: int, json: Any = None, body: str | bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Give an answer of any kind. Raises :class:`ConfigError`."""
    if json is not None and body is not None:
        raise ConfigError("an answer has json or a body, not both")
    if not isinstance(status, int) or not 100 <= status <= 599:
        raise ConfigError("status is a number from 100 to 599")
    given = dict(headers or {})
    if json is not None:
        given.setdefault("Content-Type", "application/json")
        body = json_format.dumps(json)
    data = body.encode() if isinstance(body, str) else body or b""
    return Answer(status, tuple(given.items()), data)


def checked_failure(error: object) -> Fail:
    """Give the step that raises ``error``. Raises :class:`ConfigError` for what is no exception."""
    if isinstance(error, type) and issubclass(error, Exception):
        error = error()
    if not isinstance(error, Exception):
        raise ConfigError("a network fails with an exception, such as requests.ConnectionError()")
    return Fail(error)
