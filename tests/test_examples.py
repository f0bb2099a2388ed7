"""Every example runs as it stands, says what it is there to show, and shows no secret."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, urlsplit

import pytest

from oauth2broker import HttpRequest, ResponseMetadata, ResponseMetadataSlot
from oauth2broker.testing import Fault, LoopbackProvider
from tests.support import ManualClock

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
README = ROOT / "README.rst"
SECONDS = 60.0
REDIRECT_URI = "https://app.example.com/callback"
RUN_ELSEWHERE = {"x_authorization", "test_with_responses", "flask_app", "test_flask_app", "test_cron_job"}
RUN_ELSEWHERE |= {"lend_to_subprocess", "call_an_api", "moved_from_requests_oauthlib", "httpx_client"}

# What an example must say, and which of the long random words in its output are meant to be there.
SALIENT = {
    "client_credentials": [
        "Obtained a Bearer token for 'email.read profile.read'",
        "the API answers 200",
        "from cache: True\n  token calls so far: 1\n",
        "Forced: another token: True\n  token calls so far: 2\n",
    ],
    "custom_transport": [
        "A success: Bearer TokenSecret(***)",
        "A 503 with Retry-After: TransientError: ",
        "status=503, retry after 7 s\n",
        "token calls for that: 0",
        "An answer that breaks off: TransientError: the answer broke off (the body is incomplete)",
        "status=200, retry after 1 s\n",
        "A connection closed without an answer: TransportError: no answer (RemoteDisconnected), sent=True",
        "A provider that is gone: TransportError: no connection (ConnectionRefusedError), sent=False",
    ],
    "cron_job": ["obtained a token\n", "it is good until "],
    "demo": ["All of it held."],
    "odd_provider": [
        "The user says no\n  AuthorizationError: access_denied\n",
        "granted: orders stock; kept: {'account_id': 'a-17'}\n  refresh token: TokenSecret(***)\n",
        "serves for 60 minutes\n",
        "another is needed\n  a token for orders stock, account a-17\n",
        "InvalidClientError: the provider refused the refresh_token grant: invalid_client (4001)\n  a token",
        "TransientError: the provider refused the refresh_token grant: slow_down (4029); again in 30 s\n",
        "InvalidGrantError: the provider refused the refresh_token grant: invalid_grant (4003); log in",
        "RevokedError: the grant was revoked; log in again\n",
        "answers of Kiosk, all with status 200: 0, 4003\n",
    ],
    "start_authorization": [
        "PKCE challenge (S256): ",
        "redirecting to: http://127.0.0.1:",
        "granted: openid profile; refresh token: TokenSecret(***)",
        "the stored one: True",
        "another access token: True",
        "the refresh token was rotated: True",
        "StateMismatchError: this browser did not start that authorization",
        "AuthorizationError: access_denied; token calls: 0",
        "StateMismatchError: the callback's state is not the one of this session; token calls: 0",
    ],
    "worker_processes": [
        "4 processes met one expired token\ntoken calls: 1\n",
        "different tokens handed out: 1\nspent refresh tokens presented: 0\n",
    ],
}
PUBLIC = re.compile(r"(?:[?&](?:state|code_challenge)=|PKCE challenge \(S256\): )([\w-]+)")


def run(arguments: list[str], folder: Path) -> str:
    """Run Python as a program of its own, in ``folder``; give what it printed. Warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def require_no_secret(output: str) -> None:
    """Nothing of the demo client's secret, nor a random word as long as a token that is not public."""
    assert "demo-secret" not in output
    long_words = set(re.findall(r"[\w-]{40,}", output))
    assert long_words - set(PUBLIC.findall(output)) == set()


def test_every_example_is_tested() -> None:
    """An example that nobody runs is one that no longer works."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SALIENT.keys() | RUN_ELSEWHERE


@pytest.mark.parametrize("name", sorted(SALIENT))
def test_an_example_runs_and_says_what_it_shows(name: str, tmp_path: Path) -> None:
    """From any folder, with exit code 0, without a warning and without a secret."""
    output = run([str(EXAMPLES / f"{name}.py")], tmp_path)
    for line in SALIENT[name]:
        assert line in output
    require_no_secret(output)


def test_the_second_run_of_the_cron_job_finds_the_token_of_the_first(tmp_path: Path) -> None:
    """From the folder, without a call: the second provider is another one and knows no such token."""
    run([str(EXAMPLES / "cron_job.py"), "tokens"], tmp_path)
    assert "from the folder\n" in run([str(EXAMPLES / "cron_job.py"), "tokens"], tmp_path)


def test_the_unit_test_example_passes_as_a_user_would_run_it(tmp_path: Path) -> None:
    """All three tests of it, by pytest, under warnings as errors."""
    example = str(EXAMPLES / "test_with_responses.py")
    output = run(["-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), example], tmp_path)
    assert "3 passed" in output


def test_the_unit_test_example_runs_as_a_program(tmp_path: Path) -> None:
    """Like every other example, with ``python examples/NAME.py``."""
    assert "3 passed" in run([str(EXAMPLES / "test_with_responses.py")], tmp_path)


def test_the_readme_quickstart_runs_as_shown(tmp_path: Path) -> None:
    """The first block of Python in README.rst is a whole program."""
    block = first_python_block(README.read_text("utf-8")) if README.exists() else None
    if block is None:
        pytest.skip("README.rst has no block of Python (yet)")
    program = tmp_path / "quickstart.py"
    program.write_text(block, "utf-8")
    require_no_secret(run([str(program)], tmp_path))


def first_python_block(text: str) -> str | None:
    """Give the dedented content of the first ``code-block:: python`` (or ``code``, ``sourcecode``)."""
    directive = r"^( *)\.\. (?:code-block|code|sourcecode):: python3? *\n(?:\1 +:.*\n)*"
    found = re.search(directive + r"((?:\1 +\S.*\n?| *\n)+)", text, re.MULTILINE)
    return textwrap.dedent(found[2]).strip() + "\n" if found else None


def test_the_first_python_block_is_found_where_there_is_one() -> None:
    """Options and the text around it are not part of it; its own indentation is."""
    shell = "A\n=\n\n.. code-block:: sh\n\n    no\n\n"
    python = ".. code-block:: python\n   :caption: x\n\n   if 1:\n\n       pass\n\nB\n"
    assert first_python_block(shell + python) == "if 1:\n\n    pass\n"
    assert first_python_block(shell) is None


# The custom transport keeps its promises.


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def send_into(fault: Fault, example: ModuleType) -> ResponseMetadata | None:
    """Give what the slot holds after a send that ``fault`` spoilt; it held something stale before."""
    slot = ResponseMetadataSlot()
    slot.store(ResponseMetadata(418))
    with LoopbackProvider() as provider:
        provider.inject(fault)
        with pytest.raises(example.WireError) as caught:
            example.PlainHttpClient().send(HttpRequest("POST", provider.token_endpoint, {}, b"x=y"), slot)
    assert caught.value.connected
    return slot.take()


@pytest.mark.parametrize(
    ("fault", "metadata"),
    [
        (Fault.silence(), None),
        (Fault.drip_headers(0.2), None),
        (Fault.drip_body(0.02, processed=False), ResponseMetadata(503)),
    ],
    ids=["silence", "the headers drip", "the body drips"],
)
def test_the_custom_transport_is_bounded_in_time(
    fault: Fault, metadata: ResponseMetadata | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly the answer comes; the slot holds what the headers said, if they came."""
    example = load_example("custom_transport")
    monkeypatch.setattr(example, "EXCHANGE_SECONDS", 1.0)
    started = time.monotonic()
    assert send_into(fault, example) == metadata
    assert time.monotonic() - started < 10.0


@pytest.mark.parametrize("size", [2 * 1024 * 1024, None], ids=["a large body", "an endless body"])
def test_the_custom_transport_is_bounded_in_size(size: int | None) -> None:
    """A body that goes on is an error, whether or not it says how long it is."""
    fault = Fault.flood(size, processed=False)
    assert send_into(fault, load_example("custom_transport")) == ResponseMetadata(503)


# X, interactive: the child is X's client, the test is its user, the loopback provider is X.


class TweetApi(HTTPServer):
    """Takes tweets from whoever brings a token that ``provider`` knows."""

    def __init__(self, provider: LoopbackProvider) -> None:
        super().__init__(("127.0.0.1", 0), TweetHandler)
        self.provider = provider
        self.tweets: list[str] = []
        self.refused = 0


class TweetHandler(BaseHTTPRequestHandler):
    server: TweetApi

    def do_POST(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        is_welcome = self.path == "/2/tweets" and self.server.provider.is_live(token)
        if is_welcome:
            self.server.tweets.append(text)
        else:
            self.server.refused += 1
        self.send_response(201 if is_welcome else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is inherited
        pass


@pytest.fixture
def api(provider: LoopbackProvider) -> Iterator[TweetApi]:
    """An API that takes tweets."""
    with TweetApi(provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class XProgram:
    """The example as a program to talk with."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._child = child
        self._stdin, self._stdout, self._stderr = child.stdin, child.stdout, child.stderr
        self.output = ""

    def read_until(self, words: str) -> str:
        """Give the first line that holds ``words``."""
        for line in self._stdout:
            self.output += line
            if words in line:
                return line.strip()
        raise AssertionError(f"the program ended without a word of {words}: {self._stderr.read()}")

    def say(self, text: str) -> None:
        self._stdin.write(f"{text}\n")
        self._stdin.flush()

    def finish(self) -> tuple[int, str]:
        """Say nothing more; give the exit code and what went to standard error."""
        self._stdin.close()
        self.output += self._stdout.read()
        return self._child.wait(), self._stderr.read()


@contextmanager
def x_program(env: Mapping[str, str], folder: Path) -> Iterator[XProgram]:
    """Start it; kill it when it does not come to an end in time."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("X_")}
    child = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / "x_authorization.py")],
        cwd=folder,
        env={**inherited, "PYTHONIOENCODING": "utf-8", **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    watchdog = threading.Timer(SECONDS, child.kill)
    watchdog.start()
    with child:
        try:
            yield XProgram(child)
        finally:
            child.kill()
            watchdog.cancel()
            watchdog.join()


def x_environment(
    provider: LoopbackProvider, api: TweetApi | None = None, *, secret: str | None = None
) -> dict[str, str]:
    """Put the stand-ins in the place of X; without a secret the client is a public one."""
    env = {
        "X_CLIENT_ID": "public-client" if secret is None else "demo-client",
        "X_REDIRECT_URI": REDIRECT_URI,
        "X_AUTHORIZATION_ENDPOINT": provider.authorization_endpoint,
        "X_TOKEN_ENDPOINT": provider.token_endpoint,
    }
    if secret is not None:
        env["X_CLIENT_SECRET"] = secret
    if api is not None:
        env["X_API"] = f"http://127.0.0.1:{api.server_port}"
    return env


def test_x_logs_in_with_the_callback_address_and_posts_a_tweet(
    provider: LoopbackProvider, api: TweetApi, tmp_path: Path
) -> None:
    """A confidential client; the tweet arrives with a token that the provider knows."""
    with x_program(x_environment(provider, api, secret="demo-secret"), tmp_path) as program:
        program.say(provider.browse(program.read_until("http://")))
        program.say("hello, world")
        assert program.finish() == (0, "")
    assert "Granted: offline.access tweet.read tweet.write users.read\n" in program.output
    assert "Renewable without the user: yes\n" in program.output
    assert "Posted.\n" in program.output
    assert api.tweets == ["hello, world"]
    require_no_secret(program.output)


def test_x_logs_in_with_state_and_code_and_posts_nothing(provider: LoopbackProvider, tmp_path: Path) -> None:
    """A public client, which has no secret; an empty line instead of a tweet."""
    with x_program(x_environment(provider), tmp_path) as program:
        callback = parse_qs(urlsplit(provider.browse(program.read_until("http://"))).query)
        program.say(callback["state"][0])
        program.say(callback["code"][0])
        program.say("")
        assert program.finish() == (0, "")
    assert "Granted: " in program.output
    assert "osted" not in program.output
    assert [call.status for call in provider.calls] == [200]
    require_no_secret(program.output)


def test_x_renews_a_token_that_the_api_refuses(
    provider: LoopbackProvider, api: TweetApi, clock: ManualClock, tmp_path: Path
) -> None:
    """X ended the token before its time: one 401, one renewal, and the tweet is posted."""
    with x_program(x_environment(provider, api, secret="demo-secret"), tmp_path) as program:
        program.say(provider.browse(program.read_until("http://")))
        program.read_until("Renewable")
        clock.advance(7200)  # the provider's clock; the program has its own
        program.say("hello")
        assert program.finish() == (0, "")
    assert (api.refused, api.tweets) == (1, ["hello"])
    assert [call.grant_type for call in provider.calls] == ["authorization_code", "refresh_token"]


@pytest.mark.parametrize(
    ("approve", "old", "new", "name"),
    [
        (False, "", "", "AuthorizationError"),
        (True, "state=", "state=not-", "StateMismatchError"),
        (True, "code=", "code=not-", "InvalidGrantError"),
    ],
    ids=["the user says no", "the state is another", "the code is another"],
)
def test_x_says_why_a_login_failed(
    approve: bool, old: str, new: str, name: str, provider: LoopbackProvider, tmp_path: Path
) -> None:
    """With exit code 1 and one line, no traceback."""
    with x_program(x_environment(provider), tmp_path) as program:
        callback = provider.browse(program.read_until("http://"), approve=approve)
        program.say(callback.replace(old, new))
        code, errors = program.finish()
    assert code == 1
    assert re.fullmatch(rf"It did not work: {name}: .+\n", errors)
    require_no_secret(program.output + errors)


def test_x_gives_up_when_nobody_answers(provider: LoopbackProvider, tmp_path: Path) -> None:
    """The end of standard input is no crash."""
    with x_program(x_environment(provider), tmp_path) as program:
        assert program.finish() == (1, "\nGiven up.\n")


def test_x_says_what_is_not_configured(tmp_path: Path) -> None:
    """With exit code 2, before anything else."""
    with x_program({}, tmp_path) as program:
        assert program.finish() == (2, "Please set X_CLIENT_ID and X_REDIRECT_URI.\n")
    assert program.output == ""
