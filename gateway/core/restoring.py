"""A picture of a fleet from what somebody told of it: for questions, never for traffic.

What there are events for is told as events, as if it had happened here; so the same code works out who may
serve. What only time could bring about (a limit in slow start, a cluster that is held down) is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.core.breaker import BreakerSettings, Circuit, Trigger
from gateway.core.events import (
    FOREVER_S,
    AttemptStarted,
    Drained,
    FleetConfigured,
    LatencyHeard,
    OpeningShared,
    Ticked,
)
from gateway.core.fleet import Fleet
from gateway.core.health import Advice, ProbeReported
from gateway.core.latency import LatencySummary
from gateway.core.model import HealthRules
from gateway.core.taxonomy import Reason
from gateway.core.view import BackendState

# Long enough that nothing told of is over while the question is answered.
_OPEN_S = 60.0


class BackendTold(NamedTuple):
    """What is told of one backend. `limit` None: as configured. A half-open circuit waits for its probe."""

    in_flight: int = 0
    limit: int | None = None
    is_drained: bool = False
    drains_itself: bool = False
    fails_probes: str = ""  # why, empty: it passes
    circuit: Circuit = Circuit.CLOSED
    trigger: Trigger = Trigger.TOLD
    reason: Reason = Reason.RESET
    latency_s: float | None = None


class ClusterTold(NamedTuple):
    is_drained: bool = False
    is_down: bool = False


def restored(
    configured: FleetConfigured,
    clusters: Mapping[str, ClusterTold],
    backends: Mapping[str, BackendTold],
    now_s: float,
) -> Fleet:
    """A fleet in which all of that is so at `now_s`. Names that are not configured are left out."""
    fleet = Fleet()
    fleet.apply(configured, now_s)
    for name, told in clusters.items():
        if told.is_drained and name in fleet.view.clusters:
            fleet.apply(Drained(name, FOREVER_S), now_s)
    for state in tuple(fleet.view.backends.values()):
        if (known := backends.get(state.id)) is not None:
            _tell(fleet, state, known, now_s)
    # Half-open is what time makes of open: the circuits that shall be are told to be over by now.
    fleet.apply(Ticked(), now_s)
    for name, told in clusters.items():
        if told.is_down and (cluster := fleet.view.clusters.get(name)) is not None and not cluster.is_down:
            cluster.down_since_s = cluster.returned_at_s = now_s
    for state in fleet.view.backends.values():
        _show(state, backends.get(state.id), configured.breaker, now_s)
    for cluster in fleet.view.clusters.values():
        cluster.refresh(configured.breaker, now_s)
    fleet.view.forget_serving()
    return fleet


def _tell(fleet: Fleet, state: BackendState, told: BackendTold, now_s: float) -> None:
    for _ in range(told.in_flight):
        fleet.apply(AttemptStarted(state.id), now_s)
    if told.latency_s is not None:
        fleet.apply(LatencyHeard(state.id, LatencySummary(told.latency_s, 1)), now_s)
    if told.is_drained:
        fleet.apply(Drained(state.id, FOREVER_S), now_s)
    if told.fails_probes or told.drains_itself:
        # Believed at once, and also of a backend that this configuration does not probe.
        state.health.follow(HealthRules(rise=1, fall=1))
        advice = Advice(is_drained=told.drains_itself)
        fleet.apply(ProbeReported(state.id, True, "", advice), now_s)
    if told.fails_probes:
        fleet.apply(ProbeReported(state.id, False, told.fails_probes), now_s)
    if told.circuit is not Circuit.CLOSED:
        open_s = _OPEN_S if told.circuit is Circuit.OPEN else 0.0
        fleet.apply(OpeningShared("told", state.id, told.reason, open_s, 1), now_s)


def _show(state: BackendState, told: BackendTold | None, settings: BreakerSettings, now_s: float) -> None:
    """What decides nothing, or only time brings about."""
    if told is None:
        return
    breaker = state.breaker
    if breaker.circuit is not Circuit.CLOSED and breaker.opening is not None:
        breaker.opening = breaker.opening._replace(trigger=told.trigger)
        breaker.takes_real_from_s = now_s
    state.settle(settings, now_s)
    if told.limit is not None:
        state.limit = told.limit
