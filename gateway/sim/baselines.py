"""What other balancers would do with the same requests: the yardsticks beside every run.

They know nothing of circuits, retries or timeouts; who gets a backend stays there to the end. Rules of client
keys and residencies they keep: no balancer may break them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from gateway.config.schema import Config
from gateway.core.model import Reason, ShedReason
from gateway.sim.arrivals import Arrival
from gateway.sim.door import ANYBODY, Door, Entry
from gateway.sim.endpoints import Endpoint
from gateway.sim.gateway import Scene
from gateway.sim.ledger import Fate, Row

COOL_DOWN_S = 10.0

Tiers = Sequence[Sequence[Endpoint]]


def least_loaded(endpoints: Sequence[Endpoint]) -> Endpoint | None:
    """Of those with a free slot the one with the smallest share of its limit in use."""
    best, best_load = None, 1.0
    for endpoint in endpoints:
        load = endpoint.in_flight / endpoint.limit
        if load < best_load:
            best, best_load = endpoint, load
    return best


def first_with_room(tiers: Tiers) -> Endpoint | None:
    for tier in tiers:
        if (found := least_loaded(tier)) is not None:
            return found
    return None


class Greedy:
    """Spills only when the preferred tier is full, by an exact count."""

    name = "greedy"
    says = "spill only when full, exact counter"

    def choose(self, tiers: Tiers, now_s: float) -> Endpoint | None:
        return first_with_room(tiers)


class CoolDown:
    """Leaves the preferred tier for ten seconds when it finds it full."""

    name = "cool_down"
    says = f"leave the preferred tier for {COOL_DOWN_S:g} s when it is full"

    def __init__(self) -> None:
        self._away_until_s: dict[str, float] = {}  # by the first backend of who is left

    def choose(self, tiers: Tiers, now_s: float) -> Endpoint | None:
        preferred = tiers[0][0].id
        if now_s >= self._away_until_s.get(preferred, 0.0):
            if (found := least_loaded(tiers[0])) is not None:
                return found
            self._away_until_s[preferred] = now_s + COOL_DOWN_S
        return first_with_room(tiers[1:])


class RoundRobin:
    """Every backend in turn, whatever its tier; who is full is passed over."""

    name = "round_robin"
    says = "every backend in turn, whatever its tier"

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, tiers: Tiers, now_s: float) -> Endpoint | None:
        endpoints = [endpoint for tier in tiers for endpoint in tier]
        for step in range(len(endpoints)):
            endpoint = endpoints[(self._turn + step) % len(endpoints)]
            if endpoint.has_room:
                self._turn += step + 1
                return endpoint
        return None


Policy = Greedy | CoolDown | RoundRobin
BASELINES: tuple[Callable[[], Policy], ...] = (RoundRobin, CoolDown, Greedy)


@dataclass(slots=True, eq=False)
class Errand:
    """A Job of a baseline."""

    owner: BaselineGateway
    number: int
    arrival: Arrival
    endpoint: Endpoint
    preferred_tier: str
    left_room: bool
    entry: Entry
    ttft_s: float | None = None
    status: int = 200
    is_over: bool = False

    def on_first_byte(self, status: int) -> None:
        self.status = status
        if status < 400:
            self.ttft_s = self.owner.now_s - self.arrival.at_s

    def on_end(self) -> None:
        self._end(Fate.SERVED if self.status < 400 else Fate.FAILED, f"status_{self.status}")

    def on_broken(self, is_refused: bool) -> None:
        if not self.is_over:
            self._end(Fate.FAILED, Reason.CONNECT_FAILED if is_refused else Reason.RESET)

    def on_frozen(self) -> None:
        pass

    def _end(self, fate: Fate, failed: str) -> None:
        self.is_over = True
        self.owner.ended(self, fate, failed)


class BaselineGateway:
    """Carries requests by a policy."""

    def __init__(self, policy: Policy, config: Config, scene: Scene) -> None:
        self._policy = policy
        self._door = Door(config, scene.site.residencies)
        self._scene = scene
        self._draw = Random(scene.seed + 1)

    @property
    def now_s(self) -> float:
        return self._scene.timeline.now_s

    def begin(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def arrive(self, number: int, arrival: Arrival) -> None:
        entry = self._door.enter(arrival, self.now_s)
        if isinstance(entry, str):
            self._refuse(number, arrival, entry)
            return
        scene, residency = self._scene, entry.residency
        tiers = scene.site.serving(arrival.model, residency)
        endpoint = self._policy.choose(tiers, self.now_s) if tiers else None
        preferred = tiers[0][0].place.tier if tiers else ""
        if endpoint is None:
            entry.leave()
            is_elsewhere = residency is not None and bool(scene.site.serving(arrival.model))
            nobody = ShedReason.RESIDENCY_UNAVAILABLE if is_elsewhere else ShedReason.MODEL_NOT_FOUND
            self._refuse(number, arrival, ShedReason.NO_CAPACITY if tiers else nobody, preferred, entry)
            return
        is_away = endpoint.place.tier != preferred
        left_room = is_away and scene.ledger.has_room_at_home(arrival.model, residency)
        errand = Errand(self, number, arrival, endpoint, preferred, left_room, entry)
        scene.site.take(endpoint, self.now_s)
        endpoint.submit(errand, self._draw)

    def _refuse(
        self, number: int, arrival: Arrival, why: str, preferred: str = "", entry: Entry = ANYBODY
    ) -> None:
        row = Row(number, arrival, Fate.SHED, self.now_s, preferred_tier=preferred, why=why)
        self._scene.ledger.rows.append(row._replace(residency=entry.residency))

    def ended(self, errand: Errand, fate: Fate, failed: str) -> None:
        scene = self._scene
        errand.entry.leave()
        errand.endpoint.cancel(errand)
        scene.site.give_back(errand.endpoint, self.now_s)
        is_spilled = errand.endpoint.place.tier != errand.preferred_tier
        why = failed if fate is Fate.FAILED else "full" if is_spilled else None
        scene.ledger.rows.append(
            Row(
                errand.number,
                errand.arrival,
                fate,
                self.now_s,
                errand.ttft_s,
                errand.endpoint,
                errand.preferred_tier,
                why,
                1,
                left_room=errand.left_room,
                residency=errand.entry.residency,
            )
        )
