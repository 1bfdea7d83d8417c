"""The health of one backend for `/api/v1/fleet`: what is known, why, and how old each number is."""

from __future__ import annotations

from typing import Any

from gateway.core.fleet import BackendState
from gateway.core.health import BackendHealth, ProbeWatch

Json = dict[str, Any]


def health_of(state: BackendState, now_s: float) -> Json | None:
    """None where nobody asks after the backend's health."""
    health = state.health
    if health.rules is None:
        return None
    return {
        "open": health.is_open,
        "probe": _watch(health.probe, now_s),
        "synthetic": _watch(health.synthetic, now_s),
        "advice": _advice(health, now_s),
        "engine": _engine(health, now_s),
    }


def _watch(watch: ProbeWatch, now_s: float) -> Json | None:
    """`run` counts the like results at the end; `state_age_s` is null while the state is unknown."""
    if watch.at_s is None:
        return None
    return {
        "state": watch.state.value,
        "passed": watch.passed,
        "reason": watch.reason,
        "run": watch.run,
        "age_s": _age_s(watch.at_s, now_s),
        "state_age_s": None if watch.since_s is None else _age_s(watch.since_s, now_s),
    }


def _advice(health: BackendHealth, now_s: float) -> Json | None:
    if health.advised_at_s is None:
        return None
    return {
        "drained": health.is_drained,
        "weight_share": health.advice.weight_share,
        "max_in_flight": health.advice.max_in_flight,
        "age_s": _age_s(health.advised_at_s, now_s),
    }


def _engine(health: BackendHealth, now_s: float) -> Json | None:
    """`others` are requests that are not ours; 0 when the reading is stale, which then counts for nothing."""
    reading = health.reading
    if reading is None:
        return None
    return {
        "running": reading.running,
        "waiting": reading.waiting,
        "kv_cache_used_share": reading.kv_cache_used_share,
        "others": health.others(now_s),
        "age_s": _age_s(reading.at_s, now_s),
        "stale": health.fresh_reading(now_s) is None,
    }


def _age_s(at_s: float, now_s: float) -> float:
    return round(now_s - at_s, 3)
