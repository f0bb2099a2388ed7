"""The script of a `FakeProvider`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from oauth2broker.errors import ConfigError
from oauth2broker.provider.kinds import Endpoint
from oauth2broker.testing._answer import Answer
from oauth2broker.testing._fake_api import FakeApi
from oauth2broker.testing._fake_calls import FakeCall
from oauth2broker.testing._fake_script import (
    Fail,
    Issue,
    Refuse,
    Reply,
    Script,
    Step,
    built_answer,
    checked_failure,
)
from oauth2broker.testing._fake_server import FakeServer, Refused


class ScriptedEndpoints:
    """What a provider's token and revocation endpoints were told to answer."""

    def __init__(self) -> None:
        self._scripts = {"token": Script(), "revocation": Script()}
        self._apis: list[FakeApi] = []
        self._outage: Step | None = None

    def will_issue(self, **members: Any) -> None:
        """Let the answer to the next token call have these members; None leaves one out.

        ``access_token``, ``refresh_token``, ``expires_in`` (seconds) and ``scope`` go where this provider has
        them, others (``id_token`` ...) as they are. A call that must be refused is, and this waits on.
        """
        self._scripts["token"].add(Issue(members))

    def will_refuse(
        self,
        error: str = "invalid_grant",
        *,
        status: int | None = None,
        description: str | None = None,
        headers: Mapping[str, str] | None = None,
        endpoint: str = "token",
        times: int = 1,
    ) -> None:
        """Answer the next ``times`` calls with an OAuth error (RFC 6749 section 5.2).

        ``status`` is 401 for invalid_client and 400 for others unless given. It is an answer, no event: the
        grant lives on (see :meth:`revoke_grant`). ``endpoint`` is ``token`` or ``revocation``.
        """
        code = status or (401 if error == "invalid_client" else 400)
        self._script(endpoint).add(Refuse(error, code, description, dict(headers or {})), times)

    def will_answer(
        self,
        status: int,
        *,
        json: Any = None,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        endpoint: str = "token",
        times: int = 1,
    ) -> None:
        """Answer the next ``times`` calls with anything, such as a 503 with ``Retry-After``."""
        self._script(endpoint).add(Reply(built_answer(status, json, body, headers)), times)

    def will_fail(
        self, error: Exception | type[Exception], *, endpoint: str = "token", times: int = 1
    ) -> None:
        """Raise ``error`` in the next ``times`` calls, such as ``requests.ConnectionError()``."""
        self._script(endpoint).add(checked_failure(error), times)

    @contextmanager
    def outage(
        self, status: int = 503, *, headers: Mapping[str, str] | None = None, error: Exception | None = None
    ) -> Iterator[None]:
        """Let every call of token and revocation endpoint meet ``status``, or ``error``, until left.

        One inside another goes before it; then the outer one is back.
        """
        before = self._outage
        self._outage = Reply(built_answer(status, headers=headers)) if error is None else Fail(error)
        try:
            yield
        finally:
            self._outage = before

    @property
    def unused(self) -> tuple[str, ...]:
        """What was scripted and has not been asked for."""
        ours = (step for script in self._scripts.values() for step in script.left())
        return (*ours, *(step for api in self._apis for step in api.unused))

    def _script(self, endpoint: str) -> Script:
        found = self._scripts.get(endpoint)
        if found is None:
            raise ConfigError("endpoint is token or revocation")
        return found

    def _answer(self, server: FakeServer, call: FakeCall) -> Answer | Exception:
        is_revocation = call.endpoint == Endpoint.REVOCATION
        script = self._scripts["revocation" if is_revocation else "token"]
        outage = self._outage
        step = outage or script.peek()
        if outage is None and isinstance(step, Refuse | Reply | Fail):
            script.take()
        if isinstance(step, Fail):
            return step.error
        if isinstance(step, Reply):
            return step.answer
        if isinstance(step, Refuse):
            return _refusal(step.error, step.description, step.status, step.headers)
        try:
            if is_revocation:
                server.revoke(call)
                return Answer(200)
            members = server.grant(call, step.members if isinstance(step, Issue) else {})
        except Refused as refused:
            return _refusal(refused.error, refused.description)
        if isinstance(step, Issue):
            script.take()
        return Answer.of_json(200, members)


def _refusal(
    error: str, description: str | None, status: int = 400, headers: Mapping[str, str] | None = None
) -> Answer:
    members = {"error": error} | ({} if description is None else {"error_description": description})
    return Answer.of_json(status, members, tuple((headers or {}).items()))
