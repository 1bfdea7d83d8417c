"""The numbers as Prometheus wants them, made when somebody scrapes. Gauges are read at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.core.breaker import Circuit
from gateway.core.fleet import FleetView
from gateway.ports import Clock, ConfigStatus, DiscoveryStatus, StoreHealth
from gateway.telemetry import catalogue
from gateway.telemetry.config_gauges import config_families
from gateway.telemetry.discovery_families import discovery_families
from gateway.telemetry.families import counter, gauge, histogram, rendered
from gateway.telemetry.health_gauges import health_gauges
from gateway.telemetry.metrics import Metrics

_STATES = {Circuit.CLOSED: 0, Circuit.HALF_OPEN: 1, Circuit.OPEN: 2}


def _zero() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class GaugeSources:
    """Where the numbers come from that are states, not counts of requests."""

    view: FleetView
    clock: Clock
    leases_held: Callable[[str], int]
    store_health: Callable[[], StoreHealth] = StoreHealth
    downstream_connections: Callable[[], int] = _zero
    tunnels: Callable[[], int] = _zero
    refused_connections: Callable[[], Mapping[str, int]] = dict
    paused_reading: Callable[[], Mapping[str, int]] = dict
    closed_connections: Callable[[], Mapping[str, int]] = dict
    is_over_memory: Callable[[], bool] = bool
    buffered_bytes: Callable[[], int] = _zero
    access_log_dropped: Callable[[], int] = _zero
    key_in_flight: Callable[[], Mapping[str, int]] = dict
    waiting: Callable[[], int] = _zero
    spans_dropped: Callable[[], int] = _zero
    config_status: Callable[[], ConfigStatus] = ConfigStatus
    discovery: Callable[[], Iterable[DiscoveryStatus]] = tuple


class Exposition(Collector):
    """Renders everything on a registry of its own: nothing global, so two gateways fit in one process."""

    def __init__(self, metrics: Metrics, sources: GaugeSources) -> None:
        self._metrics = metrics
        self._sources = sources
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, as_openmetrics: bool = False) -> tuple[Iterator[bytes], str]:
        """The body of /metrics in parts, and its content type."""
        return rendered(self._registry.collect(), as_openmetrics)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._histograms()
        yield from self._backend_gauges()
        health = self._sources.store_health()
        yield gauge(catalogue.STORE_DEGRADED, {(): int(health.is_degraded)})
        yield gauge(catalogue.STORE_GATEWAYS, {(): health.gateways})
        for spec, values in health_gauges(self._sources.view, self._sources.clock()):
            yield gauge(spec, values)
        yield gauge(catalogue.TUNNELS, {(): self._sources.tunnels()})
        in_flight: dict[tuple[str, ...], int] = {(n,): c for n, c in self._sources.key_in_flight().items()}
        yield gauge(catalogue.KEY_IN_FLIGHT, in_flight)
        yield gauge(catalogue.DOWNSTREAM_CONNECTIONS, {(): self._sources.downstream_connections()})
        yield gauge(catalogue.WAITING, {(): self._sources.waiting()})
        yield gauge(catalogue.OVER_MEMORY, {(): int(self._sources.is_over_memory())})
        yield gauge(catalogue.BUFFERED_BYTES, {(): self._sources.buffered_bytes()})
        yield from config_families(self._sources.config_status())
        yield from discovery_families(self._sources.discovery())

    def _counters(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = {labels: series.count for labels, series in metrics.requests.items()}
        yield counter(catalogue.REQUESTS, requests)
        yield counter(catalogue.SPILLS, metrics.spills)
        yield counter(catalogue.SHEDS, metrics.sheds)
        yield counter(catalogue.REFUSED, metrics.refused)
        yield counter(catalogue.RETRIES, metrics.retries)
        yield counter(catalogue.RETRIES_DENIED, metrics.retries_denied)
        yield counter(catalogue.HEDGES, metrics.hedges)
        yield counter(catalogue.KEY_REQUESTS, metrics.keys)
        yield counter(catalogue.BREAKER_OPENED, metrics.openings)
        for spec, counts in (
            (catalogue.REFUSED_CONNECTIONS, self._sources.refused_connections()),
            (catalogue.CLOSED_CONNECTIONS, self._sources.closed_connections()),
            (catalogue.PAUSED_READING, self._sources.paused_reading()),
        ):
            yield counter(spec, {(reason,): count for reason, count in counts.items()})
        yield counter(catalogue.ACCESS_LOG_DROPPED, {(): self._sources.access_log_dropped()})
        yield counter(catalogue.SPANS_DROPPED, {(): self._sources.spans_dropped()})
        yield counter(catalogue.TELEMETRY_FAILURES, {(): metrics.failures})

    def _histograms(self) -> Iterator[Metric]:
        timings = self._metrics.timings
        yield histogram(catalogue.TTFT, {labels: t.ttft for labels, t in timings.items()})
        yield histogram(catalogue.DURATION, {labels: t.duration for labels, t in timings.items()})
        tunnels = self._metrics.tunnel_timings
        yield histogram(catalogue.TUNNEL_SECONDS, {labels: t.duration for labels, t in tunnels.items()})
        yield histogram(catalogue.STORE_EXCHANGE, self._metrics.exchanges)
        yield histogram(catalogue.OVERHEAD, {labels: t.overhead for labels, t in timings.items()})
        yield histogram(catalogue.HOLD, self._metrics.holds)

    def _backend_gauges(self) -> Iterator[Metric]:
        states = {
            (cluster.name, backend.id): backend
            for cluster in self._sources.view.clusters.values()
            for backend in cluster.backends
        }
        yield gauge(catalogue.BREAKER_STATE, {labels: _STATES[s.circuit] for labels, s in states.items()})
        held = self._sources.leases_held
        yield gauge(catalogue.IN_FLIGHT, {labels: s.in_flight for labels, s in states.items()})
        yield gauge(catalogue.LIMIT, {labels: s.limit for labels, s in states.items()})
        yield gauge(catalogue.HEADROOM, {labels: s.headroom for labels, s in states.items()})
        yield gauge(catalogue.LEASES_HELD, {labels: held(s.id) for labels, s in states.items()})
