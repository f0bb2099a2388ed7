"""No secret in anything that observers, loggers and libraries give out.

``tests/test_secrecy.py`` has the scenes of every flow. Here: that its net has no hole where observers are
concerned, and what hands tokens on.
"""

from __future__ import annotations

import http.client
from contextlib import closing
from datetime import timedelta

import pytest
import requests

from oauth2broker import (
    BrokerAuth,
    BrokerSession,
    CachedTokenRequest,
    FlowKind,
    FlowSpan,
    InvalidGrantError,
    TokenLender,
    TokenRecord,
)
from oauth2broker.testing import Fault, LoopbackProvider
from tests.observers.sight import Sight
from tests.support import REDIRECT_URI, SCOPE, TENANT, USER, USER_REQUEST
from tests.test_secrecy import CLIENT_SECRET, Stage, Witness, stage

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
    assert "urllib3.connectionpool" in names
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
    """Login, call and renewal by BrokerSession: oauthlib and requests_oauthlib log at DEBUG, too."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 0)
    with stage.broker() as broker:
        request = CachedTokenRequest(TENANT, USER, SCOPE)
        session = BrokerSession(broker, request, redirect_uri=REDIRECT_URI, state="a-state-of-ours")
        url, _ = session.authorization_url(stage.provider.authorization_endpoint)
        callback = stage.provider.browse(url)
        token = session.fetch_token(
            stage.provider.token_endpoint, authorization_response=callback, client_secret=CLIENT_SECRET
        )
        assert token["access_token"]
        stage.clock.advance(3700)
        assert session.get(stage.provider.resource_endpoint).status_code == 200
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
