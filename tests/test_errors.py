"""Errors tell an outage from a dead grant, and travel without losing a field or carrying a secret."""

import copy
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import oauth2broker
from oauth2broker import (
    AuthorizationError,
    AuthorizationRequiredError,
    BackendError,
    BrokerError,
    CachedTokenRequest,
    ConfigError,
    DelayedError,
    InsufficientScopeError,
    InvalidClientError,
    InvalidGrantError,
    ProviderDescriptor,
    ProviderQuirks,
    ProviderTemplate,
    RevokedError,
    ScopeSet,
    SerializationError,
    StateMismatchError,
    StoreError,
    TransientError,
    TransportError,
)
from oauth2broker.client_auth.apple import AppleClientSecret
from oauth2broker.integrations.requests_oauthlib import BrokerSession

PARENTS: dict[type[BrokerError], type[Exception]] = {
    BrokerError: Exception,
    ConfigError: BrokerError,
    InvalidClientError: ConfigError,
    AuthorizationError: BrokerError,
    StateMismatchError: AuthorizationError,
    InvalidGrantError: BrokerError,
    AuthorizationRequiredError: InvalidGrantError,
    RevokedError: InvalidGrantError,
    InsufficientScopeError: BrokerError,
    TransientError: BrokerError,
    DelayedError: TransientError,
    TransportError: BrokerError,
    StoreError: BrokerError,
    SerializationError: StoreError,
    BackendError: StoreError,
}
EVERY = list(PARENTS)
REAUTHORIZE = {InvalidGrantError, AuthorizationRequiredError, RevokedError}
RETRYABLE = {TransientError, DelayedError, TransportError, BackendError}
CALLBACK = [AuthorizationError, StateMismatchError]

every_error = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)


def filled(kind: type[BrokerError]) -> BrokerError:
    """Give an error of ``kind`` with something other than the default in every field."""
    values: dict[str, Any] = {"status": 503, "retry_after": 7.5}
    if issubclass(kind, AuthorizationError):
        values |= {"error": "access_denied", "description": "No, thanks", "reauthorize": True}
    if issubclass(kind, TransportError):
        values |= {"sent": False}
    return kind("what went wrong", **values)


def fields_of(error: BrokerError) -> dict[str, Any]:
    names = ("status", "retry_after", "retryable", "reauthorize", "error", "description", "sent", "args")
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def descendants(kind: type[BrokerError]) -> set[type[BrokerError]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


def test_the_hierarchy_is_the_one_of_the_design() -> None:
    """Each error has exactly the parent that callers' except clauses rely on, and there are no others."""
    assert {kind: kind.__bases__ for kind in EVERY} == {kind: (base,) for kind, base in PARENTS.items()}
    ours = {kind for kind in descendants(BrokerError) if kind.__module__.startswith("oauth2broker")}
    assert ours == set(EVERY)


@every_error
def test_every_error_is_public(kind: type[BrokerError]) -> None:
    """What can be raised can be caught by a name imported from the top."""
    assert kind.__name__ in oauth2broker.__all__
    assert getattr(oauth2broker, kind.__name__) is kind


@every_error
def test_only_a_dead_grant_asks_the_user_to_authorize_again(kind: type[BrokerError]) -> None:
    """The flag follows the class, and no class says both "later" and "the user must help"."""
    assert kind("x").reauthorize is (kind in REAUTHORIZE)
    assert kind("x").retryable is (kind in RETRYABLE)
    assert not (kind.retryable and kind.reauthorize)


def test_an_outage_and_a_dead_grant_share_no_base_below_the_root() -> None:
    """No except clause short of BrokerError can take one for the other."""
    outages = {TransientError, TransportError, StoreError}
    for dead in descendants(InvalidGrantError):
        assert not issubclass(dead, tuple(outages))
    for outage in outages:
        assert not issubclass(outage, InvalidGrantError | ConfigError | AuthorizationError)
    assert not issubclass(InvalidClientError, InvalidGrantError)


@every_error
def test_an_error_made_of_a_message_has_fields_that_say_nothing(kind: type[BrokerError]) -> None:
    """status and retry_after are None where there is none; the message is the whole text."""
    error = kind("what went wrong")
    assert str(error) == "what went wrong"
    assert (error.status, error.retry_after) == (None, None)
    assert str(kind()) == ""


@every_error
def test_an_error_takes_its_fields_by_name_only(kind: type[BrokerError]) -> None:
    """Nobody passes a response by position and finds it in ``args``."""
    with pytest.raises(TypeError):
        kind("what went wrong", 503)  # type: ignore[call-arg]
    error = filled(kind)
    assert (error.status, error.retry_after) == (503, 7.5)
    assert error.args == ("what went wrong",)


@pytest.mark.parametrize("odd", ["7", float("nan"), -1.0, True, [7]])
@every_error
def test_what_is_no_time_to_wait_is_none(kind: type[BrokerError], odd: Any) -> None:
    """A hook may pass on whatever a provider said; what is reckoned with it must not fail."""
    assert kind("what went wrong", retry_after=odd).retry_after is None
    assert kind("what went wrong", retry_after=0).retry_after == 0


@pytest.mark.parametrize("kind", CALLBACK)
def test_a_callback_error_carries_what_the_provider_said(kind: type[AuthorizationError]) -> None:
    """The code and the description are fields; without them the callback itself is at fault."""
    error = kind("denied", error="access_denied", description="No, thanks", reauthorize=True)
    assert (error.error, error.description, error.reauthorize) == ("access_denied", "No, thanks", True)
    plain = kind("no state")
    assert (plain.error, plain.description, plain.reauthorize) == ("invalid_callback", None, False)


def test_a_transport_error_is_taken_for_sent_unless_proven_otherwise() -> None:
    """The default is the careful one: a refresh token may have been spent."""
    assert TransportError("reset").sent is True
    assert TransportError("no route", sent=False).sent is False


@every_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickle_with_its_fields(kind: type[BrokerError], protocol: int) -> None:
    """It can be sent between processes: same class, same text, same fields."""
    for error in (filled(kind), kind("x"), kind()):
        twin = pickle.loads(pickle.dumps(error, protocol))
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert fields_of(twin) == fields_of(error)


@every_error
def test_a_copied_error_has_the_fields_and_not_the_history(kind: type[BrokerError]) -> None:
    """Each waiting caller raises one of its own: no traceback, cause or context comes along."""

    def fail() -> None:
        try:
            int("s3cr3t")
        except ValueError as cause:
            raise filled(kind) from cause

    with pytest.raises(kind) as caught:
        fail()
    error = caught.value
    assert "s3cr3t" in str(error.__cause__)
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert twin is not error
        assert type(twin) is kind
        assert fields_of(twin) == fields_of(error)
        assert (twin.__cause__, twin.__context__, twin.__traceback__) == (None, None, None)
        assert "s3cr3t" not in "".join(traceback.format_exception(twin))


@every_error
def test_changing_a_copied_error_leaves_the_original_alone(kind: type[BrokerError]) -> None:
    """The flight's error is shared by many threads."""
    error = filled(kind)
    twin = copy.copy(error)
    twin.retry_after = 1.0
    assert error.retry_after == 7.5


@every_error
def test_an_error_holds_plain_values_only(kind: type[BrokerError]) -> None:
    """No response, body, form or token hangs on an error: whatever it holds is a str, a number or None."""
    error = filled(kind)
    held = [*vars(error).values(), *error.args]
    assert all(value is None or isinstance(value, str | int | float) for value in held)


@every_error
def test_an_error_raised_outside_a_handler_tells_everything_without_a_context(
    kind: type[BrokerError],
) -> None:
    """Its text and fields are enough: it needs neither cause nor context to be understood."""
    with pytest.raises(kind, match=r"^what went wrong$") as caught:
        raise filled(kind)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert repr(caught.value) == f"{kind.__name__}('what went wrong')"


@every_error
def test_an_error_class_says_what_it_means(kind: type[BrokerError]) -> None:
    """Each has a docstring of its own, not an inherited one."""
    assert kind.__doc__
    assert "__doc__" in vars(kind)


def refusals() -> list[Callable[[], object]]:
    """Give constructors with arguments that they refuse."""
    broker: Any = 5
    return [
        lambda: AppleClientSecret("TEAM", "client", "KEY", ""),
        lambda: BrokerSession(broker, CachedTokenRequest("tenant", "user", "read")),
        lambda: ProviderDescriptor("", "https://p.example.com/token", ["client_credentials"]),
        lambda: ProviderQuirks(api_header=""),
        lambda: ProviderTemplate("", variables={}),
        lambda: ScopeSet('"'),
    ]


@pytest.mark.parametrize("refuse", refusals())
def test_what_refuses_its_arguments_can_be_shown(refuse: Callable[[], object]) -> None:
    """A crash reporter shows ``self`` in the frame of the constructor, and must not fail at it."""
    with pytest.raises(ConfigError) as refused:
        refuse()
    told = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    shown = [frame.locals["self"] for frame in told.stack if frame.locals and "self" in frame.locals]
    assert shown
    assert not any("object at" in each or "repr() failed" in each for each in shown)  # as Pythons have it
