"""A simulated gateway: the live Fleet, plans, budgets and store, driven by virtual time.

Nothing is decided here. What the live gateway's shell does around the core (apply effects, tick, sweep the
deadlines, ask after health) is done here on a Timeline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

from gateway.config.fleet import fleet_of, hold_of, set_budget
from gateway.config.schema import Config
from gateway.core.breaker import Circuit
from gateway.core.events import SWEEP_S, TICK_S
from gateway.core.fleet import (
    BytesSeen,
    Event,
    FirstByteSeen,
    Fleet,
    ReportCircuit,
    SendSyntheticProbe,
    SetLimits,
    ShareClosing,
    ShareOpening,
    Ticked,
)
from gateway.core.health import ProbeReported
from gateway.core.model import RequestFacts
from gateway.core.retries import ExtraAttempts
from gateway.ports import StateStore
from gateway.sim.arrivals import Arrival
from gateway.sim.attempt import Attempt, swept_s
from gateway.sim.endpoints import Site
from gateway.sim.exchange import Exchange
from gateway.sim.ledger import CircuitChange, Ledger, Row
from gateway.sim.timeline import Timeline
from gateway.sim.trial import Trial
from gateway.sim.virtual_loop import VirtualLoop, finish_now
from gateway.sim.waiting import SimWaitingRoom
from gateway.state.memory import MemoryStore


@dataclass(frozen=True, slots=True)
class Scene:
    """What a simulated gateway works in. `seed` is that of the gateway's own draws."""

    timeline: Timeline
    site: Site
    ledger: Ledger
    seed: int


class SimGateway:
    """`begin` before the first arrival; it stops its timers once `finish` was called and nothing runs.

    With a store of its own it needs no loop; one that it shares with others is awaited in `loop`.
    """

    number = 1  # among those that share the requests

    def __init__(self, config: Config, scene: Scene, loop: VirtualLoop | None = None) -> None:
        self.config = config
        self._loop = loop
        self._carried: dict[asyncio.Task[None], None] = {}
        self.timeline, self.site, self.ledger = scene.timeline, scene.site, scene.ledger
        self.fleet = Fleet()
        self.store = self.make_store(scene)
        self.hold = hold_of(config)
        self.waiting = SimWaitingRoom(self)
        self.extra = ExtraAttempts()
        set_budget(self.extra, config.retry, config.hedge)
        self._random = Random(scene.seed)
        self.faults_draw = Random(scene.seed + 1)
        self._running = 0
        self._is_finishing = self._is_sweeping = False
        self._deadlines: deque[tuple[float, Exchange]] = deque()
        self._untold: list[Attempt] = []
        self._streams: dict[str, int] = {}

    @property
    def now_s(self) -> float:
        return self.timeline.now_s

    def draw(self) -> int:
        return self._random.getrandbits(64)

    def make_store(self, scene: Scene) -> StateStore:
        return MemoryStore()

    def carry(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Runs what may have to wait for the store; None: it is done."""
        if self._loop is None:
            finish_now(coroutine)
            return None
        task: asyncio.Task[None] = self._loop.create_task(coroutine)
        self._carried[task] = None
        task.add_done_callback(self._has_carried)
        return task

    def _has_carried(self, task: asyncio.Task[None]) -> None:
        del self._carried[task]
        if not task.cancelled() and (failure := task.exception()) is not None:
            raise failure

    def drop_carried(self) -> None:
        """Nothing waits for the store any more."""
        for task in self._carried:
            task.cancel()

    # --- the shell around the core -------------------------------------------------------------------

    def begin(self) -> None:
        config = self.config
        self.apply(fleet_of(config))
        self.timeline.at(0.0, self._tick)
        for cluster in config.clusters:
            if cluster.health is not None:
                ids = [b.id for b in self.fleet.view.clusters[cluster.name].cluster.backends]
                for backend_id in ids:
                    first_s = self._random.random() * cluster.health.interval_s
                    self.timeline.at(first_s, self._probe, backend_id, cluster.health.interval_s)

    def apply(self, event: Event) -> None:
        for effect in self.fleet.apply(event, self.timeline.now_s):
            match effect:
                case SetLimits(limits, caps):
                    self.store.set_limits(limits, caps)
                case ReportCircuit(backend_id, circuit, trigger, reason):
                    change = CircuitChange(self.now_s, backend_id, circuit, trigger, reason, self.number)
                    self.ledger.circuits.append(change)
                case ShareOpening() | ShareClosing():
                    self.store.share_circuit(effect)
                case SendSyntheticProbe(backend_id, generation):
                    # Not inside the event that asked for it.
                    self.timeline.at(self.now_s, self._try_half_open, backend_id, generation)
                case _:
                    pass  # pooled connections: there are none
        if self.waiting.holding.count:
            self.waiting.review()

    def _try_half_open(self, backend_id: str, generation: int) -> None:
        Trial.begin(self, backend_id, generation)

    def _tick(self) -> None:
        self.apply(Ticked(self.draw()))
        if not self.is_idle:
            self.timeline.at(self.now_s + TICK_S, self._tick)

    def _probe(self, backend_id: str, interval_s: float) -> None:
        """The health page: a hung engine answers it like a good one."""
        is_up = self.site.endpoints[backend_id].is_up
        self.apply(ProbeReported(backend_id, is_up, "completed" if is_up else "connect_failed"))
        if not self.is_idle:
            self.timeline.at(self.now_s + interval_s, self._probe, backend_id, interval_s)

    # --- requests ------------------------------------------------------------------------------------

    def arrive(self, number: int, arrival: Arrival) -> None:
        exchange = Exchange(self, number, arrival)
        self._running += 1
        self._deadlines.append((exchange.journey.deadline_s, exchange))
        if not self._is_sweeping:
            self._is_sweeping = True
            self.timeline.at(swept_s(self.now_s) + SWEEP_S, self._sweep)
        exchange.start()

    def finish(self) -> None:
        """Nobody comes any more."""
        self._is_finishing = True

    @property
    def is_idle(self) -> bool:
        return self._is_finishing and not self._running

    def ended(self, row: Row) -> None:
        self._running -= 1
        self.ledger.rows.append(row)

    def has_missed_room(self, facts: RequestFacts, tier: str = "") -> bool:
        """Whether a backend of this tier, or of any, has a slot that would be had if all were one gateway."""
        for endpoints in self.site.serving(facts.model):
            for endpoint in endpoints:
                if endpoint.has_room and endpoint.is_well and tier in ("", endpoint.place.tier):
                    state = self.fleet.view.backends.get(endpoint.id)
                    if state is not None and state.circuit is Circuit.CLOSED and state.headroom:
                        return True
        return False

    # --- the sweep -----------------------------------------------------------------------------------

    def relayed(self, attempt: Attempt) -> None:
        """Its answer has begun to flow."""
        self._untold.append(attempt)

    def relay_ended(self, attempt: Attempt) -> None:
        if attempt.goes_on:
            self._streams[attempt.candidate.backend.id] -= 1

    def _sweep(self) -> None:
        now_s, deadlines = self.timeline.now_s, self._deadlines
        while deadlines and (deadlines[0][1].is_over or deadlines[0][0] <= now_s):
            _, exchange = deadlines.popleft()
            if not exchange.is_over:
                exchange.check_deadline()
        untold, self._untold = self._untold, []
        for attempt in untold:
            if attempt.is_over or attempt.untold_ttft_s is None:
                continue
            backend_id = attempt.candidate.backend.id
            if attempt.goes_on_s > now_s or attempt.endpoint.is_frozen:
                self._untold.append(attempt)  # as live: not before there is more than the first token
                continue
            # A long answer: routing should not learn of its first byte only at its end.
            self.apply(FirstByteSeen(backend_id, attempt.untold_ttft_s))
            attempt.untold_ttft_s = None
            attempt.goes_on = True
            self._streams[backend_id] = self._streams.get(backend_id, 0) + 1
        endpoints = self.site.endpoints
        progressed = tuple(id_ for id_, n in self._streams.items() if n and not endpoints[id_].is_frozen)
        if progressed:
            self.apply(BytesSeen(progressed))
        self._is_sweeping = self._running > 0
        if self._is_sweeping:
            self.timeline.at(now_s + SWEEP_S, self._sweep)

    def __repr__(self) -> str:
        return f"<SimGateway at {self.now_s:.1f} s, {self._running} running>"
