"""What a method of client authentication is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from oauth2broker.client_auth.sources import SecretSource
from oauth2broker.errors import BrokerError
from oauth2broker.provider.kinds import ClientAuthMethod
from oauth2broker.provider.strategy import RequestDraft
from oauth2broker.secret import TokenSecret


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who authenticates, and to whom.

    ``audience`` is what the authorization server calls itself; ``now`` is an aware UTC datetime by the
    broker's clock. ``plain_basic`` is the quirk of that name.
    """

    client_id: str
    audience: str
    now: datetime
    plain_basic: bool = False


class ClientAuthentication(ABC):
    """One method of client authentication. Immutable and safe to share; its repr shows no secret.

    ``methods`` are the names that a provider may know it by; one without a name goes with every provider.
    ``secret`` is where the client secret comes from, for methods that have one.
    """

    methods: ClassVar[tuple[ClientAuthMethod, ...]] = ()
    secret: SecretSource | None = None

    @abstractmethod
    def authenticate(
        self, draft: RequestDraft, identity: ClientIdentity
    ) -> Iterable[TokenSecret] | BrokerError:
        """Add to ``draft`` what proves the client, and give the secrets that it then holds.

        They are blotted out of what the provider says. Gives what is wrong and does not raise it: its frame
        holds plain secrets. What it raises all the same is reduced to the name of its type, except a
        BrokerError.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
