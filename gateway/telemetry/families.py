"""Metric families: made from plain numbers, and written as text in either of the formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from gateway.telemetry.catalogue import MetricSpec
from gateway.telemetry.metrics import Histogram

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SAMPLES_PER_PART = 50


def rendered(families: Iterable[Metric], as_openmetrics: bool) -> tuple[Iterator[bytes], str]:
    """The body of /metrics in parts, and its content type. A part takes about half a millisecond.

    A large fleet is thousands of lines at 9 us each: whoever shares a thread with the data plane
    lets it work between two parts.
    """
    encode, content_type = choose_encoder(OPENMETRICS if as_openmetrics else "")
    return _parts(families, encode, b"# EOF\n" if as_openmetrics else b""), content_type


def _parts(families: Iterable[Metric], encode: Callable[[Collector], bytes], end: bytes) -> Iterator[bytes]:
    for family in families:
        for start in range(0, max(len(family.samples), 1), SAMPLES_PER_PART):
            text = encode(_Slice(family, start)).removesuffix(end)
            # HELP and TYPE stand before the first sample of a family only.
            yield text if start == 0 else text.split(b"\n", 2)[2]
    yield end


class _Slice(Collector):
    """Some samples of a family, as the encoders want them."""

    def __init__(self, family: Metric, start: int) -> None:
        self._part = Metric(family.name, family.documentation, family.type)
        self._part.samples = family.samples[start : start + SAMPLES_PER_PART]

    def collect(self) -> Iterable[Metric]:
        return (self._part,)


def counter(spec: MetricSpec, counts: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)
    for labels, count in counts.items():
        family.add_metric(labels, count)
    return family


def gauge(spec: MetricSpec, values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def histogram(spec: MetricSpec, histograms: Mapping[tuple[str, ...], Histogram]) -> Metric:
    """With exemplars, which only the OpenMetrics form can show."""
    family = HistogramMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)
    bounds = [*(repr(bound) for bound in spec.bounds_s), "+Inf"]
    for labels, seen in histograms.items():
        if any(seen.counts):
            buckets: list[Any] = list(zip(bounds, accumulate(seen.counts), strict=True))
            for place, trace in (seen.exemplars or {}).items():
                exemplar = Exemplar({"trace_id": trace.trace_id}, trace.seen_s, trace.at_s)
                buckets[place] = (*buckets[place], exemplar)
            family.add_metric(labels, buckets, seen.sum_s)
    return family
