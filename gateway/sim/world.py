"""One run: a site made of a configuration and a scenario, a gateway or a baseline in it, and a trace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.config.fleet import clusters_of
from gateway.config.schema import Config
from gateway.core.model import Cluster
from gateway.sim.arrivals import Arrival
from gateway.sim.baselines import BaselineGateway, Policy
from gateway.sim.endpoints import Endpoint, MakeEngine, Place, Site
from gateway.sim.engine import PRESETS
from gateway.sim.engines import Engine, ServiceTimes, SteppedEngine, Tell, TimedEngine
from gateway.sim.faults import schedule_faults
from gateway.sim.gateway import Scene, SimGateway
from gateway.sim.ledger import Ledger
from gateway.sim.scenario import EngineConfig, Scenario
from gateway.sim.timeline import Timeline

BUCKETS = 240
# Progress is told after so many arrivals.
TELL_EVERY = 256

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run is made of."""

    config: Config
    scenario: Scenario
    arrivals: Sequence[Arrival]
    seed: int = 0


class Carrier(Protocol):
    """What carries requests: the gateway, or a baseline."""

    def begin(self) -> None: ...

    def arrive(self, number: int, arrival: Arrival) -> None: ...

    def finish(self) -> None: ...


def run_gateway(setting: Setting, tell: Progress | None = None) -> Ledger:
    """What Spillway does with the trace. Raises NoLua, where gateways share a store."""
    store = setting.scenario.shared_store
    if store is None:
        scene = _scene_of(setting)
        return _run(setting, scene, SimGateway(setting.config, scene), tell)
    # Only here: one gateway by itself needs no embedded Lua.
    from gateway.sim.gateway_fleet import WARM_UP_S, GatewayFleet

    scene = _scene_of(setting, begin_s=-WARM_UP_S)
    fleet = GatewayFleet(setting.config, scene, setting.scenario, store)
    with fleet.loop.running(), _outages_unheard():
        return _run(setting, scene, fleet, tell)


@contextmanager
def _outages_unheard() -> Iterator[None]:
    """Outages are in the report: the warnings about them are for live gateways."""
    log = logging.getLogger("gateway.state")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def run_baseline(setting: Setting, policy: Policy, tell: Progress | None = None) -> Ledger:
    """What another policy does with it."""
    scene = _scene_of(setting)
    return _run(setting, scene, BaselineGateway(policy, scene), tell)


def _run(setting: Setting, scene: Scene, carrier: Carrier, tell: Progress | None) -> Ledger:
    timeline, arrivals = scene.timeline, setting.arrivals

    def next_arrival(number: int) -> None:
        if number + 1 < len(arrivals):
            timeline.at(arrivals[number + 1].at_s, next_arrival, number + 1)
        else:
            carrier.finish()
        if tell is not None and number % TELL_EVERY == 0:
            tell(number)
        carrier.arrive(number, arrivals[number])

    schedule_faults(setting.scenario, scene.site, timeline)
    carrier.begin()
    timeline.at(arrivals[0].at_s, next_arrival, 0)
    timeline.run()
    ended_s = max(row.ended_s for row in scene.ledger.rows)
    scene.ledger.ended_s = max(ended_s, arrivals[-1].at_s)
    scene.site.occupancy.close(scene.ledger.ended_s)
    scene.ledger.degraded.advance(scene.ledger.ended_s)
    scene.ledger.rows.sort(key=lambda row: row.number)
    return scene.ledger


def _scene_of(setting: Setting, begin_s: float = 0.0) -> Scene:
    timeline = Timeline(begin_s)
    clusters = clusters_of(setting.config)
    endpoints = {
        endpoint.id: endpoint
        for cluster in clusters
        for endpoint in _endpoints(cluster, setting.scenario, timeline, setting.seed)
    }
    site = Site(clusters, setting.config.tiers, endpoints, bucket_s_of(setting.arrivals))
    return Scene(timeline, site, Ledger(site), setting.seed)


def bucket_s_of(arrivals: Sequence[Arrival]) -> float:
    """A width of time buckets that gives about BUCKETS of them: 1, 2 or 5 times a power of ten."""
    least_s = max(arrivals[-1].at_s, 1.0) / BUCKETS
    power = 1.0
    while power > least_s:
        power /= 10
    while power * 10 <= least_s:
        power *= 10
    return next(power * step for step in (1, 2, 5, 10) if power * step >= least_s)


def _endpoints(cluster: Cluster, scenario: Scenario, timeline: Timeline, seed: int) -> Sequence[Endpoint]:
    here = scenario.cluster(cluster.name)
    assert here.engine is not None
    place = Place(cluster.name, cluster.tier, here.rtt_s)
    make_engine = _maker_of(here.engine, timeline, seed)
    return [Endpoint(backend, place, timeline, make_engine) for backend in cluster.backends]


def _maker_of(engine: EngineConfig, timeline: Timeline, seed: int) -> MakeEngine:
    if engine.preset == "timed":
        times = ServiceTimes(*engine.times_s, engine.sigma, seed)

        def timed(on_first: Tell, on_last: Tell) -> Engine:
            return TimedEngine(timeline, times, on_first, on_last)

        return timed
    preset = PRESETS[engine.preset]
    preset = replace(
        preset,
        max_num_seqs=engine.max_num_seqs or preset.max_num_seqs,
        kv_cache_tokens=engine.kv_cache_tokens or preset.kv_cache_tokens,
    )

    def stepped(on_first: Tell, on_last: Tell) -> Engine:
        return SteppedEngine(timeline, preset, on_first, on_last)

    return stepped
