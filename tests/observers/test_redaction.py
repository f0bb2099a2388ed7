"""No secret in anything that observers, loggers and libraries give out.

``tests/test_secrecy.py`` has the scenes of every flow. Here: that its net has no hole where observers are
concerned, and what hands tokens on.
"""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from itertools import product
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests

from oauth2broker import (
    BackendError,
    Broker,
    BrokerAuth,
    BrokerError,
    BrokerSession,
    CachedTokenRequest,
    ConfigError,
    FlowKind,
    FlowOutcome,
    FlowSpan,
    GrantType,
    InvalidClientError,
    InvalidGrantError,
    RequestsHttpClient,
    StoreKey,
    TokenLender,
    TokenRecord,
)
from oauth2broker.testing import Fault, LoopbackProvider
from oauth2broker.transports.httpx import HttpxHttpClient
from tests.observers.operating import stages
from tests.observers.sight import Sight
from tests.support import REDIRECT_URI, SCOPE, SERVICE_REQUEST, TENANT, USER, USER_REQUEST
from tests.test_secrecy import CLIENT_SECRET, Stage, Witness, raise_all, stage

__all__ = ["stage"]  # a fixture


@pytest.mark.parametrize("place", ["provider", "tenant", "stage", "error"])
def test_the_witness_sees_what_is_planted_in_an_observers_words(place: str) -> None:
    """In spans, both kinds of metrics and lines: wherever that word is told."""
    sight, secret = Sight(), "planted-s3cret"
    words = {"provider": "p", "tenant": "t", "stage": "s"} | ({place: secret} if place != "error" else {})
    failure = type(secret if place == "error" else "E", (Exception,), {})
    with (
        pytest.raises(failure),
        FlowSpan(
            FlowKind.REFRESH,
            words["stage"],
            observers=sight.observers,
            provider=words["provider"],
            tenant=words["tenant"],
        ),
    ):
        raise failure
    witness = Witness()
    witness.learn(place, secret)
    for where, text in sight.texts():
        witness.look(where, text)
    metrics = {"OpenTelemetry metrics", "/metrics"} if place == "provider" else set()
    assert {where for _, where in witness.leaks()} == {"spans", "lines"} | metrics


def test_the_witness_sees_what_http_client_prints(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, provider: LoopbackProvider
) -> None:
    """Its debug output is on; another client's request shows what ours would."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    host = provider.base_url.removeprefix("http://")
    with closing(http.client.HTTPConnection(host)) as connection:
        connection.request("POST", "/token", "grant_type=x", {"Authorization": "Basic planted"})
        connection.getresponse().read()
    assert "Basic planted" in capfd.readouterr().out


def test_all_loggers_talk_and_none_tells(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The scenes are no dumb show: the HTTP stack and the observers did log."""
    with stage.broker() as broker:
        assert isinstance(stage.log_in(broker), TokenRecord)
        assert isinstance(stage.renew(broker), TokenRecord)
    names = {record.name for record in caplog.get_records("call")}
    assert {"urllib3.connectionpool", "oauthlib.oauth2.rfc6749.endpoints.token"} <= names
    assert logging.getLogger("requests_oauthlib.oauth2_session").isEnabledFor(logging.DEBUG)
    assert http.client.HTTPConnection.debuglevel
    assert stage.sight.lines.records
    assert stage.sight.spans.get_finished_spans()


def test_no_secret_shows_when_requests_are_signed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """By BrokerAuth, with a 401 and a renewal; http.client shows what the program's own session sends."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 0)
    with stage.broker() as broker, requests.Session() as session:
        stage.log_in(broker)
        session.auth = BrokerAuth(broker, USER_REQUEST)
        assert stage.run(lambda: session.get(stage.provider.resource_endpoint).status_code) == 200
        stage.clock.advance(timedelta(minutes=5))
        stage.provider.revoke_user("alice")
        stage.run(lambda: session.get(stage.provider.resource_endpoint).status_code)
        stage.see_what_is_left(broker)


def test_no_secret_shows_in_a_session(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Login and renewal by BrokerSession, with all debug output on; API calls with all but http.client's."""
    with stage.broker() as broker:
        request = CachedTokenRequest(TENANT, USER, SCOPE)
        session = BrokerSession(broker, request, redirect_uri=REDIRECT_URI)
        url, _ = session.authorization_url(stage.provider.authorization_endpoint)
        callback = stage.provider.browse(url)
        stage.witness.learn("code", dict(parse_qsl(urlsplit(callback).query))["code"])
        token_url, api = stage.provider.token_endpoint, stage.provider.resource_endpoint
        fetch = partial(session.fetch_token, token_url, client_secret=CLIENT_SECRET)
        assert fetch(authorization_response=callback)["access_token"]
        stage.clock.advance(3700)
        session.refresh_token(token_url)
        stage.clock.advance(3700)
        stage.provider.inject(Fault.json(401, {"error": "invalid_client"}))
        assert isinstance(stage.run(lambda: session.refresh_token(token_url)), InvalidClientError)
        assert isinstance(stage.run(lambda: fetch(authorization_response=callback)), BrokerError)
        monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 0)  # else it shows what the API gets
        assert session.get(api).status_code == 200
        stage.see_what_is_left(broker)
        stage.witness.look("session", f"{session!r} {session}")


def test_no_secret_shows_when_a_token_is_lent(stage: Stage) -> None:
    """Neither in the loan, nor where a token is rejected, nor when there is none to lend."""
    with stage.broker() as broker:
        stage.log_in(broker)
        lender = TokenLender(broker)
        for _ in range(2):
            context = lender.context(USER_REQUEST, minimum_ttl=timedelta(minutes=5))
            with lender.lend(context) as lent:
                stage.witness.see("lent record", lent.record)
                stage.witness.look("loan", f"{lent!r} {lent} {lender!r} {context!r} {vars(lender)!r}")
                stage.witness.see("record in the place of a rejected one", stage.run(lent.reject))
            stage.clock.advance(3700)
        stage.provider.inject(Fault.json(400, {"error": "invalid_grant"}))
        assert isinstance(stage.run(lambda: lender.lend(context).__enter__()), InvalidGrantError)
        stage.see_what_is_left(broker)


def every_flow(stage: Stage, broker: Broker) -> list[Callable[[], Any]]:
    """Give a call of each flow, which succeeds if nothing is in its way, in that order."""
    lenders = TokenLender(broker), TokenLender(broker, GrantType.CLIENT_CREDENTIALS)
    hour, long = timedelta(hours=1), timedelta(minutes=40)
    (session, callback), (other, _) = stage.start(broker), stage.start(broker)
    code = dict(parse_qsl(urlsplit(stage.provider.browse(other.authorize_url)).query))["code"]
    stage.witness.learn("code", code)

    def lend(lender: TokenLender, request: CachedTokenRequest) -> Any:
        with lender.lend(lender.context(request, minimum_ttl=long)) as lent:
            return lent.record

    def renew_due() -> Any:
        report = broker.renew_due(within=hour, jitter=timedelta())
        for error in report.errors.values():
            raise error
        return report

    return [
        partial(broker.complete_authorization, session, callback),
        partial(broker.exchange_code, other, code),
        partial(broker.refresh_access_token, USER_REQUEST.force_refresh()),
        lambda: stage.clock.advance(1800),
        partial(lend, lenders[0], USER_REQUEST),
        lambda: stage.clock.advance(1800),
        renew_due,
        partial(broker.client_credentials, SERVICE_REQUEST.force_refresh()),
        lambda: stage.clock.advance(1800),
        partial(lend, lenders[1], SERVICE_REQUEST),
        partial(broker.revoke, USER_REQUEST),
        partial(broker.revoke, SERVICE_REQUEST, GrantType.CLIENT_CREDENTIALS),
    ]


def no_keys(*_: object) -> Iterator[StoreKey]:
    raise BackendError("the store cannot be listed")


@pytest.mark.parametrize("transport", [RequestsHttpClient, HttpxHttpClient])
def test_no_secret_shows_in_any_flow_whether_it_succeeds_or_fails(
    stage: Stage, transport: type[RequestsHttpClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each flow that the code has ended both ways before all eyes, over either HTTP stack."""
    stage.spy.inner.close()
    stage.spy.inner = transport()
    with stage.broker() as broker:
        start = partial(broker.start_authorization, TENANT, USER, SCOPE, REDIRECT_URI)
        assert isinstance(stage.run(partial(start, extra_params={"state": "ours"})), ConfigError)
        calls = every_flow(stage, broker)
        found = [stage.run(call) for call in calls]
        assert not [error for error in found if isinstance(error, BaseException)]
        assert isinstance(stage.obtain(broker), TokenRecord)
        assert isinstance(stage.log_in(broker), TokenRecord)
        calls = every_flow(stage, broker)
        stage.spy.fail = raise_all
        failed = [error for call in calls if isinstance(error := stage.run(call), BrokerError)]
        assert len(failed) == len(calls) - 3  # the clock does not fail
        monkeypatch.setattr(broker.store, "keys_dead", no_keys)
        assert isinstance(stage.run(broker.prune), BrokerError)
        stage.see_what_is_left(broker)
    ended = {(event.stage, event.outcome) for event in stage.sight.listener.events}
    assert ended == {*product(stages(), FlowOutcome)} - {("prune", FlowOutcome.SUCCESS)}  # told if it fails
