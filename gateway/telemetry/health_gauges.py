"""What probes and engines have told, as gauges. A number that is too old is not shown."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.fleet import BackendState, FleetView
from gateway.core.health import ProbeWatch
from gateway.telemetry import catalogue
from gateway.telemetry.catalogue import MetricSpec

Values = dict[tuple[str, ...], float]


def health_gauges(view: FleetView, now_s: float) -> Iterator[tuple[MetricSpec, Values]]:
    """Each metric with its values by label."""
    states = [
        ((cluster.name, backend.id), backend)
        for cluster in view.clusters.values()
        for backend in cluster.backends
        if backend.health.rules is not None
    ]
    yield from _probe_gauges(states, now_s)
    shares: Values = {(name,): cluster.capacity.share for name, cluster in view.clusters.items()}
    yield catalogue.READY_SHARE, shares
    yield from _engine_gauges(states, now_s)


def _probe_gauges(
    states: list[tuple[tuple[str, str], BackendState]], now_s: float
) -> Iterator[tuple[MetricSpec, Values]]:
    up: Values = {}
    age: Values = {}
    weight: Values = {}
    for labels, state in states:
        health = state.health
        for name, watch in (("health", health.probe), ("synthetic", health.synthetic)):
            if watch.at_s is not None:
                up[(*labels, name)] = _up(watch)
                age[(*labels, name)] = now_s - watch.at_s
        if health.probe.at_s is not None:
            weight[labels] = 0.0 if health.is_drained else health.advice.weight_share
    yield catalogue.HEALTH_UP, up
    yield catalogue.HEALTH_AGE, age
    yield catalogue.HEALTH_WEIGHT, weight


def _up(watch: ProbeWatch) -> float:
    return 0.0 if watch.is_down else 1.0


def _engine_gauges(
    states: list[tuple[tuple[str, str], BackendState]], now_s: float
) -> Iterator[tuple[MetricSpec, Values]]:
    fresh = {labels: reading for labels, state in states if (reading := state.health.fresh_reading(now_s))}
    yield catalogue.ENGINE_RUNNING, {labels: reading.running for labels, reading in fresh.items()}
    yield catalogue.ENGINE_WAITING, {labels: reading.waiting for labels, reading in fresh.items()}
    shares = ((labels, reading.kv_cache_used_share) for labels, reading in fresh.items())
    yield catalogue.ENGINE_KV_CACHE, {labels: share for labels, share in shares if share is not None}
    read = ((labels, state.health.reading) for labels, state in states)
    yield catalogue.ENGINE_AGE, {labels: now_s - reading.at_s for labels, reading in read if reading}
