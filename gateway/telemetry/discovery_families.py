"""Discovery's numbers: the same from a gateway and from the parent of several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric

from gateway.ports import DiscoveryStatus
from gateway.telemetry import catalogue
from gateway.telemetry.families import counter, gauge


def discovery_families(statuses: Iterable[DiscoveryStatus]) -> Iterator[Metric]:
    known = list(statuses)
    ages: dict[tuple[str, ...], float] = {(s.cluster,): s.age_s for s in known if s.age_s is not None}
    yield gauge(catalogue.DISCOVERY_AGE, ages)
    yield gauge(catalogue.DISCOVERY_FAILING, {(s.cluster,): int(bool(s.failure)) for s in known})
    yield counter(catalogue.DISCOVERY_ERRORS, {(s.cluster,): s.errors for s in known})
