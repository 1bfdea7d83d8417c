"""The configuration's numbers: the same from a gateway and from the parent of several."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from gateway.ports import ConfigStatus, ReloadOutcome
from gateway.telemetry import catalogue
from gateway.telemetry.families import counter, gauge


def config_families(status: ConfigStatus) -> Iterator[Metric]:
    counts: dict[tuple[str, ...], int] = {
        (outcome.value,): status.counts.get(outcome, 0) for outcome in ReloadOutcome
    }
    yield gauge(catalogue.CONFIG_GENERATION, {(): status.generation})
    yield gauge(catalogue.CONFIG_IS_NEWEST, {(): int(status.is_newest)})
    yield counter(catalogue.CONFIG_RELOADS, counts)
