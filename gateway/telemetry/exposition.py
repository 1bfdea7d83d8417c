"""The numbers as Prometheus wants them, made when somebody scrapes. Gauges are read at that moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.core.fleet import FleetView
from gateway.ports import Clock, StoreHealth
from gateway.telemetry import catalogue
from gateway.telemetry.catalogue import MetricSpec
from gateway.telemetry.health_gauges import health_gauges
from gateway.telemetry.metrics import Histogram, Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SAMPLES_PER_PART = 50


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
    buffered_bytes: Callable[[], int] = _zero
    access_log_dropped: Callable[[], int] = _zero


class Exposition(Collector):
    """Renders everything on a registry of its own: nothing global, so two gateways fit in one process."""

    def __init__(self, metrics: Metrics, sources: GaugeSources) -> None:
        self._metrics = metrics
        self._sources = sources
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, as_openmetrics: bool = False) -> tuple[Iterator[bytes], str]:
        """The body of /metrics in parts, and its content type. A part takes about half a millisecond.

        A large fleet is thousands of lines at 9 us each: whoever shares a thread with the data plane
        lets it work between two parts.
        """
        encode, content_type = choose_encoder(OPENMETRICS if as_openmetrics else "")
        return self._parts(encode, b"# EOF\n" if as_openmetrics else b""), content_type

    def _parts(self, encode: Callable[[Collector], bytes], end: bytes) -> Iterator[bytes]:
        for family in self._registry.collect():
            for start in range(0, max(len(family.samples), 1), SAMPLES_PER_PART):
                text = encode(_Slice(family, start)).removesuffix(end)
                # HELP and TYPE stand before the first sample of a family only.
                yield text if start == 0 else text.split(b"\n", 2)[2]
        yield end

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._histograms()
        yield from self._backend_gauges()
        health = self._sources.store_health()
        yield _gauge(catalogue.STORE_DEGRADED, {(): int(health.is_degraded)})
        yield _gauge(catalogue.STORE_GATEWAYS, {(): health.gateways})
        for spec, values in health_gauges(self._sources.view, self._sources.clock()):
            yield _gauge(spec, values)
        yield _gauge(catalogue.DOWNSTREAM_CONNECTIONS, {(): self._sources.downstream_connections()})
        yield _gauge(catalogue.BUFFERED_BYTES, {(): self._sources.buffered_bytes()})

    def _counters(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = {labels: series.count for labels, series in metrics.requests.items()}
        yield _counter(catalogue.REQUESTS, requests)
        yield _counter(catalogue.SPILLS, metrics.spills)
        yield _counter(catalogue.SHEDS, metrics.sheds)
        yield _counter(catalogue.RETRIES, metrics.retries)
        yield _counter(catalogue.ACCESS_LOG_DROPPED, {(): self._sources.access_log_dropped()})
        yield _counter(catalogue.TELEMETRY_FAILURES, {(): metrics.failures})

    def _histograms(self) -> Iterator[Metric]:
        timings = self._metrics.timings
        yield _histogram(catalogue.TTFT, {labels: t.ttft for labels, t in timings.items()})
        yield _histogram(catalogue.DURATION, {labels: t.duration for labels, t in timings.items()})
        yield _histogram(catalogue.STORE_EXCHANGE, self._metrics.exchanges)
        yield _histogram(catalogue.OVERHEAD, {labels: t.overhead for labels, t in timings.items()})

    def _backend_gauges(self) -> Iterator[Metric]:
        states = {
            (cluster.name, backend.id): backend
            for cluster in self._sources.view.clusters.values()
            for backend in cluster.backends
        }
        held = self._sources.leases_held
        yield _gauge(catalogue.IN_FLIGHT, {labels: s.in_flight for labels, s in states.items()})
        yield _gauge(catalogue.LIMIT, {labels: s.limit for labels, s in states.items()})
        yield _gauge(catalogue.HEADROOM, {labels: s.headroom for labels, s in states.items()})
        yield _gauge(catalogue.LEASES_HELD, {labels: held(s.id) for labels, s in states.items()})


class _Slice(Collector):
    """Some samples of a family, as the encoders want them."""

    def __init__(self, family: Metric, start: int) -> None:
        self._part = Metric(family.name, family.documentation, family.type)
        self._part.samples = family.samples[start : start + SAMPLES_PER_PART]

    def collect(self) -> Iterable[Metric]:
        return (self._part,)


def _counter(spec: MetricSpec, counts: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)
    for labels, count in counts.items():
        family.add_metric(labels, count)
    return family


def _gauge(spec: MetricSpec, values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(spec: MetricSpec, histograms: Mapping[tuple[str, ...], Histogram]) -> Metric:
    family = HistogramMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)
    bounds = [*(repr(bound) for bound in spec.bounds_s), "+Inf"]
    for labels, histogram in histograms.items():
        if any(histogram.counts):
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            family.add_metric(labels, buckets, histogram.sum_s)
    return family
