"""Several simulated gateways that share the trace and, through one store, the limits.

Each has the live SharedStore with its grants, its ticks and its patience; only the wire and the time are made
up. A gateway's first word to the store comes before the trace begins, so that all know of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from random import Random

from gateway.config.schema import Config
from gateway.core.events import TICK_S
from gateway.sim.arrivals import Arrival
from gateway.sim.gateway import Scene, SimGateway
from gateway.sim.scenario import Scenario, StoreConfig
from gateway.sim.store_network import StoreNetwork
from gateway.sim.virtual_loop import VirtualLoop
from gateway.state.shared import Company, SharedStore

# They join one after the other, in the first half of this time before the trace.
WARM_UP_S = 2.0
# Apart enough that no seed of a run is that of another gateway in it.
SEED_STEP = 1_000_003


class SharingGateway(SimGateway):
    """One of several."""

    def __init__(
        self, config: Config, scene: Scene, loop: VirtualLoop, network: StoreNetwork, number: int
    ) -> None:
        self.number = number
        self._network = network
        self._is_degraded = self._has_left = False
        super().__init__(config, replace(scene, seed=scene.seed + SEED_STEP * (number - 1)), loop)

    def make_store(self, scene: Scene) -> SharedStore:
        company = Company(
            clock=lambda: self.timeline.now_s,
            draw=Random(f"{scene.seed}: store").random,
            apply=self.apply,
            latencies=lambda: self.fleet.take_latencies(self.timeline.now_s),
            observe_exchange=self._exchanged,
        )
        link = self._network.links[self.number - 1]
        return SharedStore(link, "simulated", company, gateway_id=f"gateway-{self.number}")

    def join(self) -> None:
        self.carry(self.store.start())

    def leave(self) -> None:
        self._has_left = True
        self.drop_carried()  # synthetic probes: no request is left
        self.carry(self.store.stop())

    def _try_half_open(self, backend_id: str, generation: int) -> None:
        if not self._has_left:  # its last tick may come after that
            super()._try_half_open(backend_id, generation)

    def _exchanged(self, _seconds: float, _is_good: bool) -> None:
        # The store changes its mind by it, but only after it has told of it.
        self.timeline.at(self.timeline.now_s, self._look_at_health)

    def _look_at_health(self) -> None:
        is_degraded = self.store.health().is_degraded
        if is_degraded is not self._is_degraded:
            self._is_degraded = is_degraded
            self.ledger.degraded.change(1 if is_degraded else -1, max(self.now_s, 0.0))


class GatewayFleet:
    """All gateways, a Carrier together. Who gets a request is drawn, or goes by turns."""

    def __init__(self, config: Config, scene: Scene, scenario: Scenario, store: StoreConfig) -> None:
        """Raises NoLua."""
        self._timeline = scene.timeline
        self._ledger = scene.ledger
        self.loop = VirtualLoop(scene.timeline)
        self._network = StoreNetwork(store, scenario.gateways, scene.timeline)
        self._draw = Random(f"{scene.seed}: gateways")
        self.gateways = [
            SharingGateway(config, scene, self.loop, self._network, number)
            for number in range(1, scenario.gateways + 1)
        ]
        self._next = self._chooser(scenario)
        scene.ledger.gateways = scenario.gateways
        scene.ledger.is_shared = True

    def _chooser(self, scenario: Scenario) -> Callable[[], int]:
        if scenario.spread == "random":
            return partial(self._draw.randrange, scenario.gateways)
        turns = count()
        return lambda: next(turns) % scenario.gateways

    def begin(self) -> None:
        begin_s = self._timeline.now_s
        for gateway in self.gateways:
            gateway.begin()
            self._timeline.at(begin_s + self._draw.random() * WARM_UP_S / 2, gateway.join)

    def arrive(self, number: int, arrival: Arrival) -> None:
        self.gateways[self._next()].arrive(number, arrival)

    def finish(self) -> None:
        for gateway in self.gateways:
            gateway.finish()
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        """Nobody leaves, and gives away its slots, while others still work."""
        if not all(gateway.is_idle for gateway in self.gateways):
            self._timeline.at(self._timeline.now_s + TICK_S, self._leave_when_idle)
            return
        self._ledger.exchanges = self._network.exchanges
        for gateway in self.gateways:
            gateway.leave()
