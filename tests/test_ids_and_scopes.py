"""Identifiers and scope sets accept what they promise, refuse the rest, and stay what they are."""

import base64
import copy
import hashlib
import pickle
import sys
import unicodedata

import pytest
from hypothesis import given, strategies as st

from oauth2broker import ConfigError, PrincipalId, ProviderId, ScopeSet, TenantId
from oauth2broker.ids import Identifier
from oauth2broker.scopes import is_scope_token

KINDS: list[type[Identifier]] = [TenantId, PrincipalId, ProviderId]
EVERY_CHARACTER = [chr(code) for code in range(sys.maxunicode + 1)]
WHITESPACE = [character for character in EVERY_CHARACTER if character.isspace()]
CONTROLS = [character for character in EVERY_CHARACTER if unicodedata.category(character) == "Cc"]
SURROGATES = ["\ud800", "\udbff", "\udc00", "\udfff"]
REFUSED = sorted({*WHITESPACE, *CONTROLS, *SURROGATES})
LOOK_ALIKES = [
    "acme",
    "Acme",
    "ACME",
    "\u0430cme",  # a Cyrillic a
    "\uff41cme",  # a full-width a
    "acme\u200b",  # a zero-width space, which is a format character
    "\u202eacme",  # a right-to-left override
    "acm\u00e9",
    "acme\u0301",  # the same to the eye, decomposed
]

identifier_texts = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=128
)
scope_tokens = st.text(
    st.sampled_from([c for c in map(chr, range(0x21, 0x7F)) if c not in '"\\']), min_size=1, max_size=12
)


def change(value: object, name: str) -> None:
    setattr(value, name, "changed")


# Identifiers


@given(st.sampled_from(KINDS), identifier_texts)
def test_an_identifier_equals_and_hashes_like_the_string_it_was_made_of(
    kind: type[Identifier], text: str
) -> None:
    """Nothing is normalized away: what goes in comes out, and dicts keyed by either agree."""
    identifier = kind(text)
    assert identifier == text
    assert hash(identifier) == hash(text)
    assert str(identifier) == text
    assert f"{identifier}" == text
    assert type(identifier) is kind


@pytest.mark.parametrize("kind", KINDS)
def test_an_identifier_has_from_1_to_128_characters(kind: type[Identifier]) -> None:
    """Both ends of the range are accepted and their neighbours refused, in characters and not in bytes."""
    assert kind("x") == "x"
    assert len(kind("\U0001f600" * 128)) == 128
    with pytest.raises(ConfigError, match=kind.__name__):
        kind("")
    with pytest.raises(ConfigError, match="129"):
        kind("x" * 129)


@pytest.mark.parametrize("kind", KINDS)
def test_no_whitespace_control_character_or_surrogate_gets_into_an_identifier(
    kind: type[Identifier],
) -> None:
    """Each such character of Unicode is refused at the start, in the middle, at the end and alone."""
    for character in REFUSED:
        for text in (character, f"{character}acme", f"ac{character}me", f"acme{character}"):
            with pytest.raises(ConfigError, match=f"{kind.__name__}.*U\\+{ord(character):04X}"):
                kind(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, 5, 1.5, b"acme", ["acme"], ("acme",)])
def test_an_identifier_is_made_of_a_str_only(kind: type[Identifier], value: object) -> None:
    """Anything else is a ConfigError that names the type, never a silent str()."""
    with pytest.raises(ConfigError, match=type(value).__name__):
        kind(value)  # type: ignore[arg-type]


def test_identifiers_that_look_alike_are_kept_apart() -> None:
    """No folding of case, width or composition makes two tenants one."""
    assert len({TenantId(text) for text in LOOK_ALIKES}) == len(LOOK_ALIKES)
    assert [str(TenantId(text)) for text in LOOK_ALIKES] == LOOK_ALIKES


def test_an_identifier_made_of_another_kind_is_of_the_kind_asked_for() -> None:
    """A PrincipalId passed for a tenant becomes a TenantId; a TenantId stays the same object."""
    tenant = TenantId("acme")
    assert TenantId(tenant) is tenant
    assert type(TenantId(PrincipalId("acme"))) is TenantId


def test_the_repr_of_an_identifier_names_its_kind() -> None:
    """Logs tell a tenant from a principal."""
    assert repr(TenantId("acme")) == "TenantId('acme')"
    assert repr(PrincipalId("it's")) == 'PrincipalId("it\'s")'


@pytest.mark.parametrize("kind", KINDS)
def test_an_identifier_carries_no_attributes(kind: type[Identifier]) -> None:
    """It is immutable and no bigger than it must be."""
    with pytest.raises(AttributeError):
        change(kind("acme"), "note")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_identifier_survives_pickle_and_copy(kind: type[Identifier], protocol: int) -> None:
    """It comes back equal and of its own kind."""
    identifier = kind("acme")
    for twin in (
        pickle.loads(pickle.dumps(identifier, protocol)),
        copy.copy(identifier),
        copy.deepcopy(identifier),
    ):
        assert twin == identifier
        assert type(twin) is kind


# Scope sets


@pytest.mark.parametrize(
    "tokens",
    [
        "profile.read email.read",
        "  email.read   profile.read email.read ",
        ["profile.read", "email.read", "profile.read"],
        ("email.read", "profile.read"),
        {"profile.read", "email.read"},
        frozenset({"profile.read", "email.read"}),
        dict.fromkeys(["profile.read", "email.read"]),
        ScopeSet("email.read profile.read"),
    ],
    ids=lambda tokens: type(tokens).__name__,
)
def test_a_string_and_any_iterable_of_tokens_make_the_same_scope_set(tokens: object) -> None:
    """However a caller writes a scope, it is sorted, without duplicates, and equal."""
    scope = ScopeSet(tokens)  # type: ignore[arg-type]
    assert scope.normalized == "email.read profile.read"
    assert scope == ScopeSet("email.read profile.read")


def test_a_generator_makes_a_scope_set() -> None:
    """An iterable that can be read only once is enough."""
    assert ScopeSet(token for token in ["b", "a"]).normalized == "a b"


@pytest.mark.parametrize("nothing", ["", "   ", [], (), set(), ScopeSet()])
def test_no_tokens_make_the_empty_scope_set(nothing: str | list[str]) -> None:
    """An empty scope is a scope set, and false."""
    scope = ScopeSet(nothing)
    assert scope.normalized == ""
    assert len(scope) == 0
    assert not scope
    assert scope == ScopeSet()


@given(st.lists(scope_tokens))
def test_normalizing_twice_changes_nothing(tokens: list[str]) -> None:
    """A scope set made of another's normalized text, or of its tokens, is that scope set."""
    scope = ScopeSet(tokens)
    assert ScopeSet(scope.normalized) == scope
    assert ScopeSet(scope.normalized).normalized == scope.normalized
    assert ScopeSet(list(scope)) == scope


@given(st.lists(scope_tokens).flatmap(lambda tokens: st.tuples(st.just(tokens), st.permutations(tokens))))
def test_the_order_of_tokens_does_not_matter(orders: tuple[list[str], list[str]]) -> None:
    """Two orders of the same tokens are one scope set with one hash and one fingerprint."""
    one, other = map(ScopeSet, orders)
    assert one == other
    assert hash(one) == hash(other)
    assert one.fingerprint == other.fingerprint
    assert list(one) == sorted(set(orders[0]))


@given(st.sets(scope_tokens), st.sets(scope_tokens))
def test_scope_sets_and_fingerprints_are_equal_exactly_when_the_tokens_are(
    one: set[str], other: set[str]
) -> None:
    """Two different scopes never share a fingerprint, and with it a stored token."""
    assert (ScopeSet(one) == ScopeSet(other)) is (one == other)
    assert (ScopeSet(one).fingerprint == ScopeSet(other).fingerprint) is (one == other)


@pytest.mark.parametrize(
    ("scope", "fingerprint"),
    [
        ("", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"),
        ("profile.read email.read", "QrVcSB9LrWs42L/TWCjA0HNZkwD3qvHuy2oU3nmpE0c"),
        ("profile openid", "Nhs4TU1YQLdz25cXeGG3IDlzCIsnja890seLPn2NDio"),
    ],
)
def test_the_fingerprint_is_the_one_that_stores_already_hold(scope: str, fingerprint: str) -> None:
    """The values were made with openssl; a change of the formula would orphan every stored token."""
    assert ScopeSet(scope).fingerprint == fingerprint


@given(st.lists(scope_tokens))
def test_the_fingerprint_is_the_unpadded_base64_of_the_sha256(tokens: list[str]) -> None:
    """Another program can compute it from the normalized text."""
    scope = ScopeSet(tokens)
    digest = hashlib.sha256(scope.normalized.encode()).digest()
    assert base64.b64decode(scope.fingerprint + "=") == digest
    assert "=" not in scope.fingerprint


@pytest.mark.parametrize("shape", ["{}", "a{}", "{}a", "a{}a"])
def test_a_scope_token_has_the_characters_of_the_rfc(shape: str) -> None:
    """RFC 6749 section 3.3: %x21 / %x23-5B / %x5D-7E, and nothing else, wherever it stands."""
    allowed = {0x21, *range(0x23, 0x5C), *range(0x5D, 0x7F)}
    for code in range(0x200):
        token = shape.format(chr(code))
        assert is_scope_token(token) is (code in allowed)
        if code in allowed:
            assert list(ScopeSet([token])) == [token]
        else:
            with pytest.raises(ConfigError, match="scope token"):
                ScopeSet([token])


@pytest.mark.parametrize("tokens", ["a\tb", "a\nb", "a\r\nb", "a\u00a0b", "a\u3000b", 'a"', "a\\b", "\u0430"])
def test_only_a_space_separates_the_tokens_of_a_string(tokens: str) -> None:
    """Other whitespace, quotes, backslashes and letters beyond ASCII are refused, not repaired."""
    with pytest.raises(ConfigError, match="RFC 6749"):
        ScopeSet(tokens)


@pytest.mark.parametrize("tokens", [[""], ["a b"], [" "], [None], [5], [["a"]], [b"a"], b"a"])
def test_an_iterable_holds_whole_tokens(tokens: object) -> None:
    """An element that is empty, holds a space or is no str is refused."""
    with pytest.raises(ConfigError):
        ScopeSet(tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [None, 5, True, object()], ids=repr)
def test_a_scope_is_a_string_or_an_iterable(tokens: object) -> None:
    """Anything else is a ConfigError, not a TypeError from somewhere inside."""
    with pytest.raises(ConfigError, match=type(tokens).__name__):
        ScopeSet(tokens)  # type: ignore[arg-type]


def test_a_scope_set_is_a_collection_of_its_tokens() -> None:
    """Iterating, counting and asking for members see tokens, never parts or joins of them."""
    scope = ScopeSet("b a.b")
    assert list(scope) == ["a.b", "b"]
    assert len(scope) == 2
    assert scope
    assert "b" in scope
    assert "a" not in scope
    assert "a.b b" not in scope
    assert "" not in scope
    stranger: object = 5
    assert stranger not in scope
    assert str(scope) == "a.b b"
    assert repr(scope) == "ScopeSet('a.b b')"


def test_a_scope_set_is_not_its_text() -> None:
    """Equality is between scope sets; a string that spells one is another thing."""
    scope: object = ScopeSet("a b")
    assert scope != "a b"
    assert scope != {"a", "b"}


@pytest.mark.parametrize("name", ["normalized", "fingerprint", "note"])
def test_a_scope_set_cannot_be_changed(name: str) -> None:
    """Neither its fields nor new ones can be set."""
    scope = ScopeSet("a b")
    with pytest.raises((AttributeError, TypeError)):
        change(scope, name)
    assert scope == ScopeSet("a b")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_scope_set_survives_pickle_and_copy(protocol: int) -> None:
    """It comes back equal, with its fingerprint."""
    scope = ScopeSet("a b")
    for twin in (pickle.loads(pickle.dumps(scope, protocol)), copy.copy(scope), copy.deepcopy(scope)):
        assert twin == scope
        assert twin.fingerprint == scope.fingerprint
        assert hash(twin) == hash(scope)
