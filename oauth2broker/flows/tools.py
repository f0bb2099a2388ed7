"""What every flow of a broker works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.keeper import Keeper
from oauth2broker.flows.singleflight import Flights
from oauth2broker.flows.token_endpoint import TokenEndpoint
from oauth2broker.obs import RefreshMetrics
from oauth2broker.stores.base import BrokerStore


@dataclass(frozen=True, slots=True)
class Tools:
    """Shared by the flows of one broker; each of them is safe to use from several threads."""

    store: BrokerStore
    keeper: Keeper
    endpoint: TokenEndpoint
    flights: Flights
    metrics: RefreshMetrics
    clock: Callable[[], datetime]
    bounds: Bounds
