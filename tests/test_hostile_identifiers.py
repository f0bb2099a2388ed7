"""Row 28 of what must be survived: identifiers chosen by an enemy are refused or kept apart."""

from __future__ import annotations

import re
import unicodedata
from enum import Enum
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from oauth2broker import (
    AuthorizationRequiredError,
    Broker,
    CachedTokenRequest,
    ConfigError,
    FileStore,
    GrantType,
    PrincipalId,
    ProviderDescriptor,
    ProviderId,
    TenantId,
    TokenFamily,
    TokenRecord,
)
from oauth2broker.testing import LoopbackProvider
from tests.support import REDIRECT_URI, SCOPE, TENANT, USER, ManualClock

DESCRIPTOR = ProviderDescriptor(
    id="stub", token_endpoint="https://stub.example.com/token", grants={GrantType.CLIENT_CREDENTIALS}
)
REFUSED: list[Any] = [
    pytest.param("", id="empty"),
    pytest.param(" ", id="space"),
    pytest.param("a b", id="inner space"),
    pytest.param("acme ", id="space behind"),
    pytest.param(" acme", id="space before"),
    pytest.param("acme\n", id="newline"),
    pytest.param("acme\r\nX-Tenant: other", id="header"),
    pytest.param("acme\t", id="tab"),
    pytest.param("acme\x00", id="nul"),
    pytest.param("acme\x00other", id="inner nul"),
    pytest.param("acme\x1b[31m", id="escape"),
    pytest.param("acme\x7f", id="delete"),
    pytest.param("acme\x85", id="next line"),
    pytest.param("acme\x1f", id="unit separator"),
    pytest.param("acme\u00a0", id="no-break space"),
    pytest.param("acme\u2003", id="em space"),
    pytest.param("acme\u2028", id="line separator"),
    pytest.param("acme\u3000", id="ideographic space"),
    pytest.param("acme\ud800", id="surrogate"),
    pytest.param("\ud83d\ude00", id="surrogate pair"),
    pytest.param("x" * 129, id="129"),
    pytest.param("x" * 1_000_000, id="a million"),
    pytest.param("\U0001f600" * 129, id="129 astral"),
    pytest.param(None, id="None"),
    pytest.param(7, id="number"),
    pytest.param(b"acme", id="bytes"),
    pytest.param(["acme"], id="list"),
    pytest.param(("acme", "other"), id="tuple"),
]
# Each of these is a tenant of its own, however much it looks like another.
ACCEPTED = [
    *("acme", "ACME", "Acme", "acme.", ".acme", "acme.json", "acme.lock"),
    *(".", "..", "../acme", "..\\acme", "/etc/passwd", "C:\\acme", "~acme", "$HOME", "${acme}", "`id`"),
    *(
        "acme/",
        "acme//",
        "acme/other",
        "acme:other",
        "acme|other",
        "acme,other",
        "acme;other",
        "acme%2Fother",
    ),
    *(
        'acme"',
        "acme'",
        '"acme"',
        "acme\\",
        "acme\\u0065",
        "acme\\n",
        '","',
        '["acme"]',
        "{}",
        "null",
        "None",
    ),
    *(
        "acme'--",
        "acme%",
        "acme_",
        "acme*",
        "acme?",
        "[a-z]cme",
        "CON",
        "NUL",
        "aux.txt",
        "-rf",
        "--",
        "#acme",
    ),
    "\u0430cme",  # Cyrillic a
    "acm\u0435",  # Cyrillic ie
    "\uff41\uff43\uff4d\uff45",  # fullwidth
    "ac\u200bme",  # zero width space, which is no whitespace
    "ac\u200dme",
    "ac\u00adme",  # soft hyphen
    "\ufeffacme",
    "\u202eemca",  # shown as "acme"
    "caf\u00e9",
    "cafe\u0301",  # the same in NFD
    "\u212b",  # Angstrom sign, and what NFC makes of it
    "\u00c5",
    "\ufb01x",  # fi ligature
    "fix",
    "stra\u00dfe",
    "strasse",
    "STRASSE",
    "\u0130stanbul",  # dotted I, and what lower() makes of it
    "i\u0307stanbul",
    "istanbul",
    "\U0001f600",
    "x" * 128,
    "x" * 127,
    "\U0001f600" * 128,
]


@pytest.mark.parametrize("value", REFUSED)
def test_an_identifier_that_cannot_be_one_is_refused_wherever_it_enters(broker: Broker, value: Any) -> None:
    """ConfigError from every public call that takes a tenant, a principal or a provider."""
    for kind in (TenantId, PrincipalId, ProviderId):
        with pytest.raises(ConfigError):
            kind(value)
    for tenant, principal in ((value, USER), (TENANT, value)):
        with pytest.raises(ConfigError):
            CachedTokenRequest(tenant, principal, SCOPE)
        with pytest.raises(ConfigError):
            broker.start_authorization(tenant, principal, SCOPE, REDIRECT_URI)
        with pytest.raises(ConfigError):
            TokenFamily(tenant, principal, "loopback", "demo-client")
    with pytest.raises(ConfigError):
        ProviderDescriptor(id=value, token_endpoint="https://a.example.com/", grants=set(GrantType))
    assert list(broker.store.keys()) == []


@pytest.mark.parametrize("value", [p for p in REFUSED if isinstance(p.values[0], str)])
def test_a_refusal_does_not_write_into_the_log_what_it_refuses(value: str) -> None:
    """The message is one printable line of bounded length, whatever the identifier was."""
    with pytest.raises(ConfigError) as caught:
        TenantId(value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_all_that_is_accepted_has_a_key_of_its_own(broker: Broker) -> None:
    """No two tenants, no two principals, and no tenant and principal swapped, share a digest."""
    digests = [broker.key_for(CachedTokenRequest(one, USER, SCOPE)).digest for one in ACCEPTED]
    digests += [broker.key_for(CachedTokenRequest(TENANT, one, SCOPE)).digest for one in ACCEPTED]
    pairs = [(one, two) for one, two in combinations(ACCEPTED[:20], 2)]
    digests += [broker.key_for(CachedTokenRequest(*pair, SCOPE)).digest for pair in pairs]
    digests += [broker.key_for(CachedTokenRequest(two, one, SCOPE)).digest for one, two in pairs]
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_an_identifier_is_kept_to_the_letter() -> None:
    """No case folding, no Unicode normalization, no trimming: what comes out is what went in."""
    for value in ACCEPTED:
        assert str(TenantId(value)) == value
        assert TenantId(value) == value
    assert unicodedata.normalize("NFC", "cafe\u0301") == "caf\u00e9"
    assert TenantId("cafe\u0301") != TenantId("caf\u00e9")


def test_every_identity_has_a_file_of_its_own_inside_the_folder(tmp_path: Path, clock: ManualClock) -> None:
    """Whatever tenants are called, their records are files in the store's folder, and come back as theirs."""
    folder, before = tmp_path / "outer" / "tokens", {tmp_path / "outer"}
    folder.parent.mkdir()
    store = FileStore(folder)
    broker = Broker(DESCRIPTOR, "client", "secret", store=store, clock=clock)
    keys = [broker.key_for(CachedTokenRequest(name, USER, SCOPE)) for name in ACCEPTED]
    for number, key in enumerate(keys):
        store.save(
            TokenRecord(family=key.family, scope=SCOPE, access_token=f"token-{number}", issued_at=clock.now)
        )
    for number, key in enumerate(keys):
        record = store.fetch(key)
        assert record is not None
        assert record.access_token.expose() == f"token-{number}"
        assert record.family.tenant == ACCEPTED[number]
    assert set(tmp_path.iterdir()) == before
    assert set(folder.parent.iterdir()) == {folder}
    records = [path for path in folder.rglob("*.json") if path.is_file()]
    assert len(records) == len(ACCEPTED)
    assert {key.tenant for key in (found.family for found in store.keys())} == set(ACCEPTED)  # noqa: SIM118


PAIRS = [
    ("acme", "ACME"),
    ("acme", "\u0430cme"),
    ("acme", "ac\u200bme"),
    ("acme", "\ufeffacme"),
    ("caf\u00e9", "cafe\u0301"),
    ("\u212b", "\u00c5"),
    ("acme", "../acme"),
    ("acme", "acme.json"),
    ("acme/other", "acme:other"),
    ("x" * 127, "x" * 128),
]


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_two_look_alike_tenants_get_two_service_tokens_from_two_calls(
    provider: LoopbackProvider, broker: Broker, one: str, two: str
) -> None:
    """Each tenant's token comes from a call of its own, and stays its own from the cache."""
    requests = [CachedTokenRequest(tenant, USER, SCOPE) for tenant in (one, two)]
    first, second = (broker.client_credentials(request) for request in requests)
    assert first.access_token != second.access_token
    assert provider.token_calls == 2
    again = [broker.client_credentials(request) for request in requests]
    assert again == [first, second]
    assert provider.token_calls == 2
    assert (first.family.tenant, second.family.tenant) == (one, two)


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_two_look_alike_principals_never_share_a_grant(
    provider: LoopbackProvider, broker: Broker, clock: ManualClock, one: str, two: str
) -> None:
    """Only who logged in has a token; who looks like them is asked to; renewal and logout stay apart."""

    def log_in(principal: str, user: str) -> TokenRecord:
        session = broker.start_authorization(TENANT, principal, SCOPE, REDIRECT_URI)
        return broker.complete_authorization(session, provider.browse(session.authorize_url, user=user))

    requests = [CachedTokenRequest(TENANT, principal, SCOPE) for principal in (one, two)]
    first = log_in(one, "alice")
    with pytest.raises(AuthorizationRequiredError):
        broker.refresh_access_token(requests[1])
    second = log_in(two, "bob")
    assert broker.refresh_access_token(requests[0]) == first
    assert broker.refresh_access_token(requests[1]) == second
    clock.advance(3601)
    renewed = broker.refresh_access_token(requests[0])
    assert provider.token_calls == 3
    assert broker.store.fetch(broker.key_for(requests[1])) == second
    broker.revoke(requests[1])
    assert provider.is_live(renewed.access_token.expose())
    assert broker.refresh_access_token(requests[0]) == renewed


def test_what_one_part_of_a_key_holds_cannot_move_into_another(provider: LoopbackProvider) -> None:
    """Separators, quotes and brackets in one identifier do not make it two: each pair has its own token."""
    pairs = [
        ("a", "b:c"),
        ("a:b", "c"),
        ('a","b', "c"),
        ("a", 'b","c'),
        ("a/b", "c"),
        ("a", "b/c"),
        ("a|b", "c"),
        ("ab", "c"),
        ("a", "bc"),
        ('a"', ',"bc'),
        ("a\\", "bc"),
    ]
    with Broker(provider.descriptor(), "demo-client", "demo-secret") as broker:
        tokens = {broker.client_credentials(CachedTokenRequest(*pair, SCOPE)).access_token for pair in pairs}
    assert len(tokens) == len(pairs)
    assert provider.token_calls == len(pairs)


@pytest.mark.parametrize(("one", "two"), [("https://a.example.com", "https://A.example.com"), ("a/", "a")])
def test_two_look_alike_resources_get_two_tokens(
    provider: LoopbackProvider, broker: Broker, one: str, two: str
) -> None:
    """A token for one audience is never served for another."""
    first, second = (
        broker.client_credentials(CachedTokenRequest(TENANT, USER, SCOPE, resource=resource))
        for resource in (one, two)
    )
    bare = broker.client_credentials(CachedTokenRequest(TENANT, USER, SCOPE))
    assert len({first.access_token, second.access_token, bare.access_token}) == 3
    assert provider.token_calls == 3


@pytest.mark.parametrize("resource", ["", "a\nb", "\x00", "\ud800", 7, b"https://a.example.com", ["a"]])
def test_a_resource_that_cannot_be_one_is_refused(broker: Broker, resource: Any) -> None:
    """Resources are part of the key and of the request: text, printable, not empty."""
    with pytest.raises(ConfigError):
        CachedTokenRequest(TENANT, USER, SCOPE, resource=resource)
    with pytest.raises(ConfigError):
        broker.start_authorization(TENANT, USER, SCOPE, REDIRECT_URI, resource=resource)


SCOPES = [
    "a b",
    'a"b',
    "a\\b",
    "a\nb",
    "a\tb",
    "\x00",
    "ä",
    "\u200b",
    "",
    "\ud800",
    "a\u00a0b",
    None,
    7,
    b"a",
    ["a"],
]


@pytest.mark.parametrize("token", SCOPES)
def test_a_scope_token_that_cannot_be_one_is_refused(token: Any) -> None:
    """A list of scope tokens is not joined and split again: what has a space in it is no token."""
    with pytest.raises(ConfigError):
        CachedTokenRequest(TENANT, USER, ["openid", token])


@pytest.mark.parametrize("client_id", ["", "a\nb", "\x00", "\ud800", None, 7])
def test_a_client_id_that_cannot_be_one_is_refused(client_id: Any) -> None:
    """The client id is part of the key and of the Authorization header."""
    with pytest.raises(ConfigError):
        Broker(DESCRIPTOR, client_id, "secret")


def test_a_string_that_lies_about_itself_is_refused_or_taken_at_its_word(broker: Broker) -> None:
    """A str subclass with its own __str__, __eq__ and __hash__ does not become another tenant's key."""

    class Liar(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "victim"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("victim")

    victim = broker.key_for(CachedTokenRequest("victim", USER, SCOPE))
    try:
        request = CachedTokenRequest(Liar("mallory"), USER, SCOPE)
    except ConfigError:
        return
    assert broker.key_for(request).digest != victim.digest


class Named(str, Enum):  # noqa: UP042 - how it was written before StrEnum; its __str__ is "Named.ACME"
    """What programs keep their tenants and scopes in."""

    ACME = "acme"


def test_an_enumeration_member_is_taken_by_its_value(broker: Broker) -> None:
    """A tenant and a scope from an enumeration are the same as the plain strings they equal."""
    plain = broker.key_for(CachedTokenRequest("acme", "acme", ["acme"]))
    assert broker.key_for(CachedTokenRequest(Named.ACME, "acme", ["acme"])) == plain
    assert broker.key_for(CachedTokenRequest("acme", Named.ACME, ["acme"])) == plain
    assert broker.key_for(CachedTokenRequest("acme", "acme", [Named.ACME])) == plain


IDENTIFIERS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]) | st.sampled_from('a:/\\",[]\u0301'),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, derandomize=True, database=None)
@given(st.tuples(IDENTIFIERS, IDENTIFIERS), st.tuples(IDENTIFIERS, IDENTIFIERS))
def test_any_two_different_identities_have_different_keys(one: tuple[str, str], two: tuple[str, str]) -> None:
    """Whatever two tenants and principals are called, their keys differ, and are the same in every broker."""
    assume(one != two)
    keys = []
    for _ in range(2):
        broker = Broker(DESCRIPTOR, "client", "secret")
        keys.append([broker.key_for(CachedTokenRequest(*pair, SCOPE)).digest for pair in (one, two)])
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[0][1]
