"""BrokerSession with hooks that put the token into the body or the URL: what is sent again, and where to."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from requests_oauthlib.compliance_fixes import (  # type: ignore[import-untyped]
    instagram_compliance_fix,
    slack_compliance_fix,
)

from oauth2broker import Broker, BrokerSession, ConfigError
from oauth2broker.testing import LoopbackProvider
from tests.support import USER_REQUEST, log_in
from tests.transport.sockets import Peer, Received, SocketServer, answer

Fix = Callable[[BrokerSession], BrokerSession]
OK = answer(200, b"ok")


def text_of(request: Received) -> str:
    """Give all that came, to look for tokens in it."""
    return f"{request.line}{request.headers}{request.body.decode('latin-1')}"


class Api:
    """Refuses who shows one of ``refused`` anywhere; what it answers at some paths is in ``answers``."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.answers: dict[str, bytes] = {}
        self.server = SocketServer(self._serve)

    @property
    def url(self) -> str:
        return self.server.url.removesuffix("/token")

    @property
    def seen(self) -> list[str]:
        return [text_of(request) for request in self.server.requests]

    def _serve(self, peer: Peer) -> None:
        while request := peer.receive():
            path = request.line.split(" ")[1].partition("?")[0]
            is_refused = path not in self.answers and any(old in text_of(request) for old in self.refused)
            peer.send(answer(401, b"{}") if is_refused else self.answers.get(path, OK))


@pytest.fixture
def api() -> Iterator[Api]:
    """The API that tokens are for."""
    made = Api()
    with made.server:
        yield made


@pytest.fixture
def other() -> Iterator[Api]:
    """Another origin, which must see no token."""
    made = Api()
    with made.server:
        yield made


@pytest.fixture
def session(broker: Broker, provider: LoopbackProvider) -> Iterator[BrokerSession]:
    """A session of a user who has logged in; the provider's calls are counted from here."""
    log_in(broker, provider)
    provider.clear()
    with BrokerSession(broker, USER_REQUEST) as made:
        made.trust_env = False
        yield made


def in_a_header(session: BrokerSession) -> BrokerSession:
    """A fix that tells the token twice, and changes what it is given in place."""

    def hook(url: str, headers: Any, data: Any) -> tuple[str, Any, Any]:
        headers["X-Copy"] = session.access_token
        return url, headers, data

    session.register_compliance_hook("protected_request", hook)
    return session


def half_read(content: bytes) -> io.BytesIO:
    """Give a file of which two bytes were read already."""
    made = io.BytesIO(b"--" + content)
    made.seek(2)
    return made


@pytest.mark.parametrize(
    ("fix", "make"),
    [
        (slack_compliance_fix, lambda: {"data": {"text": "hello"}}),
        (slack_compliance_fix, lambda: {}),
        (slack_compliance_fix, lambda: {"data": b"hello"}),
        (slack_compliance_fix, lambda: {"data": half_read(b"hello")}),
        (slack_compliance_fix, lambda: {"files": {"f": half_read(b"hello")}, "params": {"q": "1"}}),
        (slack_compliance_fix, lambda: {"files": iter([("f", ("name", half_read(b"hello")))])}),
        (instagram_compliance_fix, lambda: {"data": {"text": "hello"}, "cookies": {"a": "hello"}}),
        (instagram_compliance_fix, lambda: {"data": half_read(b"hello")}),
        (instagram_compliance_fix, lambda: {"json": {"text": "hello"}}),
        (in_a_header, lambda: {"data": "hello", "headers": {"X-Mine": "1"}}),
    ],
)
def test_the_hooks_are_called_again_when_a_token_is_refused(
    fix: Fix, make: Callable[[], dict[str, Any]], api: Api, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """What is sent again has the new token wherever the old one was, and all else as it was."""
    fix(session)
    old = str(session.access_token)
    api.refused = {old}
    response = session.post(f"{api.url}/x", **make())
    new = str(session.access_token)
    assert (response.status_code, provider.token_calls) == (200, 1)
    first, second = api.seen
    assert first.count(old) == 2
    assert lines_of(second) == lines_of(first.replace(old, new))


def lines_of(text: str) -> list[str]:
    """Give the lines in one order, without what is made up for each multipart body."""
    boundary = text.partition("boundary=")[2][:32]
    return sorted((text.replace(boundary, "") if boundary else text).splitlines())


def test_what_the_program_gave_stays_as_it_was(api: Api, session: BrokerSession) -> None:
    """A dict that is used for every call does not keep the token of the first."""
    slack_compliance_fix(in_a_header(session))
    data, headers = {"text": "hello"}, {"X-Mine": "1"}
    for _ in range(2):
        session.post(f"{api.url}/x", data=data, headers=headers)
        assert str(session.access_token) in api.seen[-1].partition("text=hello")[2]
        session.refresh_token()
    assert (data, headers) == ({"text": "hello"}, {"X-Mine": "1"})


class OnceOnly(io.BytesIO):
    """A file that cannot go back."""

    def seek(self, *_: object) -> int:
        raise OSError


def test_a_file_that_cannot_go_back_is_not_sent_again(
    api: Api, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """The 401 is the answer; the token has been replaced all the same."""
    slack_compliance_fix(session)
    api.refused = {str(session.access_token)}
    response = session.post(f"{api.url}/x", files={"f": OnceOnly(b"hello")})
    assert (response.status_code, len(api.seen), provider.token_calls) == (401, 1, 1)
    assert session.post(f"{api.url}/x", data={"text": "hello"}).status_code == 200


def test_what_a_redirect_carries_on_is_not_sent_again_with_two_tokens(
    api: Api, provider: LoopbackProvider, session: BrokerSession
) -> None:
    """Hooks cannot make it anew: the 401 is the answer. It is no fruitless renewal: the next one is made."""
    slack_compliance_fix(session)
    api.answers["/x"] = answer(307, b"", {"Location": "/y"})
    for calls in (1, 2):
        api.refused = {str(session.access_token)}
        assert session.post(f"{api.url}/x", data={"text": "hello"}).status_code == 401
        assert provider.token_calls == calls
    assert len(api.seen) == 4


def test_a_refusal_behind_a_redirect_without_the_token_is_overcome(api: Api, session: BrokerSession) -> None:
    """Of a POST that was done, the GET that follows is sent again; the POST is not."""
    slack_compliance_fix(session)
    api.answers["/x"] = answer(303, b"", {"Location": "/y"})
    api.refused = {str(session.access_token)}
    assert session.post(f"{api.url}/x", data={"text": "hello"}).status_code == 200
    assert [request.line.split(" ")[0] for request in api.server.requests] == ["POST", "GET", "GET"]


def test_a_hook_that_fails_the_second_time_is_told_to_the_caller(api: Api, session: BrokerSession) -> None:
    """As when it fails the first time; nothing is sent without it."""
    times = iter([True])

    def hook(*given: Any) -> Any:
        if not next(times, False):
            raise ZeroDivisionError
        return given

    session.register_compliance_hook("protected_request", hook)
    api.refused = {str(session.access_token)}
    with pytest.raises(ZeroDivisionError):
        session.get(f"{api.url}/x")
    assert len(api.seen) == 1


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("more", [{}, {"files": {"f": b"hello"}}], ids=["form", "multipart"])
def test_a_body_with_the_token_does_not_travel_to_another_origin(
    status: int, more: dict[str, Any], api: Api, other: Api, session: BrokerSession
) -> None:
    """Following is an error; who does not follow has the answer, and a request that cannot be sent."""
    slack_compliance_fix(session)
    api.answers["/x"] = answer(status, b"", {"Location": f"{other.url}/y"})
    with pytest.raises(ConfigError, match="not followed") as caught:
        session.post(f"{api.url}/x", data={"text": "hello"}, **more)
    assert str(session.access_token) not in str(caught.value)
    response = session.post(f"{api.url}/x", data={"text": "hello"}, allow_redirects=False, **more)
    assert (response.status_code, response.headers["Location"]) == (status, f"{other.url}/y")
    assert response.next is not None
    assert response.next.url == f"{other.url}/y"
    with requests.Session() as plain, pytest.raises(ConfigError, match="not followed"):
        plain.send(response.next)
    assert other.server.connections == 0
    assert len(api.seen) == 2


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("fix", [slack_compliance_fix, instagram_compliance_fix, in_a_header])
def test_a_redirect_that_leaves_the_token_behind_is_followed(
    status: int, fix: Fix, api: Api, other: Api, session: BrokerSession
) -> None:
    """To another origin as well: neither the body nor the URL nor a header goes along."""
    fix(session)
    api.answers["/x"] = answer(status, b"", {"Location": f"{other.url}/y"})
    assert session.post(f"{api.url}/x", data={"text": "hello"}, headers={"X-Mine": "1"}).ok
    assert str(session.access_token) in api.seen[0]
    assert str(session.access_token) not in other.seen[0]
    assert "X-Mine: 1" in other.seen[0]


def test_a_redirect_within_the_origin_takes_the_token_along(api: Api, session: BrokerSession) -> None:
    """In body and header, as ever."""
    slack_compliance_fix(session)
    api.answers["/x"] = answer(307, b"", {"Location": "/y"})
    assert session.post(f"{api.url}/x", data={"text": "hello"}).ok
    assert [seen.count(str(session.access_token)) for seen in api.seen] == [2, 2]
