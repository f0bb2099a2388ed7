"""What each provider's strategy does beyond the recorded answers: what it refuses, and what it signs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import json
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from oauth2broker import (
    AuthorizationError,
    BrokerError,
    CallbackContext,
    ConfigError,
    GrantType,
    InvalidGrantError,
    ProviderDescriptor,
    ProviderQuirks,
    ProviderStrategy,
    TokenSecret,
    TransientError,
    TransportError,
)
from oauth2broker.client_auth.apple import AppleClientSecret
from oauth2broker.provider import presets, strategies
from oauth2broker.provider.strategies.dropbox import Dropbox
from oauth2broker.provider.strategies.ebay import EBay
from oauth2broker.provider.strategies.facebook import Facebook
from oauth2broker.provider.strategies.github import GitHub
from oauth2broker.provider.strategies.instagram import Instagram
from oauth2broker.provider.strategies.miro import Miro
from oauth2broker.provider.strategies.monday import Monday
from oauth2broker.provider.strategies.reddit import Reddit
from oauth2broker.provider.strategies.shopify import Shopify
from oauth2broker.provider.strategies.slack import SlackBot, SlackUser
from oauth2broker.provider.strategies.square import Square
from oauth2broker.provider.strategies.strava import Strava
from oauth2broker.provider.strategies.stripe import StripeApps, StripeConnect
from oauth2broker.provider.strategies.zendesk import Zendesk
from oauth2broker.provider.strategies.zoho import Zoho
from tests.presets.support import CLIENT_ID, CLIENT_SECRET, CODE, Answer, Story, query_of
from tests.support import ManualClock

SHOP = "acme.myshopify.com"
ACCESS, REFRESH = "access-example-1", "refresh-example-1"


def describe(
    strategy: ProviderStrategy, host: str = "provider.example.com", **fields: Any
) -> ProviderDescriptor:
    """Give a descriptor that says no more than the strategy needs."""
    return ProviderDescriptor(
        "example",
        f"https://{host}/oauth/token",
        ["authorization_code", "refresh_token"],
        authorization_endpoint=f"https://{host}/oauth/authorize",
        strategy=strategy,
        **{"client_auth": "client_secret_post", **fields},
    )


def token(**members: Any) -> Answer:
    """Give a plain answer, with ``members`` besides or instead."""
    return Answer({"access_token": ACCESS, "refresh_token": REFRESH, "expires_in": 3600, **members})


def strategy_classes() -> list[type[ProviderStrategy]]:
    """Give every strategy that is shipped."""
    found = []
    for module in pkgutil.iter_modules(strategies.__path__):
        loaded = importlib.import_module(f"{strategies.__name__}.{module.name}")
        for value in vars(loaded).values():
            is_strategy = isinstance(value, type) and issubclass(value, ProviderStrategy)
            if is_strategy and value.__module__ == loaded.__name__ and not value.__name__.startswith("_"):
                found.append(value)
    return found


@pytest.mark.parametrize("kind", strategy_classes())
def test_strategies_are_values(kind: type[ProviderStrategy]) -> None:
    """Two of a kind are equal and hash alike, also across processes, and say why they are there."""
    values = ["value" for _ in fields(kind)]  # type: ignore[arg-type]
    made, other = kind(*values), kind(*values)
    assert made == other == pickle.loads(pickle.dumps(made))
    assert hash(made) == hash(other)
    assert kind.__doc__ is not None
    assert not kind.__doc__.startswith(f"{kind.__name__}(")


# Slack.


def test_a_slack_bot_refuses_a_second_token() -> None:
    """user_scope beside bot scopes is refused with the name of the preset that takes it."""
    story = Story(describe(SlackBot(), scope_delimiter=","), scope="chat:write")
    with pytest.raises(ConfigError, match="slack_user"):
        story.start(user_scope="search:read")


def test_a_second_slack_token_that_comes_all_the_same_is_not_kept_in_the_open() -> None:
    """The user's nested pair ends nowhere in the record; who the user is stays."""
    user = {"id": "U1", "access_token": "xoxe.xoxp-nested", "refresh_token": "xoxe-nested", "scope": "a"}
    record = Story(describe(SlackBot()), token(authed_user=user)).log_in()
    assert record.extra["authed_user"] == {"id": "U1", "scope": "a"}
    assert "nested" not in repr(record)


@pytest.mark.parametrize(
    "members",
    [{"token_type": "bot"}, {"token_type": "bot", "authed_user": None}, {"authed_user": ["U1"]}],
    ids=["renewed as a bot", "no user", "odd user"],
)
def test_a_slack_user_never_becomes_a_bot(members: dict[str, Any]) -> None:
    """A bot's token is not stored as the user's, whatever stands where the user should."""
    quirks = ProviderQuirks(token_path="authed_user")
    story = Story(describe(SlackUser(), quirks=quirks), token(**members))
    with pytest.raises(TransientError, match="no usable access_token") as caught:
        story.log_in()
    assert caught.value.reauthorize
    assert story.stored is None


def test_a_bot_token_beside_the_users_is_dropped() -> None:
    """The nested token is the record's, and the one at the top ends nowhere."""
    quirks = ProviderQuirks(token_path="authed_user")
    user = {"id": "U1", "access_token": "xoxp-user", "token_type": "user"}
    story = Story(describe(SlackUser(), quirks=quirks), token(token_type="bot", authed_user=user))
    record = story.log_in()
    assert (record.access_token.expose(), record.refresh_token) == ("xoxp-user", None)
    assert ACCESS not in repr(record.extra)
    assert REFRESH not in repr(record.extra)


# Shopify.


def shopify_story(secret: str | None = CLIENT_SECRET) -> Story:
    """Start with the shop ``SHOP``."""
    fields = {} if secret is not None else {"client_auth": "none"}
    return Story(describe(Shopify(), SHOP, **fields), token(), secret=secret)


def signature(params: dict[str, str], message: str | None = None) -> str:
    """Sign as Shopify does, values as they are unless ``message`` says how they are escaped."""
    plain = "&".join(f"{name}={params[name]}" for name in sorted(params))
    return hmac.new(CLIENT_SECRET.encode(), (message or plain).encode(), hashlib.sha256).hexdigest()


def come_back(story: Story, change: Callable[[dict[str, str]], None]) -> None:
    """Come back with a rightly signed callback that ``change`` was at, afterwards."""
    session = story.start()
    params = {"code": CODE, "shop": SHOP, "state": session.state, "timestamp": "1767225600"}
    params["hmac"] = signature(params)
    change(params)
    story.broker.complete_authorization(session, params)


def test_shopify_s_own_example_is_signed() -> None:
    """The signature in Shopify's documentation is the one that is computed."""
    params = {
        "code": "0907a61c0c8d55e99db179b68161bc00",
        "hmac": "700e2dadb827fcc8609e9d5ce208b2e9cdaab9df07390d2cbca10d7c328fc4bf",
        "shop": "some-shop.myshopify.com",
        "state": "0.6784241404160823",
        "timestamp": "1337178173",
    }
    url = "https://some-shop.myshopify.com/admin/oauth/access_token"
    Shopify().check_callback(CallbackContext(params, url, TokenSecret("hush")))
    with pytest.raises(AuthorizationError):
        Shopify().check_callback(CallbackContext({**params, "code": "0"}, url, TokenSecret("hush")))


def test_a_signed_callback_is_taken() -> None:
    """A callback as it came is exchanged for a token."""
    story = shopify_story()
    come_back(story, lambda params: None)
    assert story.stored is not None


@pytest.mark.parametrize("name", ["code", "shop", "timestamp"])
def test_a_callback_that_was_changed_is_refused(name: str) -> None:
    """Nothing that is signed can be changed, and nothing is sent."""
    story = shopify_story()
    with pytest.raises(AuthorizationError, match="signature") as caught:
        come_back(story, lambda params: params.update({name: "evil"}))
    assert caught.value.error == "invalid_callback"
    assert not story.provider.sent


@pytest.mark.parametrize(
    "change",
    [
        lambda params: params.pop("hmac"),
        lambda params: params.update(hmac=""),
        lambda params: params.update(hmac="\u00e9\ud800"),
        lambda params: params.update(hmac=params["hmac"].upper()),
        lambda params: params.update(added="1"),
        lambda params: params.update(timestamp="1\ud800"),
    ],
    ids=["no signature", "empty", "not ASCII", "upper case", "something added", "no encoding"],
)
def test_a_callback_without_the_right_signature_is_refused(change: Callable[[dict[str, str]], None]) -> None:
    """Whatever the signature is instead, it is a callback that cannot be used, not a failure of ours."""
    with pytest.raises(AuthorizationError, match="signature"):
        come_back(shopify_story(), change)


@pytest.mark.parametrize("shop", ["evil.myshopify.com", "", None])
def test_a_signed_callback_of_another_shop_is_refused(shop: str | None) -> None:
    """One shop's callback, rightly signed, does not complete the authorization of another."""

    def move(params: dict[str, str]) -> None:
        del params["hmac"], params["shop"]
        if shop is not None:
            params["shop"] = shop
        params["hmac"] = signature(params)

    story = shopify_story()
    with pytest.raises(AuthorizationError, match="another shop"):
        come_back(story, move)
    assert not story.provider.sent


@pytest.mark.parametrize("host", ["YWRtaW4%3D", "YWRtaW4="], ids=["escaped as in a form", "as it is"])
def test_both_ways_to_escape_what_is_signed_are_taken(host: str) -> None:
    """Shopify's libraries differ on the padding of ``host``; either signature serves."""

    def pad(params: dict[str, str]) -> None:
        del params["hmac"]
        message = signature({**params, "host": host})
        params.update(host="YWRtaW4=", hmac=message)

    story = shopify_story()
    come_back(story, pad)
    assert story.stored is not None


@pytest.mark.parametrize("signed", ["h%3D=50%25%26%3D", "h%3D=50%25%26="], ids=["form", "delimiters"])
def test_what_delimits_is_escaped_in_both_ways(signed: str) -> None:
    """The signs of percent and of a delimiter in a value, and the equals sign in a name."""

    def add(params: dict[str, str]) -> None:
        del params["hmac"]
        message = "&".join(sorted([*(f"{name}={value}" for name, value in params.items()), signed]))
        params.update({"h=": "50%&=", "hmac": signature({}, message)})

    story = shopify_story()
    come_back(story, add)
    assert story.stored is not None


@pytest.mark.parametrize(
    "forged", [{"code": f"{CODE}&host=a=b"}, {"host=a": "b"}], ids=["two in one", "another name"]
)
def test_a_delimiter_cannot_move(forged: dict[str, str]) -> None:
    """What is signed as two parameters is not taken for one, nor a piece of a value for one of a name."""

    def move(params: dict[str, str]) -> None:
        del params["hmac"]
        params["hmac"] = signature({**params, "host": "a=b"})
        params.update(forged)

    with pytest.raises(AuthorizationError, match="signature"):
        come_back(shopify_story(), move)


def test_without_a_secret_no_callback_can_be_checked() -> None:
    """A client that could not tell a forgery is told so."""
    with pytest.raises(ConfigError, match="client_secret"):
        come_back(shopify_story(None), lambda params: None)


# Apple.


@pytest.fixture(scope="module")
def apple_key() -> str:
    """A private key as Apple hands it out."""
    key = generate_private_key(SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_apple_s_client_secret_is_what_apple_wants(apple_key: str, tmp_path: Path) -> None:
    """An ES256 JWT of the team, for the client, to Apple, which is sent as the client_secret."""
    clock = ManualClock()
    path = tmp_path / "AuthKey_KEY1.p8"
    path.write_text(apple_key)
    secret = AppleClientSecret("TEAM1", CLIENT_ID, "KEY1", path, clock=clock)
    story = Story(describe(ProviderStrategy()), token(), secret=secret)
    story.log_in()
    sent = story.sent.params["client_secret"]
    public = load_pem_private_key(apple_key.encode(), None).public_key()
    assert isinstance(public, EllipticCurvePublicKey)
    signed = jwt.decode_complete(
        sent,
        public,
        algorithms=["ES256"],
        audience="https://appleid.apple.com",
        options={"verify_exp": False, "verify_iat": False},
    )
    issued = int(clock.now.timestamp())
    assert signed["payload"] == {
        "iss": "TEAM1",
        "sub": CLIENT_ID,
        "aud": "https://appleid.apple.com",
        "iat": issued,
        "exp": issued + 3600,
    }
    assert signed["header"]["kid"] == "KEY1"


def test_apple_s_client_secret_is_made_anew_before_it_lapses(apple_key: str) -> None:
    """The same one is given for 50 minutes, then another; and another when the clock goes back."""
    clock = ManualClock()
    secret = AppleClientSecret("TEAM1", CLIENT_ID, "KEY1", apple_key, clock=clock)
    first = secret()
    clock.advance(50 * 60 - 1)
    assert secret() == first
    clock.advance(1)
    second = secret()
    assert second != first
    clock.advance(-60)
    assert secret() != second


def test_an_outage_of_what_holds_apple_s_key_is_one(apple_key: str) -> None:
    """The error of the vault goes to the caller, who can tell when to ask again; nothing is sent."""
    down = [TransientError("the vault is down", retry_after=7)]

    def read() -> str:
        if down:
            raise down.pop()
        return apple_key

    secret = AppleClientSecret("TEAM1", CLIENT_ID, "KEY1", read)
    story = Story(describe(ProviderStrategy()), token(), secret=secret)
    with pytest.raises(TransientError, match="the vault is down") as caught:
        story.log_in()
    assert caught.value.retry_after == 7
    assert story.provider.sent == []


def test_apple_s_key_is_never_shown(apple_key: str) -> None:
    """Neither the repr nor the error about a key that is none holds it."""
    assert "BEGIN" not in repr(AppleClientSecret("TEAM1", CLIENT_ID, "KEY1", apple_key))
    broken = apple_key.replace("M", "N")
    with pytest.raises(ConfigError, match="ES256") as caught:
        AppleClientSecret("TEAM1", CLIENT_ID, "KEY1", broken)()
    assert broken.splitlines()[1] not in str(caught.value)
    with pytest.raises(ConfigError):
        AppleClientSecret("TEAM1", CLIENT_ID, "KEY1", lambda: "")()
    with pytest.raises(ConfigError):
        AppleClientSecret("TEAM1", CLIENT_ID, "KEY1", 5)  # type: ignore[arg-type]


# Facebook and Instagram.


@pytest.mark.parametrize("unusable", ["bad\ntoken", "tökén", 7])
@pytest.mark.parametrize("strategy", [Facebook(), Instagram()])
def test_an_unusable_access_token_does_not_displace_the_one_that_renews(
    strategy: ProviderStrategy, unusable: object
) -> None:
    """What cannot be sent is not kept to renew with: the old token still does."""
    story = Story(describe(strategy), token(refresh_token=None), Answer({"access_token": unusable}))
    story.log_in()
    with pytest.raises(BrokerError):
        story.renew()
    assert story.stored is not None
    assert story.stored.refresh_token == TokenSecret(ACCESS)


def test_facebook_revokes_without_the_clients_credentials() -> None:
    """The user's token is all that goes with the call."""
    descriptor = describe(
        Facebook(), client_auth="client_secret_basic", revocation_endpoint="https://provider.example.com/me"
    )
    story = Story(descriptor, token(refresh_token=None), Answer({"success": True}))
    story.log_in()
    story.revoke()
    assert (story.sent.method, story.sent.params) == ("DELETE", {"access_token": ACCESS})
    assert "authorization" not in story.sent.headers


def test_instagram_exchanges_once_and_then_the_token_renews_itself() -> None:
    """The exchange goes with the secret, to one address; what it brought is presented alone, at another."""
    longs = [Answer({"access_token": f"long-{number}", "expires_in": 5183944}) for number in (1, 2, 3)]
    story = Story(describe(Instagram()), token(refresh_token=None, expires_in=60), *longs)
    first_token = story.log_in()
    assert first_token.expires_at == first_token.issued_at + timedelta(seconds=60)
    for _ in longs:
        story.renew()
    first, *others = [(sent.method, sent.url, sent.params) for sent in story.provider.sent[1:]]
    assert first[1] == "https://graph.instagram.com/access_token"
    assert others == [
        (
            "GET",
            "https://graph.instagram.com/refresh_access_token",
            {"grant_type": "ig_refresh_token", "access_token": f"long-{number}"},
        )
        for number in (1, 2)
    ]


@pytest.mark.parametrize("data", [[], {}, "data", ["x"], [None], 5])
def test_odd_data_beside_instagrams_token_costs_no_login(data: object) -> None:
    """What is no list of one object is a member like others."""
    record = Story(describe(Instagram()), token(refresh_token=None, data=data)).log_in()
    assert record.access_token.expose() == ACCESS


def test_what_is_in_instagrams_urls_is_in_no_error() -> None:
    """The secret and the token travel in the query, and not in what is said of a failure."""
    story = Story(describe(Instagram()), token())
    story.log_in()
    with pytest.raises(TransportError) as caught:
        story.renew()  # there is no answer
    assert story.sent.params["access_token"] == ACCESS
    for secret in (ACCESS, CLIENT_SECRET, "client+secret"):
        assert secret not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


# Zoho.


@pytest.mark.parametrize(
    "server",
    [
        "https://accounts.zoho.com.evil.example",
        "https://accounts.zoho.evil",
        "http://accounts.zoho.eu",
        "https://accounts.zoho.eu@evil.example",
        "https://accounts.zoho.eu/oauth",
        "https://accounts.zoho.eu:444",
        "accounts.zoho.eu",
        "",
    ],
)
def test_zoho_s_credentials_go_to_zoho_only(server: str) -> None:
    """A callback that names another server is refused before anything is sent."""
    quirks = ProviderQuirks(callback_members=["accounts-server"])
    story = Story(describe(Zoho(), "accounts.zoho.com", quirks=quirks), token())
    with pytest.raises(AuthorizationError, match="data centres") as caught:
        story.log_in(**{"accounts-server": server})
    assert caught.value.error == "invalid_callback"
    assert not story.provider.sent


@pytest.mark.parametrize("server", ["https://accounts.zoho.eu", "https://accounts.zoho.eu/"])
def test_zoho_s_data_centre_is_found_with_and_without_a_slash(server: str) -> None:
    """The code goes to the same address."""
    quirks = ProviderQuirks(callback_members=["accounts-server"])
    story = Story(describe(Zoho(), "accounts.zoho.com", quirks=quirks), token())
    story.log_in(**{"accounts-server": server})
    assert story.sent.url == "https://accounts.zoho.eu/oauth/token"


def test_an_answer_cannot_send_the_next_request_elsewhere_either() -> None:
    """A server that an answer brought into the record is refused when it is used."""
    descriptor = describe(
        Zoho(), "accounts.zoho.com", revocation_endpoint="https://accounts.zoho.com/oauth/v2/token/revoke"
    )
    story = Story(descriptor, token(**{"accounts-server": "https://evil.example"}))
    story.log_in()
    with pytest.raises(AuthorizationError, match="data centres"):
        story.renew()
    with pytest.raises(AuthorizationError, match="data centres"):
        story.revoke()
    assert len(story.provider.sent) == 1


# monday.com.


def monday_token(claims: Any) -> str:
    """Give a token of monday's shape that says ``claims``."""
    said = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{said}.c2lnbmF0dXJl"


def test_a_monday_token_says_itself_until_when_it_works() -> None:
    """Its answers have no lifetime: without the one in the token it would be served until it is refused."""
    until = ManualClock()() + timedelta(minutes=30)
    access = monday_token({"exp": int(until.timestamp())})
    story = Story(presets.get("monday"), Answer({"access_token": access, "refresh_token": REFRESH}))
    record = story.log_in()
    assert record.expires_at == until
    assert "expires_at" not in record.extra


@pytest.mark.parametrize(
    "access",
    [
        *("opaque", "a.b", "a.b.c", "a.b.c.d", "e30.aGk.e30", "e30.__8.e30"),
        *map(monday_token, ({}, [], 5, None)),
        f"e30.{base64.urlsafe_b64encode(b'[' * 30_000).decode()}.e30",  # deeper than Python's stack
        monday_token({"exp": 4102444800}).rpartition(".")[0],
        monday_token({"exp": 4102444800}) + ".e30.e30",
        *(monday_token({"exp": when}) for when in ("soon", -1, True, 10**400, [10], {"at": 10})),
    ],
)
def test_a_monday_token_that_does_not_say_it_is_taken_all_the_same(access: str) -> None:
    """Those of the old flow do not expire, and nothing odd in a token is more than no lifetime."""
    story = Story(presets.get("monday"), Answer({"access_token": access, "refresh_token": REFRESH}))
    record = story.log_in()
    assert record.access_token.expose() == access
    assert record.expires_at is None


@pytest.mark.parametrize("access", [None, 5, ["e30.e30.e30"]])
def test_a_monday_answer_without_a_token_stays_as_it_is(access: Any) -> None:
    """What makes it no answer is said where all answers are read."""
    payload = {"access_token": access}
    assert Monday().normalize_token_response(GrantType.AUTHORIZATION_CODE, payload) is payload


# What some revocations cannot do without.


@pytest.mark.parametrize("strategy", [GitHub(), Miro(), Square(), StripeConnect()])
def test_a_revocation_that_lacks_what_it_needs_is_not_sent(strategy: ProviderStrategy) -> None:
    """A client without a secret is told what the provider wants, and the record stays."""
    descriptor = describe(
        strategy, client_auth="none", revocation_endpoint="https://provider.example.com/revoke"
    )
    story = Story(descriptor, token(), secret=None)
    story.log_in()
    with pytest.raises(ConfigError, match=r"client_secret_post|secret key"):
        story.revoke()
    assert story.stored is not None
    assert story.stored.revoked_at is None
    assert len(story.provider.sent) == 1


def test_a_github_client_id_stays_in_its_place() -> None:
    """What is no plain path segment is escaped into one."""
    descriptor = describe(GitHub(), revocation_endpoint="https://api.github.com/applications")
    story = Story(descriptor, token(), Answer(status=204))
    story.log_in()
    story.revoke()
    assert story.sent.url == "https://api.github.com/applications/client%20id%2Fexample/token"


@pytest.mark.parametrize(
    ("strategy", "params"), [(Strava(), {"access_token": REFRESH}), (Zendesk(), {}), (Dropbox(), {})]
)
def test_the_token_alone_authorizes_its_revocation(
    strategy: ProviderStrategy, params: dict[str, str]
) -> None:
    """The client's own credentials stay at home."""
    descriptor = describe(
        strategy, client_auth="client_secret_basic", revocation_endpoint="https://provider.example.com/revoke"
    )
    story = Story(descriptor, token(), Answer(status=204))
    story.log_in()
    story.revoke()
    assert story.sent.client in {None, f"Bearer {REFRESH}"}
    assert story.sent.params == params


def test_square_revokes_with_an_object_in_json() -> None:
    """With the secret in a scheme of its own."""
    descriptor = describe(Square(), revocation_endpoint="https://provider.example.com/revoke")
    story = Story(descriptor, token(), Answer({"success": True}))
    story.log_in()
    story.revoke()
    assert (story.sent.place, story.sent.headers["authorization"]) == ("json", f"Client {CLIENT_SECRET}")


@pytest.mark.parametrize("strategy", [StripeApps(), StripeConnect()])
def test_a_client_without_stripe_s_key_sends_none(strategy: ProviderStrategy) -> None:
    """And nothing that could pass for one."""
    story = Story(describe(strategy, client_auth="none"), token(), secret=None)
    story.log_in()
    assert story.sent.client is None


@pytest.mark.parametrize(("method", "client"), [("none", "Basic"), ("client_secret_post", None)])
def test_reddit_gets_basic_from_clients_without_a_secret_only(method: str, client: str | None) -> None:
    """One with a secret goes by its own method."""
    secret = None if method == "none" else CLIENT_SECRET
    story = Story(describe(Reddit(), client_auth=method), token(), secret=secret)
    story.log_in()
    assert (story.sent.client or "").partition(" ")[0] == (client or "")


def test_an_invalid_request_with_a_code_is_a_mistake_and_no_dead_grant() -> None:
    """Reddit means the refresh token by it only when one is presented."""
    story = Story(describe(Reddit()), Answer({"error": "invalid_request"}, 400))
    with pytest.raises(ConfigError):
        story.log_in()


# Errors that only their provider means so.


@pytest.mark.parametrize(
    ("strategy", "status", "error", "description", "dead"),
    [
        (Reddit(), 400, "invalid_request", None, True),
        (Reddit(), 403, "invalid_request", None, False),
        (Reddit(), 400, "unsupported_grant_type", None, False),
    ],
)
def test_only_what_speaks_of_the_grant_buries_it(
    strategy: ProviderStrategy, status: int, error: str, description: str | None, dead: bool
) -> None:
    """A refusal is a dead grant where the provider means the refresh token, and nowhere else."""
    body = {"error": error} if description is None else {"error": error, "error_description": description}
    story = Story(describe(strategy), token(), Answer(body, status))
    story.log_in()
    with pytest.raises(BrokerError) as caught:
        story.renew()
    assert isinstance(caught.value, InvalidGrantError) == dead
    assert story.stored is not None
    assert (story.stored.revoked_at is not None) == dead


def test_ebay_is_sent_its_own_name_for_the_redirect_uri() -> None:
    """In the authorization URL and with the code; the session keeps the URI itself."""
    story = Story(replace(presets.get("ebay"), strategy=EBay("Acme-App-PRD-1")), token(), token())
    assert query_of(story.start().authorize_url)["redirect_uri"] == "Acme-App-PRD-1"
    story.log_in()
    assert story.sent.params["redirect_uri"] == "Acme-App-PRD-1"
    story.renew()
    assert "redirect_uri" not in story.sent.params
