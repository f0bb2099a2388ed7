"""What every flow of a broker works with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.keeper import Keeper
from oauth2broker.flows.singleflight import Flights
from oauth2broker.flows.telemetry import Telemetry
from oauth2broker.obs import RefreshMetrics
from oauth2broker.stores.base import BrokerStore

if TYPE_CHECKING:
    from oauth2broker.flows.token_endpoint import TokenEndpoint


class Tools:
    """Shared by the flows of one broker; each of them is safe to use from several threads.

    ``seconds`` is what ``clock`` says as POSIX seconds, which costs less to ask for and to compare.
    """

    def __init__(
        self,
        *,
        store: BrokerStore,
        keeper: Keeper,
        flights: Flights,
        metrics: RefreshMetrics,
        telemetry: Telemetry,
        clock: Callable[[], datetime],
        seconds: Callable[[], float],
        bounds: Bounds,
        make_endpoint: Callable[[], TokenEndpoint],
    ) -> None:
        self.store = store
        self.keeper = keeper
        self.flights = flights
        self.metrics = metrics
        self.telemetry = telemetry
        self.clock = clock
        self.seconds = seconds
        self.bounds = bounds
        self._make_endpoint = make_endpoint
        self._endpoint: TokenEndpoint | None = None

    @property
    def endpoint(self) -> TokenEndpoint:
        """The provider, made when it is first called; two threads that make two do no harm."""
        if self._endpoint is None:
            self._endpoint = self._make_endpoint()
        return self._endpoint
