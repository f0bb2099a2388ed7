"""What users of the library test with.

`LoopbackProvider` is a real authorization server on 127.0.0.1 that is strict where real providers
are strict: PKCE, single-use codes, rotation of refresh tokens, revocation of the whole family when
a spent one comes again. `Fault` makes it fail on demand; `TokenCall` is what it remembers of a
call::

    with LoopbackProvider() as provider:
        broker = Broker(provider.descriptor(), "demo-client", "demo-secret")
        provider.inject(Fault.answer(503, headers={"Retry-After": "7"}))
        ...
        assert [call.status for call in provider.calls] == [503, 200]

`FakeProvider` is a provider without sockets for unit tests of applications; it needs the extra
``testing`` (the package ``responses``), and is loaded when it is first asked for. `FrozenClock` stands
still until it is moved. The fixtures of ``oauth2broker.testing.pytest_plugin`` put them together.

`StoreContract` is the tests that every store must pass, for authors of stores, and
`TransportContract` those for authors of transports.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from oauth2broker.testing._calls import TokenCall
from oauth2broker.testing.clock import FrozenClock
from oauth2broker.testing.faults import Fault
from oauth2broker.testing.loopback import LoopbackProvider
from oauth2broker.testing.store_contract import StoreContract

if TYPE_CHECKING:
    from oauth2broker.testing.fake_provider import FakeProvider
    from oauth2broker.testing.transport_contract import TransportContract

__all__ = [
    "FakeProvider",
    "Fault",
    "FrozenClock",
    "LoopbackProvider",
    "StoreContract",
    "TokenCall",
    "TransportContract",
]

_LATE = {"FakeProvider": "fake_provider", "TransportContract": "transport_contract"}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
