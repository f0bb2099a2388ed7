"""What can be imported, what importing costs, and that all of it says what it is."""

import ast
import importlib
import inspect
import modulefinder
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import oauth2broker

PACKAGE = Path(oauth2broker.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
LAZY = {"BrokerAuth", "BrokerSession", "RequestsHttpClient", "RequestsTransportErrorMapper"}
HEAVY = ["requests", "urllib3", "oauthlib"]

SNAPSHOT = [
    "ANY",
    "AesGcmCipher",
    "Allow",
    "AuthorizationError",
    "AuthorizationRequiredError",
    "AuthorizationSession",
    "BackendError",
    "BodyFormat",
    "Broker",
    "BrokerAuth",
    "BrokerError",
    "BrokerSession",
    "BrokerStore",
    "CachedTokenRequest",
    "CallbackContext",
    "ClientAuthMethod",
    "ClientAuthentication",
    "ClientIdentity",
    "ClientSecretBasic",
    "ClientSecretJwt",
    "ClientSecretPost",
    "CompareAndSwapOutcome",
    "ConfigError",
    "CoolDown",
    "DefaultProviderStrategy",
    "Delay",
    "DelayedError",
    "Endpoint",
    "ExpiryRule",
    "FileStore",
    "FlightWait",
    "FlowEvent",
    "FlowKind",
    "FlowOutcome",
    "FlowSpan",
    "FlowStep",
    "FolderTokenBucket",
    "GrantType",
    "HeaderSigner",
    "HttpRequest",
    "HttpResponse",
    "InsufficientScopeError",
    "InvalidClientError",
    "InvalidGrantError",
    "LeaseWait",
    "LentToken",
    "Level",
    "LevelObserver",
    "LoggingObserver",
    "MemoryStore",
    "NoAuthentication",
    "Observer",
    "OpenTelemetryObserver",
    "PkceSupport",
    "PrincipalId",
    "PrivateKeyJwt",
    "PrometheusObserver",
    "ProviderCall",
    "ProviderDescriptor",
    "ProviderErrorContext",
    "ProviderErrorKind",
    "ProviderId",
    "ProviderQuirks",
    "ProviderStrategy",
    "ProviderTemplate",
    "PruneReport",
    "RateLimitContext",
    "RateLimitDecision",
    "RateLimitPolicy",
    "RecordCipher",
    "RedisStore",
    "RefreshMetrics",
    "RefreshResult",
    "RenewalProgress",
    "RenewalReport",
    "RequestDraft",
    "RequestSigner",
    "RequestsHttpClient",
    "RequestsTransportErrorMapper",
    "ResponseMetadata",
    "ResponseMetadataSlot",
    "RetryDirective",
    "RevokedError",
    "RewrapReport",
    "RotationPolicy",
    "SQLAlchemyStore",
    "ScopeSet",
    "SerializationError",
    "StateMismatchError",
    "StoreError",
    "StoreKey",
    "TenantId",
    "TieredStore",
    "TimeUnit",
    "TlsClientAuth",
    "TokenBucket",
    "TokenFamily",
    "TokenHttpClient",
    "TokenLease",
    "TokenLeaseContext",
    "TokenLeaseState",
    "TokenLender",
    "TokenRecord",
    "TokenSecret",
    "TokenStatus",
    "TransientError",
    "TransportError",
    "TransportErrorMapper",
    "VariableKind",
    "is_public_address",
    "record_flow_outcome",
]

BROKER_MEMBERS = [
    "client_credentials",
    "clock",
    "close",
    "complete_authorization",
    "descriptor",
    "exchange_code",
    "is_renewing",
    "key_for",
    "prune",
    "refresh_access_token",
    "refresh_metrics",
    "renew_due",
    "revoke",
    "start_authorization",
    "store",
    "strategy",
    "unsaved",
]

each_source = pytest.mark.parametrize(
    "source", SOURCES, ids=[str(path.relative_to(PACKAGE)) for path in SOURCES]
)


def loaded_after(program: str) -> str:
    """Run ``program`` in a fresh interpreter and give which heavy modules it loaded."""
    report = f"import sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{program}\n{report}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


# Names


def test_the_public_names_are_these() -> None:
    """Other programs call them: a name added or lost is a decision, made here as well."""
    assert oauth2broker.__all__ == SNAPSHOT


def test_all_is_sorted_and_names_nothing_twice() -> None:
    """A reader finds a name where it should be."""
    assert len(set(oauth2broker.__all__)) == len(oauth2broker.__all__)
    assert sorted(oauth2broker.__all__) == oauth2broker.__all__


def test_type_checkers_are_told_what_the_package_offers() -> None:
    """Each name comes from the same module for those who read the source and for those who run it."""
    source = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in source.body if isinstance(node, ast.If)]
    told = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert told == oauth2broker._HOMES


def test_modules_can_be_reached_through_the_package() -> None:
    """As if they had been imported with it."""
    assert loaded_after("import oauth2broker; oauth2broker.errors.ConfigError, oauth2broker.records") == "[]"


def test_what_packs_programs_finds_every_module() -> None:
    """Tools that follow the imports in the code find what is loaded by name."""
    finder = modulefinder.ModuleFinder(excludes=["opentelemetry"])  # a namespace package: it chokes on those
    finder.load_file(str(PACKAGE / "__init__.py"))
    assert {"oauth2broker.flows.broker", "oauth2broker.stores.file"} <= finder.modules.keys()


def test_the_package_offers_nothing_else() -> None:
    """Every name of ours that was loaded is in ``__all__``, and they are listed before they are."""
    assert set(dir(oauth2broker)) >= set(oauth2broker.__all__)
    loaded = {name for name, value in vars(oauth2broker).items() if not isinstance(value, ModuleType)}
    assert {name for name in loaded if is_ours(vars(oauth2broker)[name]) and not name.startswith("_")} <= set(
        oauth2broker.__all__
    )


def is_ours(value: object) -> bool:
    module = value.__module__ if hasattr(value, "__module__") else type(value).__module__
    return str(module).startswith("oauth2broker")


@pytest.mark.parametrize("name", oauth2broker.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    """Also those that come by ``__getattr__``, and each knows itself by that name."""
    value = getattr(oauth2broker, name)
    assert value is not None
    assert is_ours(value)
    assert getattr(value, "__name__", name) == name


def test_a_star_import_gives_every_public_name() -> None:
    """``__all__`` promises nothing that is not there."""
    names: dict[str, object] = {}
    exec("from oauth2broker import *", names)
    assert set(oauth2broker.__all__) <= names.keys()


def test_an_unknown_name_is_an_attribute_error() -> None:
    """``__getattr__`` does not swallow misspellings."""
    name = "NoSuchThing"
    with pytest.raises(AttributeError, match=name):
        getattr(oauth2broker, name)
    with pytest.raises(ImportError):
        exec("from oauth2broker import NoSuchThing")


def test_a_broker_has_the_methods_of_the_design() -> None:
    """Its public members are these and no others."""
    public = {name for name in vars(oauth2broker.Broker) if not name.startswith("_")}
    assert public == set(BROKER_MEMBERS)


def test_the_package_is_marked_as_typed() -> None:
    """Users' type checkers read our annotations (PEP 561)."""
    assert (PACKAGE / "py.typed").is_file()


# What importing costs


def test_importing_the_package_loads_nothing_else_of_it() -> None:
    """Each name is loaded when it is asked for."""
    program = "import oauth2broker, sys; ours = [n for n in sys.modules if n.startswith('oauth2broker.')]"
    assert loaded_after(f"{program}; assert not ours, ours") == "[]"


def test_using_everything_but_the_default_transport_loads_them_neither() -> None:
    """Every public name except the four on requests can be imported for free."""
    names = ", ".join(sorted(set(oauth2broker.__all__) - LAZY))
    assert loaded_after(f"from oauth2broker import {names}") == "[]"


def test_serving_a_cached_token_loads_no_http_and_no_oauth_library() -> None:
    """Neither making a broker on a MemoryStore nor serving a user's and a service's token needs them."""
    program = """
from datetime import UTC, datetime, timedelta
from oauth2broker import Broker, CachedTokenRequest, GrantType, MemoryStore, ProviderDescriptor, TokenRecord

descriptor = ProviderDescriptor("demo-provider", "https://provider.example.com/token",
                                {"refresh_token", "client_credentials"})
request = CachedTokenRequest("tenant-acme", "user-1", "openid")
now = datetime.now(UTC)
with Broker(descriptor, "demo-client", "demo-secret", store=MemoryStore()) as broker:
    for grant in (GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS):
        key = broker.key_for(request, grant)
        broker.store.save(TokenRecord(family=key.family, scope=request.scope, grant=grant, access_token=grant,
                                      issued_at=now, expires_at=now + timedelta(hours=1)))
    assert broker.refresh_access_token(request).access_token.expose() == "authorization_code"
    assert broker.client_credentials(request).access_token.expose() == "client_credentials"
"""
    assert loaded_after(program) == "[]"


def test_the_default_transport_is_what_loads_requests() -> None:
    """The check above can fail: the name that needs requests brings it in."""
    assert "requests" in loaded_after("import oauth2broker; oauth2broker.RequestsHttpClient")


# Docstrings


def is_public(name: str) -> bool:
    return not name.startswith("_")


@each_source
def test_every_public_class_and_function_has_a_docstring(source: Path) -> None:
    """So has the module; a name with a leading underscore may go without."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, definitions) and is_public(node.name) and not ast.get_docstring(node)
    ]
    if not tree.body:
        return
    assert ast.get_docstring(tree), "the module"
    if is_public(source.stem) or source.stem == "__init__":
        assert [name for name in bare if name != "__getattr__"] == []


@pytest.mark.parametrize("name", oauth2broker.__all__)
def test_every_public_method_has_a_docstring(name: str) -> None:
    """Its own, or that of the method it overrides."""
    value = getattr(oauth2broker, name)
    if not inspect.isclass(value):
        return
    members = [
        member
        for cls in value.__mro__
        if cls.__module__.startswith("oauth2broker")
        for member, found in vars(cls).items()
        if is_public(member) and (callable(found) or isinstance(found, property | classmethod | staticmethod))
    ]
    assert [member for member in members if not inspect.getdoc(getattr(value, member))] == []


@pytest.mark.parametrize("name", [name for name in oauth2broker.__all__ if name != "ANY"])
def test_a_public_docstring_is_written_by_hand(name: str) -> None:
    """Not inherited, and not the signature that dataclasses put there."""
    value = getattr(oauth2broker, name)
    documented = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert documented
    assert not documented.startswith(f"{name}(")


# No event loop


@each_source
def test_the_package_knows_no_event_loop(source: Path) -> None:
    """Everything is synchronous: no coroutine is defined or awaited, and no loop imported."""
    kinds = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    found: list[str] = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, kinds) or (isinstance(node, ast.comprehension) and node.is_async):
            found.append(type(node).__name__)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if is_loop(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module and is_loop(node.module):
            found.append(node.module)
    assert found == []


def is_loop(module: str) -> bool:
    return module.split(".")[0] in {"asyncio", "anyio", "trio", "gevent", "eventlet"}


def test_the_sources_are_found() -> None:
    """The tests above read the package that is imported, and all of it."""
    names = {path.relative_to(PACKAGE).as_posix() for path in SOURCES}
    assert {"__init__.py", "flows/broker.py", "stores/memory.py", "transports/requests.py"} <= names
    assert importlib.import_module("oauth2broker.flows.broker").__file__ == str(
        PACKAGE / "flows" / "broker.py"
    )
