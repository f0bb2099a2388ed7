"""What a descriptor's fields and quirks do to the requests that go out and to what is made of answers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from oauth2broker import (
    AuthorizationError,
    AuthorizationSession,
    Broker,
    BrokerError,
    CachedTokenRequest,
    CallbackContext,
    ConfigError,
    DefaultProviderStrategy,
    Endpoint,
    ExpiryRule,
    GrantType,
    HttpRequest,
    HttpResponse,
    InvalidClientError,
    InvalidGrantError,
    ProviderDescriptor,
    ProviderErrorContext,
    ProviderErrorKind,
    ProviderQuirks,
    ProviderStrategy,
    RequestDraft,
    ResponseMetadataSlot,
    TokenRecord,
    TokenSecret,
    TransientError,
    TransportError,
)
from tests.support import REDIRECT_URI, SCOPE, TENANT, USER, USER_REQUEST, ManualClock

HOST = "https://provider.example.com"
RESOURCE = "https://api.example.com"
ANSWER = {"access_token": "at-1", "refresh_token": "rt-1", "token_type": "Bearer", "expires_in": 3600}
JSON = {"Content-Type": "application/json"}
SERVICE = CachedTokenRequest(TENANT, "svc", SCOPE)


class Wire:
    """A transport that keeps what is sent and answers what it was told, the last answer again and again."""

    def __init__(self, *answers: Any) -> None:
        self.sent: list[HttpRequest] = []
        self._answers = list(answers)

    def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
        self.sent.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, HttpResponse):
            return answer
        return HttpResponse(200, JSON, json.dumps(answer).encode())

    @property
    def form(self) -> dict[str, str]:
        """The parameters of the last request, as a form."""
        return dict(parse_qsl(self.sent[-1].body.decode(), keep_blank_values=True))


def describe(**changes: Any) -> ProviderDescriptor:
    return ProviderDescriptor(
        **{
            "id": "odd",
            "authorization_endpoint": f"{HOST}/authorize",
            "token_endpoint": f"{HOST}/token",
            "revocation_endpoint": f"{HOST}/revoke",
            "grants": set(GrantType),
            **changes,
        }
    )


def make(wire: Wire, **changes: Any) -> Broker:
    clock = changes.pop("clock", ManualClock())
    return Broker(describe(**changes), "app", "secret-of-app", http_client=wire, clock=clock)


def start(broker: Broker, **options: Any) -> tuple[AuthorizationSession, dict[str, str]]:
    """Give a session and the parameters of its URL."""
    session = broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI, **options)
    return session, dict(parse_qsl(urlsplit(session.authorize_url).query, keep_blank_values=True))


def log_in(broker: Broker, **params: str) -> TokenRecord:
    session, _ = start(broker)
    return broker.complete_authorization(session, {"state": session.state, "code": "code-1", **params})


# What goes out


def test_static_parameters_join_the_grants_that_they_are_for() -> None:
    """Of all grants or of one, and a grant may go by another name."""
    wire = Wire(ANSWER)
    own_name = {"client_credentials": {"grant_type": "account_credentials", "account_id": "a-1"}}
    broker = make(wire, token_params={"action": "request"}, grant_params=own_name)
    log_in(broker)
    assert (wire.form["action"], wire.form["grant_type"]) == ("request", "authorization_code")
    assert "account_id" not in wire.form
    broker.client_credentials(SERVICE)
    assert wire.form["grant_type"] == "account_credentials"
    assert (wire.form["action"], wire.form["account_id"]) == ("request", "a-1")


def test_renewing_goes_to_its_own_endpoint() -> None:
    """The code is exchanged at one address and the refresh token presented at another."""
    wire, clock = Wire(ANSWER), ManualClock()
    broker = make(wire, refresh_endpoint=f"{HOST}/refresh", clock=clock)
    log_in(broker)
    clock.advance(7200)
    broker.refresh_access_token(USER_REQUEST)
    assert [request.url for request in wire.sent] == [f"{HOST}/token", f"{HOST}/refresh"]


def test_headers_of_the_provider_are_on_every_request() -> None:
    """Token requests and revocations; its own Accept may replace ours."""
    wire = Wire(ANSWER)
    broker = make(wire, token_headers={"Provider-Version": "2026-11-01", "Accept": "application/x-provider"})
    log_in(broker)
    broker.revoke(USER_REQUEST)
    for request in wire.sent:
        assert request.headers["Provider-Version"] == "2026-11-01"
        assert request.headers["Accept"] == "application/x-provider"


def test_a_header_of_the_provider_replaces_ours_in_whatever_case() -> None:
    """Two of a name would leave the choice to the server."""
    wire = Wire(ANSWER)
    log_in(make(wire, token_headers={"accept": "text/json"}))
    sent = {name: value for name, value in wire.sent[-1].headers.items() if name.lower() == "accept"}
    assert sent == {"accept": "text/json"}


def test_names_are_exchanged_at_once_and_not_one_after_the_other() -> None:
    """A name that is given up by one parameter may be taken by another."""
    names = {"state": "st", "code_challenge": "state"}
    session, params = start(make(Wire(ANSWER), quirks=ProviderQuirks(param_names=names)))
    assert (params["st"], params["state"]) == (session.state, session.code_challenge)


def test_a_json_body_holds_all_that_a_form_would() -> None:
    """The client's own credentials as well."""
    wire = Wire(ANSWER)
    log_in(make(wire, body_format="json", client_auth="client_secret_post"))
    sent = wire.sent[-1]
    assert sent.headers["Content-Type"] == "application/json"
    body = json.loads(sent.body)
    assert (body["code"], body["client_id"], body["client_secret"]) == ("code-1", "app", "secret-of-app")


def test_parameters_in_the_query_leave_the_body_empty() -> None:
    """For providers that read nothing else."""
    wire = Wire(ANSWER)
    log_in(make(wire, body_format="query", token_endpoint=f"{HOST}/token?v=2"))
    sent = wire.sent[-1]
    query = dict(parse_qsl(urlsplit(sent.url).query))
    assert (query["v"], query["code"], sent.body) == ("2", "code-1", b"")
    assert "Content-Type" not in sent.headers
    assert "code-1" not in repr(sent)


def test_renamed_parameters_go_by_their_name_here_everywhere() -> None:
    """In the URL that the user goes to, in token requests, in revocations; None leaves one out."""
    wire = Wire(ANSWER)
    names = {"client_id": "client_key", "scope": None}
    broker = make(wire, client_auth="client_secret_post", quirks=ProviderQuirks(param_names=names))
    _, params = start(broker)
    assert params["client_key"] == "app"
    assert not {"client_id", "scope", "None"} & params.keys()
    log_in(broker)
    assert wire.form["client_key"] == "app"
    assert "client_id" not in wire.form
    broker.revoke(USER_REQUEST)
    assert (wire.form["client_key"], wire.form["token"]) == ("app", "rt-1")


@pytest.mark.parametrize("name", ["resource", "audience"])
def test_no_extra_parameter_replaces_the_resource(name: str) -> None:
    """Else the token of one API would be stored under the name of another."""
    broker = make(Wire(ANSWER), resource_param=name)
    with pytest.raises(ConfigError, match=name):
        start(broker, resource=RESOURCE, extra_params={name: "https://other.example.com"})


@pytest.mark.parametrize("name", ["resource", "audience"])
def test_a_resource_goes_by_the_providers_name_for_it(name: str) -> None:
    """In the URL, in the exchange, in the renewal and in the client's own request."""
    wire, clock = Wire(ANSWER), ManualClock()
    broker = make(wire, resource_param=name, clock=clock)
    session, params = start(broker, resource=RESOURCE)
    assert params[name] == RESOURCE
    broker.complete_authorization(session, {"state": session.state, "code": "code-1"})
    clock.advance(7200)
    broker.refresh_access_token(CachedTokenRequest(TENANT, USER, SCOPE, resource=RESOURCE))
    broker.client_credentials(CachedTokenRequest(TENANT, "svc", SCOPE, resource=RESOURCE))
    forms = [dict(parse_qsl(request.body.decode())) for request in wire.sent]
    assert [form[name] for form in forms] == [RESOURCE] * 3


def test_a_provider_that_takes_no_resource_is_not_sent_one() -> None:
    """Whoever asks learns it before anything is sent."""
    wire = Wire(ANSWER)
    broker = make(wire, resource_param=None)
    with pytest.raises(ConfigError, match="resource"):
        start(broker, resource=RESOURCE)
    with pytest.raises(ConfigError, match="resource"):
        broker.client_credentials(CachedTokenRequest(TENANT, "svc", SCOPE, resource=RESOURCE))
    assert wire.sent == []


@pytest.mark.parametrize("stance", ["required", "supported", "unknown"])
def test_pkce_is_sent_unless_the_provider_refuses_it(stance: str) -> None:
    """A server that does not know a parameter ignores it (RFC 6749 section 3.1)."""
    wire = Wire(ANSWER)
    broker = make(wire, pkce=stance)
    session, params = start(broker)
    assert params["code_challenge"] == session.code_challenge
    log_in(broker)
    assert wire.form["code_verifier"]


def test_no_pkce_where_it_is_refused_also_from_a_kept_session() -> None:
    """The session says what was sent, so the exchange fits it after a restart too."""
    wire = Wire(ANSWER)
    broker = make(wire, pkce="unsupported")
    session, params = start(broker)
    assert not {"code_challenge", "code_challenge_method"} & params.keys()
    kept = AuthorizationSession.from_json(session.to_json())
    assert (kept.code_verifier.expose(), kept.code_challenge) == ("", "")
    broker.complete_authorization(kept, {"state": session.state, "code": "code-1"})
    assert "code_verifier" not in wire.form


def test_spaces_in_the_authorization_url_are_percent_encoded() -> None:
    """Some providers do not read a plus as a space; all read ``%20`` as one. A plus stays a plus."""
    broker = make(Wire(ANSWER), authorization_params={"hint": "a+b c"})
    url = start(broker)[0].authorize_url
    assert "scope=openid%20profile" in url
    assert "hint=a%2Bb%20c" in url


def test_revocation_takes_the_token_that_the_provider_wants() -> None:
    """The refresh token as in RFC 7009, or the access token."""
    for quirks, token, hint in (
        (None, "rt-1", "refresh_token"),
        (ProviderQuirks(revoke_access_token=True), "at-1", "access_token"),
    ):
        wire = Wire(ANSWER)
        broker = make(wire, quirks=quirks)
        log_in(broker)
        broker.revoke(USER_REQUEST)
        assert (wire.form["token"], wire.form["token_type_hint"]) == (token, hint)


def test_a_revocation_refused_in_a_200_leaves_the_store_as_it_was() -> None:
    """A provider that answers errors with 200 does so here too."""
    wire = Wire(ANSWER, {"ok": False, "error": "fatal_error"})
    broker = make(wire)
    log_in(broker)
    with pytest.raises(ConfigError, match="fatal_error"):
        broker.revoke(USER_REQUEST)
    assert broker.refresh_access_token(USER_REQUEST).access_token.expose() == "at-1"


# What comes back


def issued(answer: Any, quirks: ProviderQuirks | None = None, **changes: Any) -> TokenRecord:
    """Give the record of a login that got ``answer``."""
    return log_in(make(Wire(answer), quirks=quirks, **changes))


def test_a_nested_token_is_found_and_what_stands_beside_it_is_kept() -> None:
    """But never a token of somebody else: those beside it are not part of this one."""
    answer = {"status": 0, "refresh_token": "rt-other", "team": "t-1", "body": {**ANSWER, "userid": 7}}
    record = issued(answer, ProviderQuirks(token_path="body"))
    assert record.access_token.expose() == "at-1"
    assert record.refresh_token is not None
    assert record.refresh_token.expose() == "rt-1"
    assert dict(record.extra) == {"status": 0, "team": "t-1", "userid": 7}


def test_a_path_is_followed_also_where_members_have_other_names() -> None:
    """The strategy gets what is nested, to rename it; only a token at the top turns the path down."""

    class Camel(ProviderStrategy):
        def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"access_token": payload["accessToken"]}

    answer = {"code": "0", "result": {"accessToken": "at-1"}}
    quirks = ProviderQuirks(token_path="result", error_paths=["code"])
    assert issued(answer, quirks, strategy=Camel()).access_token.expose() == "at-1"


def test_an_error_says_its_own_code_and_words_and_what_was_refused() -> None:
    """Two codes that mean the same are told apart in a log, a revocation from a login."""
    quirks = ProviderQuirks(error_paths=["code"], error_codes={"5000": "server_error"})
    refusal = {"code": 5000, "msg": "busy"}
    with pytest.raises(TransientError, match=r"the authorization_code grant: server_error \(5000; busy\)"):
        issued(refusal, quirks)
    broker = make(Wire(ANSWER, refusal), quirks=quirks)
    log_in(broker)
    with pytest.raises(TransientError, match=r"refused the revocation: server_error \(5000; busy\)"):
        broker.revoke(USER_REQUEST)


def test_a_nested_token_without_a_refresh_token_borrows_none() -> None:
    """The one beside it is another grant's."""
    answer = {"access_token": "bot", "refresh_token": "rt-bot", "user": {"access_token": "at-user"}}
    record = issued(answer, ProviderQuirks(token_path="user"))
    assert (record.access_token.expose(), record.refresh_token) == ("at-user", None)
    assert dict(record.extra) == {}


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("rule", "members", "default", "lifetime"),
    [
        (ExpiryRule("ttl"), {"ttl": 60}, None, timedelta(seconds=60)),
        (ExpiryRule("ttl", unit="milliseconds"), {"ttl": "60000"}, None, timedelta(seconds=60)),
        (ExpiryRule("ttl"), {"expires_in": 60}, None, timedelta(seconds=60)),
        (ExpiryRule("until", absolute=True), {"until": "2026-01-01T01:00:00Z"}, None, HOUR),
        (ExpiryRule("until", absolute=True), {"until": "2026-01-01T03:00:00+02:00"}, None, HOUR),
        (ExpiryRule("until", absolute=True), {"until": "2026-01-01T01:00:00"}, None, HOUR),
        (ExpiryRule("until", absolute=True), {"until": 1767229200}, None, HOUR),
        (ExpiryRule("until", absolute=True, unit="milliseconds"), {"until": 1767229200000}, None, HOUR),
        (
            ExpiryRule("until", absolute=True),
            {"until": "soon", "expires_in": 60},
            None,
            timedelta(seconds=60),
        ),
        (ExpiryRule("until", absolute=True), {"until": 1e300}, HOUR, HOUR),
        (ExpiryRule("until", absolute=True), {"until": 1e17}, HOUR, HOUR),
        (ExpiryRule("until", absolute=True), {"until": 5}, HOUR, HOUR),
        (ExpiryRule("until", absolute=True), {"until": -5}, HOUR, HOUR),
        (ExpiryRule("until", absolute=True), {"until": ["2026-01-01T03:00:00Z"]}, HOUR, HOUR),
        (ExpiryRule("until", absolute=True), {"until": "2026-01-01T00:00:00Z"}, None, None),
        (ExpiryRule("until", absolute=True), {"until": "9999-12-31T23:59:59Z"}, None, timedelta(days=3650)),
        (ExpiryRule("expires_in", absolute=True), {"expires_in": 1767229200}, None, HOUR),
        (ExpiryRule("expires_in", absolute=True), {"expires_in": 1767225590}, HOUR, HOUR),
        (ExpiryRule("expires_in", absolute=True), {"expires_in": "1767225600"}, None, None),
        (ExpiryRule("expires_in", absolute=True), {"expires_in": "soon"}, HOUR, HOUR),
        (ExpiryRule("expires_in", unit="milliseconds"), {"expires_in": -5}, HOUR, HOUR),
        (ExpiryRule(zero_is_never=True), {"expires_in": 0}, HOUR, None),
        (ExpiryRule(zero_is_never=True), {"expires_in": "0"}, HOUR, None),
        (ExpiryRule(zero_is_never=True), {"expires_in": False}, HOUR, HOUR),
        (ExpiryRule(), {"expires_in": 0}, HOUR, HOUR),
        (ExpiryRule(), {"expires_in": 1}, HOUR, timedelta(seconds=1)),
        (ExpiryRule(), {"expires_in": 1767229200}, HOUR, timedelta(days=3650)),
        (ExpiryRule(), {}, HOUR, HOUR),
        (ExpiryRule(), {}, None, None),
    ],
)
def test_expiry_is_read_as_the_rule_says(
    rule: ExpiryRule, members: dict[str, Any], default: timedelta | None, lifetime: timedelta | None
) -> None:
    """The member, its unit, an instant, zero as never; else RFC 6749, else the default."""
    record = issued(
        {"access_token": "at-1", **members}, ProviderQuirks(expiry=rule), default_expires_in=default
    )
    expected = None if lifetime is None else record.issued_at + lifetime
    assert record.expires_at == expected
    assert rule.member not in record.extra


def test_an_instant_without_a_time_zone_is_utc_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on another continent must not make a token live for hours less or more."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        answer = {"access_token": "at-1", "until": "2026-01-01T01:00:00"}
        record = issued(answer, ProviderQuirks(expiry=ExpiryRule("until", absolute=True)))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert record.expires_at == record.issued_at + HOUR


def test_a_default_refresh_lifetime_counts_from_when_the_refresh_token_came() -> None:
    """A renewal that brings no other does not lengthen it; one that does starts it anew."""
    same = {**ANSWER, "access_token": "at-2"}
    without = {"access_token": "at-3", "expires_in": 3600}
    other = {**ANSWER, "access_token": "at-4", "refresh_token": "rt-2"}
    said = {**other, "refresh_token": "rt-3", "refresh_token_expires_in": 60}
    clock = ManualClock()
    broker = make(
        Wire(ANSWER, same, without, other, said), default_refresh_expires_in=timedelta(days=60), clock=clock
    )
    first = log_in(broker)
    ends = [first.refresh_expires_at]
    for _ in range(4):
        clock.advance(7200)
        ends.append(broker.refresh_access_token(USER_REQUEST).refresh_expires_at)
    start_of = first.issued_at
    assert ends == [
        start_of + timedelta(days=60),
        start_of + timedelta(days=60),
        start_of + timedelta(days=60),
        start_of + timedelta(days=60, hours=6),
        start_of + timedelta(hours=8, seconds=60),
    ]


@pytest.mark.parametrize(
    ("members", "delimiter"),
    [
        ({"scopes": "a b"}, " "),
        ({"scopes": ["a", "b"]}, " "),
        ({"scopes": "a,b"}, ","),
        ({"scopes": "a+b"}, "+"),
        ({"scope": "a b"}, " "),
    ],
)
def test_the_granted_scope_is_found_by_its_name_here(members: dict[str, Any], delimiter: str) -> None:
    """In any of the shapes that providers give it."""
    record = issued({**ANSWER, **members}, ProviderQuirks(scope_member="scopes"), scope_delimiter=delimiter)
    assert record.granted_scope is not None
    assert record.granted_scope.normalized == "a b"
    assert "scopes" not in record.extra


@pytest.mark.parametrize("delimiter", [" ", ","])
def test_a_plus_in_the_name_of_a_scope_divides_nothing(delimiter: str) -> None:
    """But where it is the delimiter."""
    record = issued({**ANSWER, "scope": f"calendar+write{delimiter}mail"}, scope_delimiter=delimiter)
    assert record.granted_scope is not None
    assert list(record.granted_scope) == ["calendar+write", "mail"]


def test_what_is_kept_beside_the_token_can_be_named() -> None:
    """Everything, some members, or nothing."""
    answer = {**ANSWER, "instance": "i-1", "noise": {"deep": [1]}}
    assert dict(issued(answer).extra) == {"instance": "i-1", "noise": {"deep": (1,)}}
    assert dict(issued(answer, ProviderQuirks(extra_members=["instance"])).extra) == {"instance": "i-1"}
    assert dict(issued(answer, ProviderQuirks(extra_members=[])).extra) == {}


def test_what_a_callback_brings_is_kept_also_where_members_are_named() -> None:
    """It was named itself; a region that is lost sends renewals to the wrong place."""
    quirks = ProviderQuirks(callback_members=["region"], extra_members=["instance"])
    broker = make(Wire({**ANSWER, "instance": "i-1", "noise": 1}), quirks=quirks)
    assert dict(log_in(broker, region="eu").extra) == {"region": "eu", "instance": "i-1"}


def test_a_number_that_no_reader_takes_is_not_kept() -> None:
    """A strategy may make one; the record must still be written and read."""

    class Huge(ProviderStrategy):
        def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
            return {**payload, "huge": 10**5000, "large": 2**64}

    record = issued(ANSWER, strategy=Huge())
    assert dict(record.extra) == {"large": 2**64}
    assert TokenRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("stated", [None, 7, ["Bearer"], "", "mac\r\nX: 1", "bärer"])
def test_a_token_type_that_is_none_is_bearer(stated: object) -> None:
    """What cannot be sent in a header, or is no text, says nothing; the same where there is none."""
    assert issued({**ANSWER, "token_type": stated}).token_type == "Bearer"
    assert issued({"access_token": "at-1"}).token_type == "Bearer"


def test_a_member_that_no_text_names_costs_no_token() -> None:
    """A hook may make one; it is left out of what is kept."""

    class Numbering(ProviderStrategy):
        def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
            members: dict[Any, Any] = {**payload, 7: "seven"}
            return members

    record = issued({**ANSWER, "team": "acme"}, strategy=Numbering())
    assert (record.access_token.expose(), dict(record.extra)) == ("at-1", {"team": "acme"})


def test_a_token_type_that_is_no_scheme_is_replaced() -> None:
    """What an API is to be sent does not depend on what the provider calls the token."""
    answer = {**ANSWER, "token_type": "User Access Token"}
    assert issued(answer).token_type == "User Access Token"
    assert issued(answer, ProviderQuirks(token_type="Bearer")).token_type == "Bearer"


def test_callback_values_are_kept_and_renewals_do_not_lose_them() -> None:
    """A company's id comes once, in the callback, and belongs to the token."""
    clock, quirks = ManualClock(), ProviderQuirks(callback_members=["realmId", "scope"])
    broker = make(Wire(ANSWER), quirks=quirks, clock=clock)
    record = log_in(broker, realmId="r-1", scope="email", other="x")
    assert dict(record.extra) == {"realmId": "r-1"}
    assert record.granted_scope is not None
    assert record.granted_scope.normalized == "email"
    clock.advance(7200)
    assert dict(broker.refresh_access_token(USER_REQUEST).extra) == {"realmId": "r-1"}


def test_a_callback_overrides_nothing_that_the_answer_says() -> None:
    """Anyone can write a callback; the answer came over TLS from the provider."""
    quirks = ProviderQuirks(callback_members=["team"])
    broker = make(Wire({**ANSWER, "team": "theirs"}), quirks=quirks)
    assert log_in(broker, team="forged").extra["team"] == "theirs"


def test_a_refresh_token_rescued_from_a_broken_answer_keeps_its_callback_values() -> None:
    """Where it is to be presented may depend on them."""
    broken = HttpResponse(200, JSON, b'{"refresh_token": "rt-1", "access_token": ')
    broker = make(Wire(broken), quirks=ProviderQuirks(callback_members=["accounts-server", "scope"]))
    with pytest.raises(TransientError):
        log_in(broker, **{"accounts-server": "https://eu.example.com", "scope": "email"})
    stored = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert stored is not None
    assert stored.refresh_token is not None
    assert dict(stored.extra) == {"accounts-server": "https://eu.example.com"}


def test_an_error_code_is_found_where_the_provider_puts_it() -> None:
    """Also a number, also in a 200; an answer with a token is none, whatever stands beside it."""
    quirks = ProviderQuirks(
        error_paths=["errors.0.type", "status"], error_codes={"601": "invalid_grant", "gone": "invalid_grant"}
    )
    for refusal in (
        {"status": 601},
        {"errors": [{"type": "gone"}]},
        {"status": 7, "errors": [{"type": "gone"}]},
    ):
        with pytest.raises(InvalidGrantError):
            issued(refusal, quirks)
    assert issued({**ANSWER, "refresh_token": None, "status": 601}, quirks).access_token.expose() == "at-1"
    with pytest.raises(TransientError):
        issued({"status": 0}, quirks)  # no error, and no token either


@pytest.mark.parametrize(
    ("status", "description", "dead"),
    [
        (400, "The Refresh_Token is INVALID.", True),
        (401, "This refresh_token is invalid", True),
        (400, "The client is invalid", False),
        (400, None, False),
        (429, "refresh_token is invalid", False),
        (503, "refresh_token is invalid", False),
    ],
)
def test_a_dead_refresh_token_is_told_by_its_words_where_the_code_says_nothing(
    status: int, description: str | None, dead: bool
) -> None:
    """Only at a renewal, and never by a provider that is down."""
    body = json.dumps({"error": "invalid_request", "error_description": description}).encode()
    refusal, clock = HttpResponse(status, JSON, body), ManualClock()
    quirks = ProviderQuirks(dead_refresh_texts=["refresh_token is invalid"])
    broker = make(Wire(ANSWER, refusal), quirks=quirks, clock=clock)
    log_in(broker)
    clock.advance(7200)
    with pytest.raises(BrokerError) as caught:
        broker.refresh_access_token(USER_REQUEST)
    assert isinstance(caught.value, InvalidGrantError) is dead
    stored = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert stored is not None
    assert (stored.revoked_at is not None) is dead
    with pytest.raises(BrokerError) as caught:
        log_in(make(Wire(refusal), quirks=quirks))
    assert not isinstance(caught.value, InvalidGrantError)


DEAD_IN_WORDS = [
    ({}, {"message": "The token was revoked."}),
    ({}, {"detail": "TOKEN WAS REVOKED"}),
    ({}, {"error": "invalid_request", "error_description": "token was revoked"}),
    ({}, {"error": "invalid_client", "message": "odd", "msg": "token was revoked"}),
    ({}, {"error": {"code": 100, "message": "token was revoked"}}),
    ({"error_paths": ["error.code"]}, {"error": {"code": 100, "message": "token was revoked"}}),
    ({"error_paths": ["errors.0.code"]}, {"errors": [{"code": "odd", "detail": "token was revoked"}]}),
    ({}, {"message": "x" * 300 + " token was revoked"}),
    ({}, {"message": "token was revoked: rt-1-as-it-was-sent"}),
]


@pytest.mark.parametrize("status", [200, 400, 401, 403])
@pytest.mark.parametrize(("described", "said"), DEAD_IN_WORDS)
def test_words_are_found_with_any_code_or_none_wherever_they_stand(
    described: dict[str, Any], said: dict[str, Any], status: int
) -> None:
    """At any status that is no outage, beside the code or at the top, also with a challenge."""
    headers = {**JSON, "WWW-Authenticate": "Bearer"}
    refusal, clock = HttpResponse(status, headers, json.dumps(said).encode()), ManualClock()
    quirks = ProviderQuirks(dead_refresh_texts=["token was revoked"], **described)
    first = {**ANSWER, "refresh_token": "rt-1-as-it-was-sent"}
    broker = make(Wire(first, refusal), quirks=quirks, clock=clock)
    log_in(broker)
    clock.advance(7200)
    with pytest.raises(InvalidGrantError) as caught:
        broker.refresh_access_token(USER_REQUEST)
    assert "rt-1-as-it-was-sent" not in str(caught.value)
    stored = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert stored is not None
    assert stored.revoked_at is not None


def test_words_bury_no_grant_that_is_alive() -> None:
    """An answer with a token is none of a dead one, whatever it says beside it."""
    clock, quirks = ManualClock(), ProviderQuirks(dead_refresh_texts=["was revoked"])
    alive = {**ANSWER, "refresh_token": None, "message": "the old token was revoked"}
    broker = make(Wire(ANSWER, alive), quirks=quirks, clock=clock)
    log_in(broker)
    clock.advance(7200)
    assert broker.refresh_access_token(USER_REQUEST).refresh_token == TokenSecret("rt-1")


@pytest.mark.parametrize("status", [429, 503])
def test_an_outage_says_nothing_of_a_refresh_token_to_a_strategy_either(status: int) -> None:
    """One that looks at the code alone must not bury a grant for the words of a proxy."""

    class ByCode(ProviderStrategy):
        def classify_token_error(self, context: ProviderErrorContext) -> ProviderErrorKind:
            is_dead = context.error == "invalid_grant"
            return ProviderErrorKind.INVALID_GRANT if is_dead else ProviderErrorKind.TRANSIENT

    refusal = HttpResponse(status, JSON, b'{"error": "busy", "message": "the token is dead"}')
    clock, quirks = ManualClock(), ProviderQuirks(dead_refresh_texts=["token is dead"])
    broker = make(Wire(ANSWER, refusal), quirks=quirks, strategy=ByCode(), clock=clock)
    log_in(broker)
    clock.advance(7200)
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST)


def test_a_zero_in_text_is_no_code_of_an_error() -> None:
    """As the number is none: an answer without a token is then one that nobody can read."""
    for zero in (0, "0"):
        with pytest.raises(TransientError, match="no usable access_token"):
            issued({"code": zero}, ProviderQuirks(error_paths=["code"]))


def test_of_several_codes_the_one_that_is_known_counts() -> None:
    """A number that nobody has listed must not hide an ``invalid_grant`` beside it."""
    quirks = ProviderQuirks(error_paths=["status", "reason"], error_codes={"expired": "invalid_grant"})
    for refusal in ({"status": 601, "error": "invalid_grant"}, {"status": 601, "reason": "expired"}):
        with pytest.raises(InvalidGrantError):
            issued(refusal, quirks)
    with pytest.raises(ConfigError, match="601"):
        issued({"status": 601, "error": "strange"}, quirks)


def test_a_token_path_that_leads_to_no_token_is_not_followed() -> None:
    """What stands at the top is then the token: a refresh token in it is the only one alive."""
    answer = {**ANSWER, "user": {"id": "u-1"}}
    record = issued(answer, ProviderQuirks(token_path="user"))
    assert (record.access_token.expose(), record.refresh_token) == ("at-1", TokenSecret("rt-1"))
    assert record.extra["user"] == {"id": "u-1"}


def test_an_answer_that_only_the_strategy_can_read_is_read_before_it_is_refused() -> None:
    """Many envelopes say ``"code": "0"`` for success, and name their members otherwise."""

    class Camel(ProviderStrategy):
        def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
            inner = payload["data"]
            return {"access_token": inner["accessToken"], "refresh_token": inner["refreshToken"]}

    quirks = ProviderQuirks(error_paths=["code"], error_codes={"17": "invalid_grant"})
    answer = {"code": "0", "data": {"accessToken": "at-1", "refreshToken": "rt-1"}}
    record = issued(answer, quirks, strategy=Camel())
    assert record.refresh_token == TokenSecret("rt-1")
    with pytest.raises(InvalidGrantError):
        issued({"code": "17", "data": None}, quirks, strategy=Camel())


def test_an_unknown_code_under_success_says_nothing_of_the_refresh_token() -> None:
    """It may be spent, so it is not presented again at once; a code that is listed is a plain refusal."""
    quirks = ProviderQuirks(error_paths=["status"], error_codes={"601": "invalid_request"})
    for code, is_marked in ((17, True), (601, False)):
        clock = ManualClock()
        broker = make(Wire(ANSWER, {"status": code}), quirks=quirks, clock=clock)
        log_in(broker)
        clock.advance(7200)
        with pytest.raises(ConfigError):
            broker.refresh_access_token(USER_REQUEST)
        stored = broker.store.fetch(broker.key_for(USER_REQUEST))
        assert stored is not None
        assert (stored.attempted_at is not None) is is_marked


@pytest.mark.parametrize("body", [b'{"status": "OK"}', b'{"status": 200}', b"", b"true", b"{}", b"done"])
def test_a_revocation_that_succeeds_in_its_own_words_is_one(body: bytes) -> None:
    """Only a code that is known, or stands where the RFC has it, makes an error of a 200."""
    quirks = ProviderQuirks(error_paths=["status"], error_codes={"GONE": "invalid_token"})
    broker = make(Wire(ANSWER, HttpResponse(200, JSON, body)), quirks=quirks)
    log_in(broker)
    tombstone = broker.revoke(USER_REQUEST)
    assert tombstone is not None
    assert tombstone.revoked_at is not None


def test_a_form_that_is_json_cut_short_gives_its_refresh_token_back() -> None:
    """Whatever the content type says: the old one is spent."""
    cut = HttpResponse(
        200, {"Content-Type": "application/x-www-form-urlencoded"}, b'{"refresh_token": "rt-2", "access_'
    )
    clock = ManualClock()
    broker = make(Wire(ANSWER, cut), clock=clock)
    log_in(broker)
    clock.advance(7200)
    with pytest.raises(TransientError):
        broker.refresh_access_token(USER_REQUEST)
    stored = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert stored is not None
    assert stored.refresh_token == TokenSecret("rt-2")


def test_a_refresh_lifetime_from_the_consent_on_is_not_begun_anew() -> None:
    """A rotated refresh token ends when the first one would have."""
    clock, quirks = ManualClock(), ProviderQuirks(refresh_lifetime_is_absolute=True)
    second = {**ANSWER, "refresh_token": "rt-2"}
    longer = {**ANSWER, "refresh_token": "rt-3", "refresh_token_expires_in": 5184000}
    shorter = {**ANSWER, "refresh_token": "rt-4", "refresh_token_expires_in": 60}
    broker = make(
        Wire(ANSWER, second, longer, shorter),
        quirks=quirks,
        default_refresh_expires_in=timedelta(days=60),
        clock=clock,
    )
    ends = [log_in(broker).refresh_expires_at]
    for _ in range(3):
        clock.advance(7200)
        ends.append(broker.refresh_access_token(USER_REQUEST).refresh_expires_at)
    consent = ManualClock().now
    until = consent + timedelta(days=60)
    assert ends == [until, until, until, clock.now + timedelta(seconds=60)]


def test_an_error_of_the_callback_is_mapped_as_well() -> None:
    """``user_denied`` and ``access_denied`` are one thing to the caller."""
    broker = make(Wire(ANSWER), quirks=ProviderQuirks(error_codes={"user_denied": "access_denied"}))
    session, _ = start(broker)
    with pytest.raises(AuthorizationError) as caught:
        broker.complete_authorization(session, {"state": session.state, "error": "user_denied"})
    assert caught.value.error == "access_denied"


@pytest.mark.parametrize("body", [b"<html>Unauthorized</html>", b"", b'{"message": "Unauthorized"}'])
def test_a_401_that_asks_for_credentials_is_a_wrong_client(body: bytes) -> None:
    """Some providers answer a wrong secret with HTTP alone; no user's grant is touched."""
    refusal = HttpResponse(401, {"WWW-Authenticate": 'Basic realm="x"'}, body)
    clock = ManualClock()
    broker = make(Wire(ANSWER, refusal), clock=clock)
    log_in(broker)
    clock.advance(7200)
    with pytest.raises(InvalidClientError):
        broker.refresh_access_token(USER_REQUEST)
    stored = broker.store.fetch(broker.key_for(USER_REQUEST))
    assert stored is not None
    assert (stored.revoked_at, stored.refresh_token is not None) == (None, True)


# Hooks


@dataclass(frozen=True)
class Recording(ProviderStrategy):
    """Keeps what its hooks are called with."""

    seen: list[Any]

    def check_callback(self, callback: CallbackContext) -> None:
        self.seen.append(callback)

    def shape_request(self, draft: RequestDraft) -> None:
        self.seen.append((draft.endpoint, draft.grant, dict(draft.extra), dict(draft.form)))


def test_the_descriptors_strategy_serves_unless_the_broker_is_given_another() -> None:
    """A preset works as it is, and can be replaced."""
    ours, seen = Recording([]), Recording([])
    descriptor = describe(strategy=ours)
    for strategy in (None, seen):
        log_in(Broker(descriptor, "app", "secret-of-app", strategy=strategy, http_client=Wire(ANSWER)))
    assert (len(ours.seen), len(seen.seen)) == (2, 2)
    given = Broker(descriptor, "app", "s", strategy=DefaultProviderStrategy(), http_client=Wire(ANSWER))
    log_in(given)
    assert len(ours.seen) == 2


def test_the_hooks_see_what_belongs_to_the_token() -> None:
    """The callback with the client's secret, then each request with what is kept with the record."""
    strategy, clock = Recording([]), ManualClock()
    quirks = ProviderQuirks(callback_members=["shop"])
    broker = make(Wire({**ANSWER, "api": "https://eu"}), strategy=strategy, quirks=quirks, clock=clock)
    log_in(broker, shop="acme", hmac="x")
    clock.advance(7200)
    broker.refresh_access_token(USER_REQUEST)
    broker.revoke(USER_REQUEST)
    callback, exchange, renewal, revocation = strategy.seen
    assert callback.client_secret.expose() == "secret-of-app"
    assert (callback.params["hmac"], callback.params["code"]) == ("x", "code-1")
    assert "code-1" not in repr(callback)
    assert exchange[:3] == (Endpoint.TOKEN, GrantType.AUTHORIZATION_CODE, {"shop": "acme"})
    kept = {"shop": "acme", "api": "https://eu"}
    assert renewal[:3] == (Endpoint.REFRESH, GrantType.REFRESH_TOKEN, kept)
    assert revocation[:3] == (Endpoint.REVOCATION, GrantType.AUTHORIZATION_CODE, kept)


def test_a_request_can_be_given_any_shape() -> None:
    """Method, address, headers and place of the parameters."""

    class Shape(ProviderStrategy):
        def shape_request(self, draft: RequestDraft) -> None:
            draft.method, draft.url, draft.body_format = "GET", f"{HOST}/eu/token", draft.body_format.QUERY
            draft.headers["Authorization"] = f"Client {draft.form.pop('client_secret')}"

    wire = Wire(ANSWER)
    log_in(make(wire, client_auth="client_secret_post", strategy=Shape()))
    sent = wire.sent[-1]
    assert (sent.method, sent.url.partition("?")[0]) == ("GET", f"{HOST}/eu/token")
    assert sent.headers["Authorization"] == "Client secret-of-app"
    assert "client_secret" not in sent.url


@pytest.mark.parametrize("body_format", ["form", "json", "query"])
@pytest.mark.parametrize("of_the_hook", [False, True], ids=["described", "by the hook"])
def test_a_strategy_signs_the_very_bytes_that_are_sent(body_format: str, of_the_hook: bool) -> None:
    """With parameters that can be encoded in more than one way, renamed ones and the client's secret."""

    class Signing(ProviderStrategy):
        def shape_request(self, draft: RequestDraft) -> None:
            draft.body_format = body_format  # type: ignore[assignment]
            draft.form["note"] = "a b+c/ü~*()'\"&=\n"
            draft.headers["X-Signature"] = sha256(draft.body).hexdigest()

    wire = Wire(ANSWER)
    described = {} if of_the_hook else {"body_format": body_format}
    names = ProviderQuirks(param_names={"client_secret": "client_key"})
    changes = {"client_auth": "client_secret_post", "quirks": names, "strategy": Signing(), **described}
    log_in(make(wire, **changes))
    (sent,) = wire.sent
    assert sent.headers["X-Signature"] == sha256(sent.body).hexdigest()
    assert (b"client_key" in sent.body) is (body_format != "query")


@pytest.mark.parametrize("body_format", ["form", "json"])
def test_a_strategy_may_put_any_mapping_in_the_place_of_the_form(body_format: str) -> None:
    """One that is no dict was a TypeError as JSON, with the code in its traceback."""

    class Freezing(ProviderStrategy):
        def shape_request(self, draft: RequestDraft) -> None:
            draft.form = MappingProxyType(draft.form)  # type: ignore[assignment]

    wire = Wire(ANSWER)
    log_in(make(wire, strategy=Freezing(), body_format=body_format))
    assert b"code-1" in wire.sent[-1].body


def _escape(draft: RequestDraft) -> None:
    draft.url = "http://evil.example.com/token"


def _break_form(draft: RequestDraft) -> None:
    draft.form["n"] = 5  # type: ignore[assignment]


def _break_header(draft: RequestDraft) -> None:
    draft.headers["X-Broken"] = "1\r\nX-Evil: 1"


def _break_method(draft: RequestDraft) -> None:
    draft.method = "POST /"


def _forget_the_place(draft: RequestDraft) -> None:
    draft.body_format = "xml"  # type: ignore[assignment]


def _raise(draft: RequestDraft) -> None:
    raise ValueError(draft.form["code"])


@pytest.mark.parametrize(
    "damage", [_escape, _break_form, _break_header, _break_method, _forget_the_place, _raise]
)
def test_a_hook_that_breaks_a_request_changes_nothing(damage: Any) -> None:
    """Nothing is sent, the session can still serve, and the code is not in what is raised."""
    strategy = DefaultProviderStrategy()
    strategy.shape_request = damage  # type: ignore[method-assign]
    wire = Wire(ANSWER)
    broker = make(wire, strategy=strategy)
    session, _ = start(broker)
    callback = {"state": session.state, "code": "code-1"}
    with pytest.raises(ConfigError, match="shape_request") as caught:
        broker.complete_authorization(session, callback)
    assert "code-1" not in str(caught.value)
    assert wire.sent == []
    del strategy.shape_request
    assert broker.complete_authorization(session, callback).access_token


def test_a_body_format_may_be_named_by_a_strategy_as_in_a_descriptor() -> None:
    """A plain string is no other than the member; it must not send secrets in the URL."""

    class Json(ProviderStrategy):
        def shape_request(self, draft: RequestDraft) -> None:
            draft.body_format = "json"  # type: ignore[assignment]

    wire = Wire(ANSWER)
    log_in(make(wire, strategy=Json()))
    assert wire.sent[-1].url == f"{HOST}/token"
    assert json.loads(wire.sent[-1].body)["code"] == "code-1"


def test_a_secret_that_cannot_be_had_for_the_second_try_leaves_the_failure_of_the_first() -> None:
    """It is written down when to ask again, so that not every caller asks."""
    asked: list[int] = []

    def vault() -> str:
        asked.append(1)
        if len(asked) > 1:
            raise TransientError("the vault is down")
        return "secret-of-app"

    class Down:
        sent = 0

        def send(self, request: HttpRequest, metadata: ResponseMetadataSlot) -> HttpResponse:
            self.sent += 1
            raise TransportError("lost on the way")

    wire = Down()
    broker = Broker(describe(), "app", vault, http_client=wire, clock=ManualClock())
    for kind in (TransportError, TransientError):
        with pytest.raises(kind) as caught:
            broker.client_credentials(SERVICE)
        assert "vault" not in str(caught.value)
    assert (wire.sent, len(asked)) == (1, 2)


def test_the_secret_is_not_asked_for_a_callback_that_nobody_checks() -> None:
    """A vault that is down is no answer to a user who said no."""

    def vault() -> str:
        raise TransientError("the vault is down")

    broker = Broker(describe(), "app", vault, http_client=Wire(ANSWER))
    session, _ = start(broker)
    with pytest.raises(AuthorizationError):
        broker.complete_authorization(session, {"state": session.state, "error": "access_denied"})


def test_a_user_who_says_no_is_not_asked_for_a_signature() -> None:
    """Some providers sign what they grant and not what was refused."""
    strategy = Recording([])
    broker = make(Wire(ANSWER), strategy=strategy)
    session, _ = start(broker)
    with pytest.raises(AuthorizationError, match="access_denied"):
        broker.complete_authorization(session, {"state": session.state, "error": "access_denied"})
    assert strategy.seen == []


def test_the_secret_is_asked_for_once_in_a_login_whose_callback_nobody_checks() -> None:
    """A vault is asked for what is sent, and for a signature only where there is one."""
    for strategy, times in ((None, 1), (Recording([]), 2)):
        asked: list[int] = []
        secret = lambda asked=asked: asked.append(1) or "secret-of-app"  # noqa: E731
        log_in(Broker(describe(strategy=strategy), "app", secret, http_client=Wire(ANSWER)))
        assert len(asked) == times


def test_a_callback_that_the_strategy_refuses_is_not_exchanged() -> None:
    """Its own words reach the caller; of any other exception only the type does."""

    def refuse(callback: CallbackContext) -> None:
        raise AuthorizationError("the signature is wrong")

    def crash(callback: Mapping[str, str]) -> None:
        raise KeyError("hmac")

    for check, kind in ((refuse, AuthorizationError), (crash, ConfigError)):
        strategy = DefaultProviderStrategy()
        strategy.check_callback = check  # type: ignore[method-assign,assignment]
        wire = Wire(ANSWER)
        with pytest.raises(kind):
            log_in(make(wire, strategy=strategy))
        assert wire.sent == []
