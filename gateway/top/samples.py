"""One look at a gateway: its /api/v1/fleet and its /metrics, read into types. Both are taken for foreign."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

FLEET_PATH, METRICS_PATH = "/api/v1/fleet", "/metrics"

_SAMPLE = re.compile(
    r"^spillway_(?P<name>requests_total|spills_total|sheds_total|ttft_seconds_bucket|store_degraded"
    r"|store_gateways|config_generation)(?:\{(?P<labels>.*)\})? (?P<value>[0-9.eE+-]+)$",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class NotSpillway(Exception):
    """What answers there does not answer as a Spillway admin port does."""


class Advice(msgspec.Struct):
    drained: bool


class Health(msgspec.Struct):
    open: bool
    advice: Advice | None = None


class Circuit(msgspec.Struct):
    state: Literal["closed", "half_open", "open"]
    reason: str | None
    for_s: float | None


class BackendPage(msgspec.Struct):
    id: str
    in_flight: int
    limit: int
    headroom: int
    drained: bool
    circuit: Circuit
    drained_for_s: float | None
    latency_ewma_ms: float
    health: Health | None


class ClusterPage(msgspec.Struct):
    name: str
    in_flight: int
    limit: int
    headroom: int
    drained: bool
    drained_for_s: float | None
    down: bool
    backends: list[BackendPage]


class TierPage(msgspec.Struct):
    name: str
    in_flight: int
    limit: int
    headroom: int
    clusters: list[ClusterPage]

    @property
    def is_drained(self) -> bool:
        return all(cluster.drained for cluster in self.clusters)


class FleetPage(msgspec.Struct):
    """What is used of a fleet page, here and in admin/fleet_merge.py; it may say more."""

    in_flight: int
    tiers: list[TierPage]

    @property
    def names(self) -> tuple[tuple[str, str, str], ...]:
        """Tier, cluster and backend of each backend, in order: equal where two pages tell of the same."""
        return tuple(
            (tier.name, cluster.name, backend.id)
            for tier in self.tiers
            for cluster in tier.clusters
            for backend in cluster.backends
        )


class Counts(NamedTuple):
    """What a gateway has counted so far. `spills` by (from, to, reason), `ttfts` by (cluster, upper bound).

    The counts of `ttfts` are cumulative, as in the exposition. `finished` and `failed` have the cluster ""
    for requests that no backend was tried for.
    """

    finished: Counter[str]
    failed: Counter[str]
    served: Counter[str]  # by tier
    spills: Counter[tuple[str, str, str]]
    sheds: Counter[str]
    ttfts: Counter[tuple[str, float]]


class Store(NamedTuple):
    """Of the store that a gateway shares. None: it does not say."""

    is_degraded: bool | None = None
    gateways: int | None = None


class Sample(NamedTuple):
    """One look. `page` is the fleet page as it came, `at_s` monotonic seconds."""

    at_s: float
    page: dict[str, Any]
    fleet: FleetPage
    counts: Counts
    store: Store = Store()
    generation: int | None = None  # of the configuration


def read_sample(fleet: bytes, metrics: bytes, at_s: float) -> Sample:
    """Raises NotSpillway."""
    try:
        page = msgspec.json.decode(fleet)
        typed = msgspec.convert(page, FleetPage)
        counts = Counts(Counter(), Counter(), Counter(), Counter(), Counter(), Counter())
        told = _read_metrics(metrics.decode(), counts)
    except (msgspec.DecodeError, ValueError, KeyError) as exc:
        raise NotSpillway("what answers there is not a Spillway admin port") from exc
    degraded = told.get("store_degraded")
    store = Store(None if degraded is None else degraded > 0, _whole(told.get("store_gateways")))
    return Sample(at_s, page, typed, counts, store, _whole(told.get("config_generation")))


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _read_metrics(text: str, counts: Counts) -> dict[str, float]:
    """Adds up what is counted, and tells the rest by name."""
    told: dict[str, float] = {}
    for name, labels, value in _samples(text):
        if name == "requests_total":
            counts.finished[labels["cluster"]] += value
            if labels["outcome"] == "dropped":
                counts.failed[labels["cluster"]] += value
            elif labels["outcome"] == "success":
                counts.served[labels["tier"]] += value
        elif name == "spills_total":
            counts.spills[labels["from"], labels["to"], labels["reason"]] += value
        elif name == "sheds_total":
            counts.sheds[labels["reason"]] += value
        elif name == "ttft_seconds_bucket":
            counts.ttfts[labels["cluster"], float(labels["le"])] += value
        else:
            told[name] = value
    return told


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], int]]:
    for found in _SAMPLE.finditer(text):
        labels = {name: _plain(value) for name, value in _LABEL.findall(found["labels"] or "")}
        yield found["name"], labels, int(float(found["value"]))


def _plain(value: str) -> str:
    return value if "\\" not in value else re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)
