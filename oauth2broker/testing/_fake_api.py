"""An API that takes the tokens of a `FakeProvider`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from oauth2broker.testing._answer import Answer
from oauth2broker.testing._fake_calls import ApiCall, without_query
from oauth2broker.testing._fake_script import Fail, Refuse, Reply, Script, built_answer, checked_failure
from oauth2broker.testing._ledger import AccessToken

if TYPE_CHECKING:
    from requests import PreparedRequest


class FakeApi:
    """A protected API: 401 for tokens that are not live, 403 for those that lack a scope, else its answer.

    Made by :meth:`FakeProvider.api`. Safe to use from several threads.
    """

    def __init__(self, name: str, answer: Answer, scope: tuple[str, ...]) -> None:
        self._name = name
        self._answer = answer
        self._scope = scope
        self._script = Script()
        self._calls: list[ApiCall] = []

    def __repr__(self) -> str:
        return f"<FakeApi {self._name}>"

    @property
    def calls(self) -> tuple[ApiCall, ...]:
        """The calls so far, in order of arrival."""
        return tuple(self._calls)

    @property
    def unused(self) -> tuple[str, ...]:
        """What was scripted and has not been asked for."""
        return tuple(self._script.left())

    def will_refuse(self, error: str = "invalid_token", *, status: int = 401, times: int = 1) -> None:
        """Refuse the next ``times`` calls with this error (RFC 6750 section 3.1), live token or not."""
        self._script.add(Refuse(error, status, None, {}), times)

    def will_answer(
        self,
        status: int,
        *,
        json: Any = None,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        times: int = 1,
    ) -> None:
        """Answer the next ``times`` calls so, without a look at the token."""
        self._script.add(Reply(built_answer(status, json, body, headers)), times)

    def will_fail(self, error: Exception | type[Exception], *, times: int = 1) -> None:
        """Raise ``error`` in the next ``times`` calls, as requests does without a network."""
        self._script.add(checked_failure(error), times)

    def _serve(self, request: PreparedRequest, token: AccessToken | None, at: datetime) -> Answer:
        """Answer or raise, and remember the call; ``token`` is the live one on it. One call at a time."""
        user = None if token is None else token.family.subject
        call = ApiCall(str(request.method), without_query(request), user, at, request)
        answer = self._decide(None if token is None else token.scope)
        if isinstance(answer, Exception):
            self._calls.append(call)
            raise answer
        self._calls.append(replace(call, status=answer.status))
        return answer

    def _decide(self, scope: tuple[str, ...] | None) -> Answer | Exception:
        """Say what a call gets that brought a live token of ``scope``, or none."""
        step = self._script.peek()
        if step is not None:
            self._script.take()
            if isinstance(step, Fail):
                return step.error
            if isinstance(step, Reply):
                return step.answer
            if isinstance(step, Refuse):
                return _refusal(step.status, step.error)
        if scope is None:
            return _refusal(401, "invalid_token")
        if not set(self._scope) <= set(scope):
            return _refusal(403, "insufficient_scope", " ".join(self._scope))
        return self._answer


def _refusal(status: int, error: str, scope: str | None = None) -> Answer:
    challenge = f'Bearer error="{error}"' + (f', scope="{scope}"' if scope else "")
    return Answer.of_json(status, {"error": error}, (("WWW-Authenticate", challenge),))
