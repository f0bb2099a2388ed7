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

`StoreContract` is the tests that every store must pass, for authors of stores.
"""

from oauth2broker.testing._calls import TokenCall
from oauth2broker.testing.faults import Fault
from oauth2broker.testing.loopback import LoopbackProvider
from oauth2broker.testing.store_contract import StoreContract

__all__ = ["Fault", "LoopbackProvider", "StoreContract", "TokenCall"]
