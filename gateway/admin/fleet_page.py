"""The fleet as JSON: tiers in order, their clusters, their backends."""

from __future__ import annotations

from gateway.admin.fleet_health import health_of
from gateway.core.breaker import Breaker, Circuit
from gateway.core.fleet import FOREVER_S, BackendState, ClusterState, FleetView

Json = dict[str, object]


def fleet_page(view: FleetView, now_s: float) -> Json:
    """Everything /api/v1/fleet says. `share` is the part of all that is in flight; 0 in an idle fleet."""
    clusters = list(view.clusters.values())
    total = sum(cluster.in_flight for cluster in clusters)
    tiers = [
        _tier(tier, [c for c in clusters if c.cluster.tier == tier], total, now_s) for tier in view.tiers
    ]
    return {"tiers": tiers, **_occupancy([b for c in clusters for b in c.backends], total)}


def drain_mark(state: ClusterState | BackendState, now_s: float) -> Json:
    """`drained_for_s` is null for a drain without an end."""
    until_s = state.drained_until_s
    is_drained = until_s is not None and until_s > now_s
    has_end = is_drained and until_s != FOREVER_S
    return {
        "drained": is_drained,
        "drained_for_s": round(until_s - now_s, 3) if has_end and until_s is not None else None,
    }


def _tier(name: str, clusters: list[ClusterState], total: int, now_s: float) -> Json:
    backends = [backend for cluster in clusters for backend in cluster.backends]
    return {
        "name": name,
        **_occupancy(backends, total),
        "clusters": [_cluster(cluster, total, now_s) for cluster in clusters],
    }


def _cluster(state: ClusterState, total: int, now_s: float) -> Json:
    return {
        "name": state.name,
        "weight": state.weight,
        **_occupancy(list(state.backends), total),
        **drain_mark(state, now_s),
        "down": state.is_down,
        "capacity": {**state.capacity._asdict(), "share": round(state.capacity.share, 4)},
        "backends": [_backend(backend, total, now_s) for backend in state.backends],
    }


def _backend(state: BackendState, total: int, now_s: float) -> Json:
    return {
        "id": state.id,
        "weight": state.backend.weight,
        **_occupancy([state], total),
        **drain_mark(state, now_s),
        "latency_ewma_ms": round(state.latency.value_s(now_s) * 1000, 3),
        "circuit": _circuit(state.breaker, now_s),
        "health": health_of(state, now_s),
    }


def _circuit(breaker: Breaker, now_s: float) -> Json:
    """`trigger` and `reason` say why it opened, null while closed; `for_s` is null if it never was other."""
    opening = breaker.opening if breaker.circuit is not Circuit.CLOSED else None
    since_s = breaker.since_s
    return {
        "state": breaker.circuit,
        "trigger": opening and opening.trigger,
        "reason": opening and opening.reason,
        "for_s": None if since_s is None else round(now_s - since_s, 3),
    }


def _occupancy(backends: list[BackendState], total: int) -> Json:
    in_flight = sum(backend.in_flight for backend in backends)
    return {
        "in_flight": in_flight,
        "limit": sum(backend.limit for backend in backends),
        "headroom": sum(backend.headroom for backend in backends),
        "share": round(in_flight / total, 4) if total else 0.0,
    }
