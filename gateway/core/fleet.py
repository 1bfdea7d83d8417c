"""Fleet: the one mutable picture of all clusters. Events in, effects out; `.view` is what routing reads.

Invariants (asserted, and tested with hypothesis):
- a backend's in_flight is never negative and counts exactly the attempts started and not finished;
- a drained or removed backend is in no plan, and what runs on it may finish;
- an unhealthy backend is in a plan only in panic;
- a backend whose circuit is not closed is in a plan only as the probe, or in panic;
- a backend that stays through a reconfiguration keeps its in_flight, latency, circuit and drain mark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.core.balancing import CLUSTER_POLICIES
from gateway.core.breaker import Circuit
from gateway.core.circuits import Circuits
from gateway.core.events import (
    FOREVER_S,
    AttemptFinished,
    AttemptStarted,
    BytesSeen,
    CloseIdleConnections,
    ClosingShared,
    Drained,
    Effect,
    Event,
    FirstByteSeen,
    FleetConfigured,
    LatencyHeard,
    OpeningShared,
    ReportCircuit,
    SendSyntheticProbe,
    SetLimits,
    ShareClosing,
    ShareOpening,
    Ticked,
    TunnelOpened,
    Undrained,
)
from gateway.core.health import HEALTH_EVENTS, HealthEvent
from gateway.core.latency import LatencySummary
from gateway.core.model import SUCCESS, Backend
from gateway.core.taxonomy import LESSONS, Reason, Verdict
from gateway.core.view import (
    DEFAULT_RETRY_AFTER_S,
    MAX_REMEMBERED_MODELS,
    MAX_RETRY_AFTER_S,
    MIN_RETRY_AFTER_S,
    BackendState,
    ClusterState,
    FleetView,
)

__all__ = [
    "DEFAULT_RETRY_AFTER_S",
    "FOREVER_S",
    "MAX_REMEMBERED_MODELS",
    "MAX_RETRY_AFTER_S",
    "MIN_RETRY_AFTER_S",
    "AttemptFinished",
    "AttemptStarted",
    "BackendState",
    "BytesSeen",
    "CloseIdleConnections",
    "ClosingShared",
    "ClusterState",
    "Drained",
    "Effect",
    "Event",
    "FirstByteSeen",
    "Fleet",
    "FleetConfigured",
    "FleetView",
    "LatencyHeard",
    "OpeningShared",
    "ReportCircuit",
    "SendSyntheticProbe",
    "SetLimits",
    "ShareClosing",
    "ShareOpening",
    "Ticked",
    "TunnelOpened",
    "Undrained",
    "UnknownName",
]

Effects = tuple[Effect, ...]

_CLOSED = Circuit.CLOSED  # looking up a member of an enum costs as much as a call (CPython 3.11)

# Whole answers of a status of 400 and more: no FirstByteSeen is ever told of those.
_ANSWERED = frozenset((Reason.CLIENT_ERROR, Reason.BACKEND_FULL, Reason.SERVER_ERROR))
# Given up from this side: the backend would have taken longer.
_UNANSWERED = frozenset((Reason.CLIENT_LEFT, Reason.OVERTAKEN))


class UnknownName(LookupError):
    """No cluster or backend of this name."""


class Fleet:
    """The machine behind the picture: `apply(event, now_s)` changes it and says what is to be done."""

    def __init__(self) -> None:
        self.view = FleetView()
        self._circuits = Circuits()
        self._handlers: dict[type, Callable[[Any, float], Effects]] = {
            AttemptStarted: self._on_attempt_started,
            FirstByteSeen: self._on_first_byte_seen,
            TunnelOpened: self._on_tunnel_opened,
            BytesSeen: self._on_bytes_seen,
            AttemptFinished: self._on_attempt_finished,
            FleetConfigured: self._on_configured,
            Drained: self._on_drained,
            Undrained: self._on_undrained,
            Ticked: self._on_ticked,
            LatencyHeard: self._on_latency_heard,
            OpeningShared: self._on_opening_shared,
            ClosingShared: self._on_closing_shared,
            **dict.fromkeys(HEALTH_EVENTS, self._on_health_told),
        }
        # All backends that events may speak of: those of the view, and those that left the configuration
        # while work ran on them, until that work ends.
        self._states: dict[str, BackendState] = {}
        self._told = SetLimits({})

    def apply(self, event: Event, now_s: float) -> Effects:
        """Takes in one event. Raises UnknownName for a drain of nobody; nothing is changed then."""
        return self._handlers[type(event)](event, now_s)

    def take_latencies(self, now_s: float) -> dict[str, LatencySummary]:
        """What was seen of each backend since this was asked last: for other gateways."""
        seen = {id_: state.latency.take_summary(now_s) for id_, state in self.view.backends.items()}
        return {id_: summary for id_, summary in seen.items() if summary is not None}

    # --- attempts ------------------------------------------------------------------------------------

    def _on_attempt_started(self, event: AttemptStarted, now_s: float) -> Effects:
        backend_id, generation, body_bytes = event
        state = self._states.get(backend_id)
        if state is None:
            # Its lease was given just before it left the configuration: it may be back before the end.
            state = self._states[backend_id] = BackendState(Backend(backend_id, "", 1))
        if state.in_flight == 0:
            state.slot_gap.work_began(now_s)
        state.in_flight += 1
        if body_bytes is not None:
            state.silence.asked(body_bytes, now_s)
        if state.breaker.circuit is not _CLOSED and state.breaker.probe_began(generation):
            return self._change(state, (), now_s)  # the permit is taken: no other plan may offer it
        return ()

    def _on_first_byte_seen(self, event: FirstByteSeen, now_s: float) -> Effects:
        state = self._states.get(event.backend_id)
        if state is not None:
            state.latency.observe(event.ttft_s, now_s)
            state.digest.add(event.ttft_s, now_s)
            state.silence.answered(now_s)
            state.breaker.evidence.first_byte_s = now_s
        return ()

    def _on_tunnel_opened(self, event: TunnelOpened, now_s: float) -> Effects:
        backend_id, ttft_s, generation = event
        self._on_first_byte_seen(FirstByteSeen(backend_id, ttft_s), now_s)
        if (state := self.view.backends.get(backend_id)) is None:
            return ()
        verdict = AttemptFinished(backend_id, SUCCESS, ttft_s, None, generation)
        return self._change(state, self._circuits.ended(state, verdict, now_s), now_s)

    def _on_bytes_seen(self, event: BytesSeen, now_s: float) -> Effects:
        for backend_id in event.backend_ids:
            if (state := self._states.get(backend_id)) is not None:
                state.silence.heard(now_s)
        return ()

    def _on_attempt_finished(self, event: AttemptFinished, now_s: float) -> Effects:
        backend_id, outcome, ttft_s, _, generation, _ = event
        state = self._states.get(backend_id)
        if state is None:
            return ()
        assert state.in_flight > 0, f"{state}: finished more often than started"
        state.in_flight -= 1
        state.slot_gap.slot_freed(now_s)
        if outcome is not SUCCESS:
            _note_failure(state, event, now_s)
        elif ttft_s is not None:
            state.latency.observe(ttft_s, now_s)
            state.digest.add(ttft_s, now_s)
            if state.silence.waiting:
                state.silence.answered(now_s)
        if backend_id not in self.view.backends:
            if state.in_flight == 0:
                del self._states[backend_id]
            return ()
        breaker = state.breaker
        if outcome is SUCCESS and breaker.circuit is _CLOSED and breaker.doubt is None:
            # What nearly every attempt comes to, without a walk through the circuit.
            if generation is None or generation == breaker.generation:
                breaker.evidence.succeeded(now_s)
            return ()
        return self._change(state, self._circuits.ended(state, event, now_s), now_s)

    def _change(self, state: BackendState, effects: Effects | None, now_s: float) -> Effects:
        """Follows a change of a circuit (`effects`) or of a limit up to the plans and the store."""
        is_settled = not state.settle(self._circuits.settings, now_s)
        if effects is None:
            return () if is_settled else self._told_limits()
        self._refresh(now_s)
        return (*effects, *self._told_limits())

    def _told_limits(self) -> Effects:
        """The effective limits, if the store does not know them yet."""
        limits = self._limits_now()
        if limits == self._told:
            return ()
        self._told = limits
        return (limits,)

    def _limits_now(self) -> SetLimits:
        states = self.view.backends
        caps = {id_: state.limit for id_, state in states.items() if state.limit < state.fleet_limit}
        return SetLimits({id_: state.fleet_limit for id_, state in states.items()}, caps)

    # --- other gateways ------------------------------------------------------------------------------

    def _on_latency_heard(self, event: LatencyHeard, now_s: float) -> Effects:
        state = self._states.get(event.backend_id)
        if state is not None:
            state.latency.hear(event.summary, now_s)
        return ()

    def _on_opening_shared(self, event: OpeningShared, now_s: float) -> Effects:
        state = self.view.backends.get(event.backend_id)
        if state is None:
            return ()
        return self._change(state, self._circuits.told_open(state, event, now_s), now_s)

    def _on_closing_shared(self, event: ClosingShared, now_s: float) -> Effects:
        state = self.view.backends.get(event.backend_id)
        if state is None:
            return ()
        return self._change(state, self._circuits.told_closed(state, event, now_s), now_s)

    # --- the configuration, drains, time -------------------------------------------------------------

    def _on_configured(self, event: FleetConfigured, now_s: float) -> Effects:
        view = self.view
        old_clusters, old_backends = view.clusters, view.backends
        view.cluster_policy = CLUSTER_POLICIES[event.cluster_policy]
        view.tiers = event.tiers
        self._circuits.settings = event.breaker
        view.clusters, view.backends = {}, {}
        for cluster in event.clusters:
            states = tuple(self._kept_or_new(backend, now_s) for backend in cluster.backends)
            state = ClusterState(cluster, states)
            if (old := old_clusters.get(cluster.name)) is not None:
                state.drained_until_s, state.down_since_s = old.drained_until_s, old.down_since_s
                state.returned_at_s = old.returned_at_s
            view.clusters[cluster.name] = state
            view.backends.update((backend.id, backend) for backend in states)
        leaving = {id_: state for id_, state in self._states.items() if state.in_flight}
        self._states = leaving | view.backends
        self._refresh(now_s)
        removed = tuple(id_ for id_ in old_backends if id_ not in view.backends)
        limits = self._told = self._limits_now()
        return (limits, CloseIdleConnections(removed)) if removed else (limits,)

    def _kept_or_new(self, backend: Backend, now_s: float) -> BackendState:
        settings = self._circuits.settings
        state = self._states.get(backend.id)
        if state is None:
            return BackendState(backend, settings.window_s)
        state.backend = backend
        state.health.follow(backend.health)
        state.breaker.evidence.tally.resize(settings.window_s)
        state.settle(settings, now_s)
        return state

    def _on_health_told(self, event: HealthEvent, now_s: float) -> Effects:
        state = self.view.backends.get(event.backend_id)
        if state is None:
            return ()  # it left the configuration while it was asked
        health = state.health
        before = (health.is_open, health.is_drained)
        health.tell(event, state.in_flight, now_s)
        return self._change(state, None if (health.is_open, health.is_drained) == before else (), now_s)

    def _on_drained(self, event: Drained, now_s: float) -> Effects:
        target = self._named(event.name)
        target.drained_until_s = event.until_s
        self._refresh(now_s)
        members = target.backends if isinstance(target, ClusterState) else (target,)
        return (CloseIdleConnections(tuple(member.id for member in members)),)

    def _on_undrained(self, event: Undrained, now_s: float) -> Effects:
        self._named(event.name).drained_until_s = None
        self._refresh(now_s)
        return ()

    def _on_ticked(self, event: Ticked, now_s: float) -> Effects:
        self._circuits.stir(event.draw)
        has_changed = self._end_drains(now_s)
        effects: list[Effect] = []
        for cluster in self.view.clusters.values():
            has_changed |= cluster.is_down
            for state in cluster.backends:
                circuit_effects = self._circuits.tick(state, now_s)
                if circuit_effects is not None:
                    has_changed = True
                    can_work = cluster.drained_until_s is None and state.drained_until_s is None
                    effects += [e for e in circuit_effects if can_work or type(e) is not SendSyntheticProbe]
                has_changed |= state.settle(self._circuits.settings, now_s)
        if not has_changed:
            return ()
        self._refresh(now_s)
        return (*effects, *self._told_limits())

    def _end_drains(self, now_s: float) -> bool:
        targets: list[ClusterState | BackendState] = [
            *self.view.clusters.values(),
            *self.view.backends.values(),
        ]
        over = [
            state for state in targets if state.drained_until_s is not None and state.drained_until_s <= now_s
        ]
        for state in over:
            state.drained_until_s = None
        return bool(over)

    def _named(self, name: str) -> ClusterState | BackendState:
        state = self.view.clusters.get(name) or self.view.backends.get(name)
        if state is None:
            raise UnknownName(name)
        return state

    def _refresh(self, now_s: float) -> None:
        for cluster in self.view.clusters.values():
            cluster.refresh(self._circuits.settings, now_s)
        self.view.forget_serving()


def _note_failure(state: BackendState, event: AttemptFinished, now_s: float) -> None:
    """What an attempt that was no success says about time; nothing that it says is good."""
    lesson = LESSONS[event.outcome.reason]
    known_s = max(event.ttft_s or 0.0, event.elapsed_s or 0.0)
    if event.ttft_s is not None or event.outcome.reason in _ANSWERED:
        state.silence.answered(now_s)
    elif event.elapsed_s is not None:
        state.silence.gave_up(now_s)
        known_s = max(known_s, state.silence.owed_s(now_s))
    if lesson.verdict is Verdict.DROPPED:
        state.latency.failed(known_s, now_s)
    elif event.elapsed_s is not None and event.outcome.reason in _UNANSWERED:
        state.latency.waited(known_s, now_s)
    if lesson.cuts_limit:
        state.said_full(event.retry_after_s, now_s)
