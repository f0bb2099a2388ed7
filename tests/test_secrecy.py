"""Row 27 of what must be survived: whatever happens, no secret shows anywhere but where it belongs."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import json
import logging
import pickle
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit

import pytest

import oauth2broker
from oauth2broker import (
    AuthorizationError,
    AuthorizationRequiredError,
    AuthorizationSession,
    BackendError,
    Broker,
    BrokerError,
    CompareAndSwapOutcome,
    ConfigError,
    DelayedError,
    FlowEvent,
    GrantType,
    HttpRequest,
    HttpResponse,
    InsufficientScopeError,
    InvalidClientError,
    InvalidGrantError,
    MemoryStore,
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderStrategy,
    RequestsHttpClient,
    ResponseMetadata,
    ResponseMetadataSlot,
    RevokedError,
    SerializationError,
    StateMismatchError,
    StoreError,
    StoreKey,
    TokenBucket,
    TokenRecord,
    TokenSecret,
    TransientError,
    TransportError,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.observers.sight import Sight
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST, Crowd, ManualClock

PACKAGE, TESTS = Path(oauth2broker.__file__).parent, Path(__file__).parent
CLIENT_ID, CLIENT_SECRET = "demo-client", "cl1ent/s3cret+with=0dd&characters"
SECRET_FIELDS = {"code", "code_verifier", "refresh_token", "client_secret", "token", "client_assertion"}
ISSUED = re.compile(rb'"((?:access|refresh|id)_token)":\s*"([^"]{8,})"')


@dataclass(repr=False)
class Witness:
    """Learns every secret that goes by and looks at everything that comes out."""

    secrets: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)

    def learn(self, what: str, secret: str) -> None:
        """Take note of a secret, also in the forms in which it travels."""
        for form in (secret, quote_plus(secret), json.dumps(secret)[1:-1]):
            self.secrets[form] = what

    def see(self, where: str, value: object) -> None:
        """Look at a value in every way in which a program shows one."""
        self.look(f"repr of {where}", repr(value))
        self.look(f"str of {where}", str(value))
        self.look(f"format of {where}", f"{value} {value!r:>1}")
        self.look(f"JSON of {where}", json.dumps([value, {"a": value}], default=str))
        if dataclasses.is_dataclass(value) and not isinstance(value, type | AuthorizationSession):
            members = dataclasses.asdict(value)
            self.look(f"asdict of {where}", f"{members!r} {members}")
            self.look(f"JSON of asdict of {where}", json.dumps(members, default=str))
            self.look(f"astuple of {where}", repr(dataclasses.astuple(value)))

    def see_error(self, error: BaseException, depth: int = 4) -> None:
        """Look at an error, at the frames in its traceback with their locals, and at what rides along.

        Frames of tests, and of what is shipped for them, hold what the test knows.
        """
        name = type(error).__name__
        self.see(name, error)
        self.look(f"fields of {name}", repr(vars(error)) + repr(error.args))
        if isinstance(error, BrokerError):
            self.look(f"pickle of {name}", pickle.dumps(error).decode("latin-1"))
            self.see(f"unpickled {name}", pickle.loads(pickle.dumps(error)))
        told = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True)
        ours = [frame for frame in told.stack if not is_a_tests(frame.filename)]
        for frame in ours:
            for local, shown in (frame.locals or {}).items():
                self.look(f"local {local} of {frame.name} ({frame.filename}:{frame.lineno})", shown)
        told.stack[:] = ours
        told.__cause__ = told.__context__ = None
        self.look(f"traceback of {name}", "".join(told.format()))
        for rider in (error.__cause__, error.__context__):
            if rider is not None and depth:
                self.see_error(rider, depth - 1)

    def see_log(self, record: logging.LogRecord) -> None:
        """Look at a log record, formatted and raw."""
        where = f"log of {record.name}"
        self.look(where, record.getMessage())
        self.look(where, f"{record.msg!r} {record.args!r} {record.exc_text!r} {vars(record)!r}")
        self.look(where, logging.Formatter().format(record))

    def look(self, where: str, text: str) -> None:
        """Keep a text for the end, when all secrets are known."""
        self.seen.append((where, text))

    def leaks(self) -> set[tuple[str, str]]:
        """Give what shows, and where."""
        known = self.secrets.items()
        return {(what, where) for where, text in self.seen for secret, what in known if secret in text}

    def assert_silence(self) -> None:
        """Raise when a secret shows; begin anew."""
        assert self.seen
        leaks = sorted(self.leaks())
        self.seen = [("the end", "")]
        assert leaks[:9] == []


def is_a_tests(filename: str) -> bool:
    """Whether a file is a test's, or ships for tests."""
    path = Path(filename)
    return path.is_relative_to(TESTS) or path.is_relative_to(PACKAGE / "testing")


@dataclass(repr=False)
class Spy:
    """The default transport under a witness's eyes; raises or answers as told instead, after it has seen."""

    witness: Witness
    inner: RequestsHttpClient = field(default_factory=RequestsHttpClient)
    fail: Callable[[HttpRequest, HttpResponse | None], None] = lambda request, response: None

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        """Send, and learn the secrets of request and answer."""
        for name, value in parse_qsl(request.body.decode()):
            if name in SECRET_FIELDS:
                self.witness.learn(name, value)
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if credentials:
            self.witness.learn(scheme, credentials)
        self.witness.look("request", f"{request} {request!r}")
        self.fail(request, None)
        response = self.inner.send(request, metadata)
        for kind, value in ISSUED.findall(response.body):
            self.witness.learn(kind.decode(), value.decode())
        self.witness.look("response", f"{response} {response!r}")
        self.fail(request, response)
        return response


@dataclass(repr=False)
class Stage:
    """A provider, a broker with every observer that there is, and a witness."""

    provider: LoopbackProvider
    clock: ManualClock
    witness: Witness
    spy: Spy
    sight: Sight = field(default_factory=Sight)
    errors: list[BaseException] = field(default_factory=list)

    def broker(self, *, secret: str = CLIENT_SECRET, **arguments: Any) -> Broker:
        """Make a broker that the witness sees."""
        self.witness.learn("client secret", secret)
        always = {"http_client": self.spy, "observers": self.sight.observers, "clock": self.clock}
        made = Broker(self.provider.descriptor(), CLIENT_ID, secret, **{**always, **arguments})
        self.witness.see("broker", made)
        return made

    def run(self, call: Callable[[], Any]) -> Any:
        """Do a call under the witness's eyes; give its result or its error."""
        try:
            result = call()
        except BaseException as error:
            self.errors.append(error)
            self.witness.see_error(error)
            return error
        self.witness.see("result", result)
        return result

    def start(self, broker: Broker) -> tuple[AuthorizationSession, str]:
        """Start an authorization, go through the browser, and learn what is secret in it."""
        session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)
        self.witness.learn("verifier", session.code_verifier.expose())
        self.witness.see("session", session)
        self.witness.look("session's URL", session.authorize_url)
        callback = self.provider.browse(session.authorize_url)
        self.witness.learn("code", dict(parse_qsl(urlsplit(callback).query))["code"])
        return session, callback

    def log_in(self, broker: Broker) -> Any:
        """Log in; give the record or the error."""
        session, callback = self.start(broker)
        return self.run(lambda: broker.complete_authorization(session, callback))

    def renew(self, broker: Broker) -> Any:
        """Let what is stored expire, and renew it; give the record or the error."""
        self.clock.advance(3700)
        return self.run(lambda: broker.refresh_access_token(USER_REQUEST))

    def obtain(self, broker: Broker) -> Any:
        """Obtain a service token; give the record or the error."""
        self.clock.advance(3700)
        return self.run(lambda: broker.client_credentials(SERVICE_REQUEST))

    def see_what_is_left(self, broker: Broker) -> None:
        """Look at everything public that a broker offers."""
        witness = self.witness
        for name in ("store", "descriptor", "refresh_metrics"):
            witness.see(name, getattr(broker, name))
        witness.look("vars of broker", repr(vars(broker)))
        for key in broker.store.keys():  # noqa: SIM118 - a store is no dict
            witness.see("key", key)
            witness.see("record", broker.store.fetch(key))
        for event in self.sight.listener.events:
            witness.see("event", event)


@pytest.fixture
def stage(
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    """Set the stage; when the play is over, ask the witness. All loggers, and http.client, are at DEBUG."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    caplog.set_level(logging.DEBUG)
    for name in ("oauth2broker", "urllib3", "requests", "oauthlib", "http", "requests_oauthlib"):
        caplog.set_level(logging.DEBUG, logger=name)
    warnings.simplefilter("always")
    witness = Witness()
    with LoopbackProvider({CLIENT_ID: CLIENT_SECRET}, clock=clock) as provider:
        made = Stage(provider, clock, witness, Spy(witness))
        yield made
        made.spy.inner.close()
    for record in caplog.get_records("call"):
        witness.see_log(record)
    for where, text in made.sight.texts():
        witness.look(where, text)
    for stream in capfd.readouterr():
        witness.look("stdout or stderr", stream)
    for warning in recwarn:
        witness.see("warning", warning.message)
    assert len(witness.secrets) >= 2
    witness.assert_silence()


# The net holds water.


def leak_everything(secret: str) -> None:
    """Show a secret in many ways, from a frame that seems to be the library's."""
    code = compile(
        "def leak(plain):\n    kept = {'form': plain}\n    raise ValueError(len(kept))\n",
        str(PACKAGE / "flows" / "leaky.py"),
        "exec",
    )
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    namespace["leak"](secret)


def test_the_witness_sees_each_kind_of_leak(caplog: pytest.LogCaptureFixture) -> None:
    """Text, field, local, cause, context, log argument and pickle: none escapes the net."""
    caplog.set_level(logging.DEBUG)
    secret = "a+secret/to=see"
    logging.getLogger("urllib3").debug("sent %s", quote_plus(secret))
    error = TransientError("innocent")
    error.__cause__ = ValueError(secret)
    error.__context__ = KeyError(secret)
    told = ConfigError(secret)
    described = AuthorizationError("innocent", description=secret)
    witness = Witness()
    witness.learn("secret", secret)
    for seen in (error, told, described):
        witness.see_error(seen)
    with pytest.raises(ValueError, match="1") as caught:
        leak_everything(secret)
    witness.see_error(caught.value)
    for record in caplog.records:
        witness.see_log(record)
    places = {where for _, where in witness.leaks()}
    for place in (
        "repr of ValueError",
        "repr of KeyError",
        "str of ConfigError",
        "pickle of ConfigError",
        "fields of AuthorizationError",
        "log of urllib3",
        "traceback of ValueError",
    ):
        assert place in places
    assert any(place.startswith("local plain of leak") for place in places)
    assert any(place.startswith("local kept of leak") for place in places)


# What goes well.


def test_no_secret_shows_when_all_goes_well(stage: Stage) -> None:
    """Login, renewal, service token, hit, rejection, revocation: nothing shows."""
    with stage.broker() as broker:
        record = stage.log_in(broker)
        assert isinstance(record, TokenRecord)
        assert isinstance(stage.renew(broker), TokenRecord)
        assert isinstance(stage.obtain(broker), TokenRecord)
        rejecting = USER_REQUEST.rejecting(record)
        stage.witness.see("request", rejecting)
        assert isinstance(stage.run(lambda: broker.refresh_access_token(rejecting)), TokenRecord)
        stage.see_what_is_left(broker)
        tombstone = stage.run(lambda: broker.revoke(USER_REQUEST))
        assert tombstone.revoked_at is not None
        assert isinstance(stage.renew(broker), RevokedError)
        stage.see_what_is_left(broker)
    assert set(stage.witness.secrets.values()) >= {
        *("client secret", "Basic", "code", "code_verifier", "access_token", "refresh_token"),
    }


def test_no_secret_shows_to_a_crowd(stage: Stage) -> None:
    """Eight threads share one renewal, and then one failure."""
    with stage.broker() as broker:
        stage.log_in(broker)
        stage.clock.advance(3700)
        crowd = Crowd(8, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
        for record in crowd.results:
            stage.witness.see("record", record)
        assert len(crowd.results) == 8
        stage.clock.advance(3700)
        stage.provider.inject(Fault.garble(b"<html>"))
        crowd = Crowd(8, lambda: broker.refresh_access_token(USER_REQUEST)).start().join()
        for error in crowd.errors:
            stage.witness.see_error(error)
        assert len(crowd.errors) == 8


def test_a_record_and_a_session_refuse_to_be_pickled(stage: Stage) -> None:
    """What holds secrets can only leave through to_json, and the refusal shows nothing."""
    with stage.broker() as broker:
        record = stage.log_in(broker)
        session, _ = stage.start(broker)
        for value in (record, session, record.access_token, broker):
            assert isinstance(stage.run(partial(pickle.dumps, value)), TypeError)


def test_what_a_provider_adds_to_its_answer_does_not_show_in_the_record(stage: Stage) -> None:
    """Members that we do not know may be secrets: their names show, their values do not."""
    added = {
        "instance_url": "https://i.example.com",
        "webhook_secret": "wh-s3cret-value",
        "n": {"deep": ["wh-s3cret"]},
    }
    stage.witness.learn("extra", "wh-s3cret")
    stage.provider.inject(Fault.rewrite(lambda payload: {**payload, **added, "id_token": "aaa.bbbbbbbbb.cc"}))
    with stage.broker() as broker:
        record = stage.log_in(broker)
        assert record.extra["webhook_secret"] == "wh-s3cret-value"
        assert "webhook_secret" in repr(record)
        stage.see_what_is_left(broker)


# What goes wrong at the provider. Each scene gives the error classes that it must have brought.


def cut_in_the_middle(answer: Any) -> Any:
    """Cut an answer behind its tokens."""
    return replace(answer, body=answer.body[:-3])


def repeating(status: int, code: str) -> Fault:
    """Answer an error that tells the client its own tokens, as far as the provider knows them."""
    return Fault.json(
        status, {"error": code, "error_description": f"client_secret={CLIENT_SECRET}", "x": CLIENT_SECRET}
    )


FAULTS: dict[str, tuple[Fault, type[BrokerError]]] = {
    "invalid_grant": (Fault.json(400, {"error": "invalid_grant"}), InvalidGrantError),
    "invalid_client": (Fault.json(401, {"error": "invalid_client"}), InvalidClientError),
    "invalid_scope": (Fault.json(400, {"error": "invalid_scope"}), InsufficientScopeError),
    "access_denied": (Fault.json(403, {"error": "access_denied"}), AuthorizationError),
    "unknown error": (Fault.json(400, {"error": "odd"}), ConfigError),
    "repeating 400": (repeating(400, "odd"), ConfigError),
    "repeating 200": (repeating(200, "server_error"), TransientError),
    "repeating code": (Fault.json(400, {"error": CLIENT_SECRET}), ConfigError),
    "429": (Fault.answer(429, {"Retry-After": "9"}), TransientError),
    "503 html": (Fault.html(503), TransientError),
    "redirect": (Fault.redirect("https://evil.example.com/"), ConfigError),
    "cut json": (Fault(edit=cut_in_the_middle), TransientError),
    "cut body": (Fault.cut(60), TransientError),
    "token list": (Fault(edit=lambda answer: replace(answer, body=b"[%s, 1]" % answer.body)), TransientError),
    "no access token": (
        Fault.rewrite(lambda payload: {**payload, "access_token": None, "x": payload["access_token"]}),
        TransientError,
    ),
    "lost": (Fault.lost_answer(), TransportError),
    "reset": (Fault.reset(), TransportError),
    "flood": (Fault.flood(2 * 1024 * 1024), TransientError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_secret_shows_when_the_provider_fails(stage: Stage, name: str) -> None:
    """Each fault meets each flow; the errors show nothing, nor do the records left behind."""
    fault, kind = FAULTS[name]
    with stage.broker() as broker:
        stage.log_in(broker)
        for act in (stage.renew, stage.obtain, stage.log_in):
            is_asked_again = act == stage.obtain and name in {"lost", "reset"}
            stage.provider.inject(fault, times=2 if is_asked_again else 1)
            assert type(act(broker)) is kind
            stage.see_what_is_left(broker)
        stage.provider.inject(fault)
        stage.run(lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()))


def test_no_secret_shows_when_the_provider_cannot_be_reached(stage: Stage) -> None:
    """A refused connection: every flow and revocation say so, and nothing else."""
    with stage.broker() as broker:
        stage.log_in(broker)
        session, callback = stage.start(broker)
        stage.provider.close()
        calls = [
            lambda: broker.complete_authorization(session, callback),
            lambda: broker.refresh_access_token(USER_REQUEST.force_refresh()),
            lambda: broker.client_credentials(SERVICE_REQUEST),
            lambda: broker.revoke(USER_REQUEST),
        ]
        for call in calls:
            assert type(stage.run(call)) is TransportError


def test_no_secret_shows_when_a_dead_grant_is_asked_for_again(stage: Stage) -> None:
    """Nothing stored, a tombstone, a revoked user: three errors, no secret."""
    with stage.broker() as broker:
        assert type(stage.renew(broker)) is AuthorizationRequiredError
        stage.log_in(broker)
        stage.provider.revoke_user("alice")
        assert type(stage.renew(broker)) is InvalidGrantError
        assert type(stage.renew(broker)) is RevokedError
        stage.see_what_is_left(broker)


def test_no_secret_shows_when_a_callback_is_refused(stage: Stage) -> None:
    """Wrong state, denied, replayed, expired, another client's: the code in the callback does not show."""
    with stage.broker() as broker:
        session, callback = stage.start(broker)
        code = dict(parse_qsl(urlsplit(callback).query))["code"]
        refused: list[tuple[Any, type[BrokerError]]] = [
            (callback.replace("state=", "state=x"), StateMismatchError),
            (f"{callback}&state=again", AuthorizationError),
            (f"{callback}&code={code}", AuthorizationError),
            ({"state": session.state, "code": [code, code]}, AuthorizationError),
            ({"state": session.state, "code": code.encode()}, AuthorizationError),
            ({"state": session.state, "code": code, "iss": "https://evil.example.com"}, AuthorizationError),
            (callback.encode(), AuthorizationError),
            (f"http://[::1?code={code}", AuthorizationError),
            ({"state": session.state, "code": code, "error": "access_denied"}, AuthorizationError),
            (callback, StateMismatchError),
        ]
        for given, kind in refused:
            assert type(stage.run(partial(broker.complete_authorization, session, given))) is kind
        other = Broker(stage.provider.descriptor(), "another-client", "another-secret", http_client=stage.spy)
        late, callback = stage.start(broker)
        assert type(stage.run(lambda: other.complete_authorization(late, callback))) is ConfigError
        assert type(stage.run(lambda: other.exchange_code(late, code))) is ConfigError
        stage.clock.advance(601)
        assert type(stage.run(lambda: broker.complete_authorization(late, callback))) is AuthorizationError
        assert type(stage.run(lambda: broker.exchange_code(late, code))) is AuthorizationError


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: f"[{text}]",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"scope": "openid', '"scope": "\\"openid'),
        lambda text: text.replace('"expires_at": "', '"expires_at": "x'),
        lambda text: text.replace('"tenant": "', '"tenant": " '),
        lambda text: text.replace('"code_verifier": "', '"code_verifier": ["').replace(
            '"code_cha', '"], "code_cha'
        ),
        lambda text: text.replace('"state"', '"stat"'),
    ],
    ids=range(8),
)
def test_no_secret_shows_when_a_session_or_record_cannot_be_read(
    stage: Stage, spoil: Callable[[str], str]
) -> None:
    """Corrupt JSON is a SerializationError without a word of the text, the traceback's locals included."""
    with stage.broker() as broker:
        session, _ = stage.start(broker)
        text = spoil(session.to_json())
        assert text != session.to_json()
        assert type(stage.run(lambda: AuthorizationSession.from_json(text))) is SerializationError
        record = stage.log_in(broker)
        for odd in (record.to_json()[:-1], record.to_json().replace('"version":1', '"version":9')):
            assert type(stage.run(partial(TokenRecord.from_json, odd))) is SerializationError


# What goes wrong around us.


class TellTale(ProviderStrategy):
    """Raises in the hook it is told to, with everything it knows in the message."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def tell(self, hook: str, *known: object) -> None:
        """Raise, if it is this hook's turn; the message and the cause hold all that the hook knew."""
        if hook == self.hook:
            raise ValueError(f"{hook} failed on {known}") from KeyError(*known)

    def augment_authorization_request(self, params: dict[str, str]) -> None:
        """Raise with the parameters."""
        self.tell("augment_authorization_request", params)

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        """Raise with the form."""
        self.tell("augment_token_request", form)

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raise with the payload."""
        self.tell("normalize_token_response", payload)
        return payload

    def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
        """Raise with the context."""
        self.tell("classify_token_error", context)
        return super().classify_token_error(context)


HOOKS = [
    ("augment_token_request", ConfigError),
    ("normalize_token_response", TransientError),
    ("classify_token_error", InvalidClientError),
]


@pytest.mark.parametrize(("hook", "kind"), HOOKS)
def test_no_secret_shows_when_a_hook_tells_all_it_knows(
    stage: Stage, hook: str, kind: type[BrokerError]
) -> None:
    """The hook's own error, whose text is full of secrets, does not come out and does not ride along."""
    strategy = TellTale("")
    with stage.broker(strategy=strategy) as broker:
        stage.log_in(broker)
        strategy.hook = hook
        for act in (stage.renew, stage.obtain, stage.log_in):
            if hook == "classify_token_error":
                stage.provider.inject(repeating(401, "invalid_client"))
            assert type(act(broker)) is kind
            stage.see_what_is_left(broker)


def test_no_secret_shows_when_the_authorization_hook_fails(stage: Stage) -> None:
    """The parameters hold no secret that must not show, and the hook's error stays out all the same."""
    strategy = TellTale("augment_authorization_request")
    with stage.broker(strategy=strategy) as broker:
        assert (
            type(stage.run(lambda: broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI)))
            is ConfigError
        )


class Spoiling(ProviderStrategy):
    """Leaves a value in the form of a token request that cannot be sent."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.active = False

    def augment_token_request(self, grant: GrantType, form: dict[str, str]) -> None:
        """Spoil the form."""
        if self.active:
            form["extra"] = self.value  # type: ignore[assignment]


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        ["a"],
        "\ud800",
    ],
)
def test_no_secret_shows_when_a_hook_leaves_what_cannot_be_sent(stage: Stage, value: object) -> None:
    """What has no encoding is a ConfigError before anything is sent; the form is in no traceback."""
    strategy = Spoiling(value)
    with stage.broker(strategy=strategy) as broker:
        stage.log_in(broker)
        strategy.active = True
        found = [act(broker) for act in (stage.renew, stage.obtain, stage.log_in)]
    stage.witness.assert_silence()
    assert [type(error) for error in found] == [ConfigError] * 3


class LeakyError(Exception):
    """What a careless HTTP stack raises: text, fields and cause hold request and answer."""


def raise_all(request: HttpRequest, response: HttpResponse | None) -> None:
    """Raise with the request, before it is sent."""
    error = LeakyError(f"POST {request.url} {request.body!r} {request.headers!r}")
    error.add_note(repr(request.body))
    raise error from ValueError(request.body, dict(request.headers))


def raise_answer(request: HttpRequest, response: HttpResponse | None) -> None:
    """Raise with the answer, once there is one."""
    if response is not None:
        raise LeakyError(response.body, response.headers)


class LeakyMapper:
    """A mapper that fails with all it knows."""

    def map_transport_error(
        self,
        strategy: ProviderStrategy,
        grant: GrantType,
        metadata: ResponseMetadata | None,
        error: Exception,
    ) -> BrokerError:
        """Raise."""
        raise RuntimeError(f"cannot map {error!r}") from error


class AbsurdMapper(LeakyMapper):
    """A mapper that gives something else."""

    def map_transport_error(
        self,
        strategy: ProviderStrategy,
        grant: GrantType,
        metadata: ResponseMetadata | None,
        error: Exception,
    ) -> BrokerError:
        """Give the error back as it is."""
        return error  # type: ignore[return-value]


@pytest.mark.parametrize("mapper", [None, LeakyMapper(), AbsurdMapper()], ids=["ours", "raises", "absurd"])
@pytest.mark.parametrize("fail", [raise_all, raise_answer])
def test_no_secret_shows_when_transport_and_mapper_tell_all_they_know(
    stage: Stage, fail: Callable[[HttpRequest, HttpResponse | None], None], mapper: LeakyMapper | None
) -> None:
    """Whatever they raise, text and cause stay inside."""
    with stage.broker(error_mapper=mapper) as broker:
        stage.log_in(broker)
        stage.spy.fail = fail
        for act in (stage.renew, stage.obtain, stage.log_in):
            assert isinstance(act(broker), TransientError | TransportError)
            stage.see_what_is_left(broker)
        assert isinstance(stage.run(lambda: broker.revoke(USER_REQUEST)), TransientError | TransportError)


def test_no_secret_shows_when_a_budget_delays_or_a_walk_reports(stage: Stage) -> None:
    """Neither in the error of a call that was not made, nor in what a walk through the store gives."""
    budget = TokenBucket(2, timedelta(days=10))
    with stage.broker(rate_limit=budget) as broker:
        stage.log_in(broker)
        stage.clock.advance(3000)
        hour = timedelta(hours=1)
        assert broker.renew_due(within=hour, jitter=timedelta()).renewed == 1
        assert isinstance(stage.renew(broker), DelayedError)
        stage.clock.advance(3000)
        report = broker.renew_due(within=hour, jitter=timedelta(), patience=timedelta())
        [error] = report.errors.values()
        assert isinstance(error, DelayedError)
        stage.witness.see_error(error)
        stage.witness.look("report", f"{report} {broker.prune(older_than=timedelta())}")
    stage.witness.assert_silence()


def test_no_secret_shows_when_the_user_interrupts(stage: Stage) -> None:
    """Ctrl-C in the middle of a send: our frames in its traceback hold nothing plain."""

    def interrupt(request: HttpRequest, response: HttpResponse | None) -> None:
        raise KeyboardInterrupt

    with stage.broker() as broker:
        stage.log_in(broker)
        stage.spy.fail = interrupt
        for act in (stage.renew, stage.obtain, stage.log_in):
            assert isinstance(act(broker), KeyboardInterrupt)


class FailingStore(MemoryStore):
    """Fails in the methods it is told to, as a driver does: with a cause that shows the record."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()

    def check(self, method: str, *arguments: object) -> None:
        """Raise, if it is this method's turn."""
        if method in self.failing:
            raise BackendError(f"{method} failed") from OSError(28, f"{arguments}")

    def fetch(self, key: StoreKey) -> TokenRecord | None:
        """Fail, or fetch."""
        self.check("fetch", key)
        return super().fetch(key)

    def save(self, record: TokenRecord) -> None:
        """Fail, or save."""
        self.check("save", record)
        super().save(record)

    def compare_and_swap_refresh(
        self, key: StoreKey, expected_refresh: TokenSecret | str | None, replacement: TokenRecord
    ) -> CompareAndSwapOutcome:
        """Fail, or swap; "swap new" fails only for what the provider has just issued."""
        self.check("swap", key, expected_refresh, replacement)
        if replacement.refresh_token != expected_refresh:
            self.check("swap new", key, expected_refresh, replacement)
        return super().compare_and_swap_refresh(key, expected_refresh, replacement)

    def revoke(self, key: StoreKey, *arguments: Any, **more: Any) -> TokenRecord | None:
        """Fail, or revoke."""
        self.check("revoke", key, *arguments)
        return super().revoke(key, *arguments, **more)

    def refresh_lease(self, key: StoreKey, *, timeout: float) -> Any:
        """Fail, or lease."""
        self.check("lease", key)
        return super().refresh_lease(key, timeout=timeout)


@pytest.mark.parametrize("method", ["fetch", "lease", "swap", "revoke"])
def test_no_secret_shows_when_the_store_fails(stage: Stage, method: str) -> None:
    """A store that fails before anything is sent is a StoreError in every flow that needs it."""
    store = FailingStore()
    with stage.broker(store=store) as broker:
        stage.log_in(broker)
        store.failing = {method}
        if method == "revoke":
            assert isinstance(stage.run(lambda: broker.revoke(USER_REQUEST)), StoreError)
            stage.provider.inject(Fault.json(400, {"error": "invalid_grant"}))
            assert isinstance(stage.renew(broker), InvalidGrantError)
        else:
            assert isinstance(stage.renew(broker), StoreError)
            stage.obtain(broker)
            stage.log_in(broker)
        store.failing = set()
        stage.see_what_is_left(broker)


def test_no_secret_shows_when_the_store_fails_after_the_provider_has_answered(stage: Stage) -> None:
    """Whether what came is served or an error raised: the tokens that could not be stored do not show."""
    stores = FailingStore(), FailingStore()
    with stage.broker(store=stores[0]) as first, stage.broker(store=stores[1]) as second:
        stage.log_in(first)
        stage.clock.advance(3700)
        session, callback = stage.start(second)
        stores[0].failing, stores[1].failing = {"swap new"}, {"save"}
        with ThreadPoolExecutor(2) as pool:  # both are retried for two seconds
            renewal = pool.submit(first.refresh_access_token, USER_REQUEST)
            login = pool.submit(second.complete_authorization, session, callback)
            for call in (renewal.result, login.result):
                found = stage.run(call)
                assert isinstance(found, TokenRecord | StoreError)
        stores[0].failing, stores[1].failing = set(), set()
        stage.see_what_is_left(first)
        stage.see_what_is_left(second)


class LeakyObserver:
    """Fails at every event."""

    def observe(self, event: FlowEvent) -> None:
        """Raise."""
        raise RuntimeError(f"{event}")


def test_no_secret_shows_when_an_observer_fails(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged by class name only."""
    with stage.broker(observers=[LeakyObserver()]) as broker:
        stage.log_in(broker)
        stage.renew(broker)
        stage.obtain(broker)
    assert any("LeakyObserver" in record.getMessage() for record in caplog.records)


# Mistakes in arguments.


def test_no_secret_shows_when_arguments_are_mistakes(stage: Stage) -> None:
    """A secret in the wrong place does not come back in the error."""
    descriptor = stage.provider.descriptor()
    stage.witness.learn("client secret", CLIENT_SECRET)
    calls: list[Callable[[], Any]] = [
        lambda: Broker(stage.provider.descriptor(client_auth="none"), CLIENT_ID, CLIENT_SECRET),
        lambda: Broker(descriptor, "", CLIENT_SECRET),
        lambda: Broker(descriptor, CLIENT_ID, CLIENT_SECRET + "\ud800"),
    ]
    for call in calls:
        assert isinstance(stage.run(call), ConfigError)


def test_no_secret_shows_when_a_secret_is_of_the_wrong_type(stage: Stage) -> None:
    """bytes for a secret, as secret managers give them, are refused without showing them."""
    wrong: Any = CLIENT_SECRET.encode()
    stage.witness.learn("client secret", CLIENT_SECRET)
    assert isinstance(stage.run(lambda: TokenSecret(wrong)), ConfigError)
    assert isinstance(stage.run(lambda: Broker(stage.provider.descriptor(), CLIENT_ID, wrong)), ConfigError)
    stage.witness.assert_silence()


def test_every_error_class_has_been_seen() -> None:
    """The scenes above reach every public error class but the abstract ones."""
    reached = {kind for _, kind in FAULTS.values()} | {kind for _, kind in HOOKS}
    reached |= {
        AuthorizationRequiredError,
        RevokedError,
        StateMismatchError,
        SerializationError,
        BackendError,
        DelayedError,
    }
    public = {
        found
        for name in oauth2broker.__all__
        if isinstance(found := getattr(oauth2broker, name), type) and issubclass(found, BrokerError)
    }
    assert public - reached == {BrokerError, StoreError}


def test_the_basic_header_is_known_to_the_witness(stage: Stage) -> None:
    """The scenes look for the client secret in the form that HTTP Basic gives it."""
    with stage.broker() as broker:
        stage.obtain(broker)
    pair = f"{CLIENT_ID}:{quote_plus(CLIENT_SECRET)}"
    assert base64.b64encode(pair.encode()).decode() in stage.witness.secrets


def test_no_secret_shows_when_a_provider_repeats_the_authorization_header(stage: Stage) -> None:
    """Gateways that complain about a header like to quote it."""
    pair = f"{CLIENT_ID}:{quote_plus(CLIENT_SECRET)}"
    basic = base64.b64encode(pair.encode()).decode()
    said = f"malformed header: Basic {basic}"
    stage.provider.inject(Fault.json(400, {"error": "invalid_request", "error_description": said}))
    with stage.broker() as broker:
        stage.obtain(broker)
    stage.witness.assert_silence()
