"""A secret does not show itself, whatever is done to it short of expose()."""

import copy
import dataclasses
import hashlib
import hmac
import io
import json
import logging
import marshal
import pickle
import pprint
import string
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import pytest
from hypothesis import given, strategies as st

from oauth2broker import ConfigError, TokenSecret

PLAIN = "s3cr3t-plain-text"
SECRET = TokenSecret(PLAIN)

SHOWN: dict[str, Callable[[TokenSecret], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": format,
    "format with a width": lambda secret: format(secret, ">40"),
    "f-string": lambda secret: f"{secret}",
    "f-string !r": lambda secret: f"{secret!r}",
    "f-string !s": lambda secret: f"{secret!s:_<30}",
    "f-string =": lambda secret: f"{secret=}",
    "str.format": lambda secret: "{} {!r} {:^9}".format(secret, secret, secret),  # noqa: UP032
    "%s": lambda secret: "%s %r %a %20s" % (secret, secret, secret, secret),  # noqa: UP031
    "%(name)s": lambda secret: "%(name)s" % {"name": secret},  # noqa: UP031
    "Template": lambda secret: string.Template("$secret").substitute(secret=secret),
    "print": lambda secret: printed(secret),
    "pprint": lambda secret: pprint.pformat({"token": [secret]}),
    "list": lambda secret: str([secret]),
    "dict": lambda secret: str({secret: secret}),
    "set": lambda secret: str({secret}),
    "json default=str": lambda secret: json.dumps({"token": secret}, default=str),
    "json default=repr": lambda secret: json.dumps({"token": secret}, default=repr),
    "exception": lambda secret: repr(ValueError(secret)) + str(ValueError(secret)),
    "dir": lambda secret: str(dir(secret)),
    "doc": lambda secret: str(secret.__doc__),
}


@dataclass
class Holder:
    """What an application might keep a secret in."""

    name: str
    token: TokenSecret


def printed(value: object) -> str:
    stream = io.StringIO()
    print(value, file=stream)
    return stream.getvalue()


def frames_beyond_this_file(tb: TracebackType | None) -> str:
    """Give the frames of ``tb`` with their locals, without those of the test itself."""
    summary = traceback.StackSummary.extract(traceback.walk_tb(tb), capture_locals=True)
    return "".join(f"{frame.name} {frame.locals}" for frame in summary if frame.filename != __file__)


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
def test_no_way_of_showing_a_secret_shows_its_text(show: Callable[[TokenSecret], str]) -> None:
    """Neither the text nor a part of it appears."""
    shown = show(SECRET)
    assert PLAIN not in shown
    assert "s3cr3t" not in shown


def test_a_shown_secret_says_that_it_is_one() -> None:
    """A reader of a log sees that something is there and was left out, and a width is respected."""
    assert repr(SECRET) == "TokenSecret(***)"
    assert str(SECRET) == f"{SECRET}" == "***"
    assert f"{SECRET:>6}" == "   ***"


def test_expose_gives_the_text() -> None:
    """The one way out works."""
    assert SECRET.expose() == PLAIN
    assert TokenSecret("\ud800 \n").expose() == "\ud800 \n"


def test_a_secret_made_of_a_secret_is_that_secret() -> None:
    """Coercion at an edge copies nothing."""
    assert TokenSecret(SECRET) is SECRET


def test_logging_does_not_show_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Not as an argument, in a mapping, as the message itself, nor as an extra."""
    logger = logging.getLogger("tests.secret")
    with caplog.at_level(logging.DEBUG, logger.name):
        logger.debug("%s %r %20s", SECRET, SECRET, SECRET)
        logger.debug("%(token)s", {"token": SECRET})
        logger.debug(SECRET)
        logger.debug("with an extra", extra={"token": SECRET})
        logger.debug([SECRET])
    formatter = logging.Formatter("%(message)s %(args)s")
    text = caplog.text + "".join(formatter.format(record) + repr(vars(record)) for record in caplog.records)
    assert len(caplog.records) == 5
    assert PLAIN not in text


def test_a_warning_does_not_show_a_secret() -> None:
    """A warning about a secret carries its redacted form."""
    with pytest.warns(UserWarning, match="[*]{3} TokenSecret") as caught:
        warnings.warn(f"{SECRET} {SECRET!r}", UserWarning, stacklevel=1)
    assert PLAIN not in str(caught[0].message)


def test_asdict_of_a_dataclass_keeps_the_secret_closed() -> None:
    """``dataclasses.asdict`` hands on the secret itself; its dict can be printed and dumped."""
    holder = Holder("demo", SECRET)
    plain = dataclasses.asdict(holder)
    assert plain["token"] is SECRET
    assert PLAIN not in f"{holder} {plain} {json.dumps(plain, default=str)} {dataclasses.astuple(holder)}"


def test_a_traceback_with_locals_does_not_show_a_secret() -> None:
    """What a crash reporter sends away holds no text, though the secret was a local variable."""

    def fail(token: TokenSecret) -> None:
        holder = {"token": token}
        raise ValueError("failed", holder)

    with pytest.raises(ValueError, match="failed") as caught:
        fail(SECRET)
    error = caught.value
    assert error.__traceback__ is not None
    inner = error.__traceback__.tb_next
    report = traceback.TracebackException(type(error), error, inner, capture_locals=True)
    text = "".join(report.format())
    assert "TokenSecret(***)" in text
    assert PLAIN not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_refuses_to_be_pickled(protocol: int) -> None:
    """Alone or inside something else, with every protocol, and the refusal does not quote it."""
    for value in (SECRET, [SECRET], Holder("demo", SECRET)):
        with pytest.raises(TypeError, match="refuses to be pickled") as caught:
            pickle.dumps(value, protocol)
        assert PLAIN not in frames_beyond_this_file(caught.tb) + str(caught.value)


@pytest.mark.parametrize(
    "dump",
    [
        json.dumps,
        marshal.dumps,
        lambda secret: secret.__getstate__(),
        lambda secret: secret.__reduce__(),
        lambda secret: secret.__reduce_ex__(2),
        vars,
        bytes,
        list,
        "".join,
        lambda secret: PLAIN[:0] + secret,
    ],
    ids=["json", "marshal", "getstate", "reduce", "reduce_ex", "vars", "bytes", "list", "join", "concat"],
)
def test_no_other_way_of_taking_a_secret_apart_works(dump: Callable[[object], object]) -> None:
    """Each is refused, without a word of the text."""
    with pytest.raises((TypeError, ValueError)) as caught:
        dump(SECRET)
    assert PLAIN not in str(caught.value) + frames_beyond_this_file(caught.tb)


def test_copies_of_a_secret_are_the_secret() -> None:
    """copy and deepcopy spread no second text through memory."""
    assert copy.copy(SECRET) is SECRET
    assert copy.deepcopy(SECRET) is SECRET
    assert copy.deepcopy([SECRET])[0] is SECRET
    assert copy.deepcopy(Holder("demo", SECRET)).token is SECRET


@given(st.text(), st.text())
def test_secrets_are_equal_exactly_when_their_texts_are(one: str, other: str) -> None:
    """Equality, hash and fingerprint follow the text."""
    assert TokenSecret(one) == TokenSecret(one)
    assert hash(TokenSecret(one)) == hash(TokenSecret(one))
    assert (TokenSecret(one) == TokenSecret(other)) is (one == other)
    assert (TokenSecret(one) != TokenSecret(other)) is (one != other)
    assert (TokenSecret(one).fingerprint() == TokenSecret(other).fingerprint()) is (one == other)


def test_a_secret_equals_no_string() -> None:
    """A program that compares without expose() finds out at once."""
    secret: object = SECRET
    assert secret != PLAIN
    assert secret != PLAIN.encode()
    assert secret is not None


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is left to ``hmac.compare_digest``, also where lengths differ or text is not ASCII."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for one, other in [("a", "a"), ("a", "longer"), ("\u00e4", "a"), ("\ud800", "\ud801")]:
        assert (TokenSecret(one) == TokenSecret(other)) is (one == other)
    assert len(compared) == 4


def test_an_empty_secret_is_false() -> None:
    """It stands for one that was removed; any text, blank or not, is true."""
    assert not TokenSecret("")
    assert TokenSecret(" ")
    assert SECRET


def test_the_fingerprint_is_the_hex_sha256() -> None:
    """It recognises a token and does not hold it."""
    assert SECRET.fingerprint() == hashlib.sha256(PLAIN.encode()).hexdigest()
    assert len(TokenSecret("\ud800").fingerprint()) == 64


@pytest.mark.parametrize("name", ["_value", "value", "note", "__class__", "__dict__"])
def test_a_secret_cannot_be_changed(name: str) -> None:
    """Setting or deleting any attribute is refused, also one that would change what it is."""
    with pytest.raises(AttributeError, match="cannot be changed"):
        setattr(SECRET, name, "other")
    with pytest.raises(AttributeError, match="cannot be changed"):
        delattr(SECRET, name)
    assert SECRET.expose() == PLAIN


@pytest.mark.parametrize(
    "value",
    [PLAIN.encode(), bytearray(PLAIN.encode()), [PLAIN], {PLAIN: PLAIN}, (PLAIN,), None, 5],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_str_is_refused_without_being_shown(value: object) -> None:
    """The error names the type; neither it nor a local variable of the library's frames holds the value."""
    with pytest.raises(ConfigError, match=type(value).__name__) as caught:
        TokenSecret(value)  # type: ignore[arg-type]
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert PLAIN not in repr(error) + frames_beyond_this_file(caught.tb)
