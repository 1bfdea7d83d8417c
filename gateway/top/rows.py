"""The rows of the picture, from the latest samples of all gateways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from gateway.admin.fleet_merge import merge_pages
from gateway.top.rates import Rates, added
from gateway.top.samples import BackendPage, ClusterPage, FleetPage, Sample, Store

OK, DOWN, DRAINED, DRAINING = "ok", "down", "drained", "draining"
EJECTED, HALF_OPEN, UNHEALTHY = "ejected", "half-open", "unhealthy"


class GatewayNow(NamedTuple):
    """One gateway as it was seen last. `problem` says why it does not answer, `since_s` for how long."""

    url: str
    sample: Sample | None
    rates: Rates
    problem: str = ""
    since_s: float = 0.0


class GatewayRow(NamedTuple):
    """`problem` says why it does not answer, empty while it does."""

    url: str
    state: str
    problem: str
    in_flight: int
    finished_per_s: float
    store: str
    generation: int | None


class Row(NamedTuple):
    """A tier, a cluster or a backend: `depth` 0, 1 or 2. What is known of clusters only is None elsewhere.

    `room` is what new work may take: a backend that gets none has no room, whatever is free.
    """

    depth: int
    name: str
    tier_index: int
    state: str
    in_flight: int
    limit: int
    room: int
    finished_per_s: float | None = None
    failed_per_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    note: str = ""


class FleetRows(NamedTuple):
    """One fleet, told by the gateways `urls`."""

    urls: tuple[str, ...]
    rows: tuple[Row, ...]
    spills_per_s: Mapping[tuple[str, str, str], float]
    sheds_per_s: Mapping[str, float]


class Picture(NamedTuple):
    gateways: tuple[GatewayRow, ...]
    fleets: tuple[FleetRows, ...]


def picture_of(gateways: Sequence[GatewayNow]) -> Picture:
    """Gateways that name the same tiers, clusters and backends are shown as one fleet."""
    by_names: dict[object, list[GatewayNow]] = {}
    for gateway in gateways:
        if gateway.sample is not None and not gateway.problem:
            by_names.setdefault(gateway.sample.fleet.names, []).append(gateway)
    return Picture(
        tuple(_gateway(gateway) for gateway in gateways),
        tuple(_fleet(members) for members in by_names.values()),
    )


def _gateway(now: GatewayNow) -> GatewayRow:
    sample = now.sample
    if now.problem or sample is None:
        state = f"away {_duration(now.since_s)}" if now.problem else "asking"
        return GatewayRow(now.url, state, now.problem, 0, 0.0, "", None)
    in_flight = sum(tier.in_flight for tier in sample.fleet.tiers)
    per_s = sum(now.rates.finished.values())
    return GatewayRow(now.url, OK, "", in_flight, per_s, _store_words(sample.store), sample.generation)


def _store_words(store: Store) -> str:
    if store.is_degraded is None:
        return "-"
    if store.is_degraded:
        return "degraded"
    return f"shared by {store.gateways}" if (store.gateways or 1) > 1 else "ok"


def _fleet(members: Sequence[GatewayNow]) -> FleetRows:
    rates = added([member.rates for member in members])
    pages = [member.sample.page for member in members if member.sample is not None]
    # A backend's limit is its own, whoever asks: two gateways that do not share it show 12/8, which is so.
    fleet = msgspec.convert(merge_pages(pages), FleetPage)
    rows: list[Row] = []
    for index, tier in enumerate(fleet.tiers):
        below = [[_backend(backend, index) for backend in cluster.backends] for cluster in tier.clusters]
        clusters = [_cluster(page, under, rates) for page, under in zip(tier.clusters, below, strict=True)]
        rows.append(_tier(tier.name, index, clusters))
        for cluster, under in zip(clusters, below, strict=True):
            rows += [cluster, *under]
    return FleetRows(tuple(member.url for member in members), tuple(rows), rates.spills, rates.sheds)


def _tier(name: str, index: int, clusters: Sequence[Row]) -> Row:
    """The sums of its clusters; a quantile has no sum."""
    return Row(
        0,
        name,
        index,
        worst_of([cluster.state for cluster in clusters]),
        sum(cluster.in_flight for cluster in clusters),
        sum(cluster.limit for cluster in clusters),
        sum(cluster.room for cluster in clusters),
        sum(cluster.finished_per_s or 0.0 for cluster in clusters),
        sum(cluster.failed_per_s or 0.0 for cluster in clusters),
    )


def worst_of(states: Sequence[str]) -> str:
    """One of the states if all are alike, else how many are ok."""
    if len(set(states)) <= 1:
        return states[0] if states else "empty"
    return f"{sum(state == OK for state in states)} of {len(states)} ok"


def _cluster(page: ClusterPage, backends: Sequence[Row], rates: Rates) -> Row:
    name = page.name
    return Row(
        1,
        name,
        backends[0].tier_index if backends else 0,
        _cluster_state(page, backends),
        page.in_flight,
        page.limit,
        0 if page.drained else sum(backend.room for backend in backends),
        rates.finished.get(name, 0.0),
        rates.failed.get(name, 0.0),
        rates.ttft_s(name, 0.5),
        rates.ttft_s(name, 0.95),
    )


def _cluster_state(page: ClusterPage, backends: Sequence[Row]) -> str:
    if page.drained:
        return DRAINING if page.in_flight else DRAINED
    return DOWN if page.down else worst_of([backend.state for backend in backends])


def _backend(page: BackendPage, index: int) -> Row:
    state = _state(page)
    name = page.id.partition("@")[2] or page.id
    room = page.headroom if state == OK else 0
    return Row(2, name, index, state, page.in_flight, page.limit, room, note=_note(page, state))


def _state(page: BackendPage) -> str:
    health = page.health
    if page.drained or (health is not None and health.advice is not None and health.advice.drained):
        return DRAINING if page.in_flight else DRAINED
    if health is not None and not health.open:
        return UNHEALTHY
    return {"closed": OK, "half_open": HALF_OPEN, "open": EJECTED}.get(page.circuit.state, page.circuit.state)


def _note(page: BackendPage, state: str) -> str:
    """Why it is not ok."""
    if state in (DRAINED, DRAINING):
        if not page.drained:
            return "by its own word"
        return "until undrained" if page.drained_for_s is None else f"{_duration(page.drained_for_s)} left"
    if page.circuit.state != "closed":
        since = "" if page.circuit.for_s is None else f" for {_duration(page.circuit.for_s)}"
        return f"{page.circuit.reason or 'unknown'}{since}"
    return ""


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.0f} h"


def fitted(rows: Sequence[Row], max_rows: int) -> tuple[Row, ...]:
    """As many rows as there is room for: backends that are well leave first, then all backends."""
    if len(rows) <= max_rows:
        return tuple(rows)
    ill = [row for row in rows if row.depth < 2 or row.state != OK]
    return tuple(ill if len(ill) <= max_rows else [row for row in rows if row.depth < 2])
