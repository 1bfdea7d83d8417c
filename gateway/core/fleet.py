"""Fleet: the one mutable picture of all clusters. Events in, effects out; `.view` is what routing reads.

Invariants (asserted, and tested with hypothesis):
- a backend's in_flight is never negative and counts exactly the attempts started and not finished;
- a drained, unhealthy or removed backend is in no plan, and what runs on it may finish;
- a backend that stays through a reconfiguration keeps its in_flight, latency and drain mark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gateway.core.balancing import CLUSTER_POLICIES
from gateway.core.constraints import ModelMatch, match_model
from gateway.core.health import HEALTH_EVENTS, BackendHealth, Capacity, HealthEvent, is_ruled_out
from gateway.core.latency import PeakEwma, SlotGap
from gateway.core.model import Backend, Candidate, Cluster, Outcome, Plan, PlanReason

FOREVER_S = float("inf")
# A client chooses the names it asks for: what is remembered of them is bounded.
MAX_REMEMBERED_MODELS = 1024
# What a refused client is told to wait: between these, and the default before anything has ended.
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S, DEFAULT_RETRY_AFTER_S = 0.05, 30.0, 1.0


# --- events: what happened, past tense ---------------------------------------------------------------


class FleetConfigured(NamedTuple):
    """The clusters and the tiers' order, as read from the configuration or told by discovery."""

    clusters: tuple[Cluster, ...]
    tiers: tuple[str, ...]
    cluster_policy: str = "weight"


class AttemptStarted(NamedTuple):
    backend_id: str


class FirstByteSeen(NamedTuple):
    """The first body byte of a good answer came `ttft_s` after the attempt began; more is to come."""

    backend_id: str
    ttft_s: float


class AttemptFinished(NamedTuple):
    """`ttft_s` is that of a good answer whose first byte no FirstByteSeen has told of."""

    backend_id: str
    outcome: Outcome
    ttft_s: float | None = None


class Drained(NamedTuple):
    """No new work for a cluster or a backend until `until_s` (monotonic)."""

    name: str
    until_s: float = FOREVER_S


class Undrained(NamedTuple):
    name: str


class Ticked(NamedTuple):
    """Time has passed: drains that have run out end."""


Event = (
    FleetConfigured
    | AttemptStarted
    | FirstByteSeen
    | AttemptFinished
    | Drained
    | Undrained
    | Ticked
    | HealthEvent
)


# --- effects: what is to be done, imperative ---------------------------------------------------------


class SetLimits(NamedTuple):
    """Tell the store every backend's limit; a backend not named is gone."""

    limits: Mapping[str, int]


class CloseIdleConnections(NamedTuple):
    """Close pooled upstream connections that carry nothing."""

    backend_ids: tuple[str, ...]


Effect = SetLimits | CloseIdleConnections


class UnknownName(LookupError):
    """No cluster or backend of this name."""


# --- the picture -------------------------------------------------------------------------------------


class BackendState:
    """One backend as it is now."""

    __slots__ = ("backend", "drained_until_s", "health", "in_flight", "latency", "limit", "slot_gap")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.limit = backend.limit
        self.in_flight = 0
        self.latency = PeakEwma()
        self.slot_gap = SlotGap()
        self.drained_until_s: float | None = None
        self.health = BackendHealth(backend.health)

    @property
    def id(self) -> str:
        return self.backend.id

    @property
    def headroom(self) -> int:
        return max(self.limit - self.in_flight, 0)

    def cost(self, now_s: float) -> float:
        """Lower is better: the expected time that one more request would add, per weight."""
        health = self.health
        load = self.in_flight + health.others(now_s) + 1
        return load * self.latency.value_s(now_s) / (self.backend.weight * health.advice.weight_share)

    def __repr__(self) -> str:
        drained = ", drained" if self.drained_until_s is not None else ""
        return f"<{self.id} {self.in_flight}/{self.limit}{drained}>"


class ClusterState:
    """One cluster as it is now; `open_backends` are those that may get new work."""

    __slots__ = ("backends", "cluster", "drained_until_s", "open_backends")

    def __init__(self, cluster: Cluster, backends: tuple[BackendState, ...]) -> None:
        self.cluster = cluster
        self.backends = backends
        self.drained_until_s: float | None = None
        self.open_backends: tuple[BackendState, ...] = backends

    @property
    def name(self) -> str:
        return self.cluster.name

    @property
    def weight(self) -> float:
        return self.cluster.weight

    @property
    def in_flight(self) -> int:
        return sum(backend.in_flight for backend in self.backends)

    @property
    def limit(self) -> int:
        return sum(backend.limit for backend in self.backends)

    @property
    def load(self) -> float:
        """The share of the slots in use among the backends that may get new work."""
        members = self.open_backends
        return sum(b.in_flight for b in members) / (sum(b.limit for b in members) or 1)

    @property
    def capacity(self) -> Capacity:
        """Backends that may get new work, of those configured."""
        return Capacity(len(self.open_backends), len(self.backends))

    def refresh(self) -> None:
        """Works out again who may get new work."""
        is_open = self.drained_until_s is None
        self.open_backends = tuple(
            b for b in self.backends if is_open and b.drained_until_s is None and b.health.is_open
        )

    def __repr__(self) -> str:
        drained = ", drained" if self.drained_until_s is not None else ""
        return f"<{self.name} {self.in_flight}/{self.limit}{drained}>"


class ServingTier(NamedTuple):
    """A tier's clusters with an open backend for one model; `seats` holds their ready candidates."""

    clusters: tuple[ClusterState, ...]
    seats: Mapping[str, Mapping[str, Candidate]]


class Serving(NamedTuple):
    """Who may serve one model now, by tier. `tiers` is empty when all who could are drained.

    `only_plan` is set where there is nothing to choose: one open backend in each tier.
    """

    tiers: tuple[ServingTier, ...]
    preferred_tier: str
    route_model: str
    only_plan: Plan | None = None


class FleetView:
    """What routing reads. Only the Fleet writes it."""

    def __init__(self) -> None:
        self.tiers: tuple[str, ...] = ()
        self.clusters: dict[str, ClusterState] = {}
        self.backends: dict[str, BackendState] = {}
        self.cluster_policy = CLUSTER_POLICIES["weight"]
        self._serving: dict[str | None, Serving] = {}

    def serving(self, model: str | None) -> Serving | None:
        """Who may serve `model`; None when no cluster is configured for it."""
        found = self._serving.get(model)
        if found is None and (found := self._work_out_serving(model)) is not None:
            if len(self._serving) >= MAX_REMEMBERED_MODELS:
                self._serving.clear()
            self._serving[model] = found
        return found

    def retry_after_s(self, model: str | None) -> float:
        """How long until a slot for `model` is likely to come free."""
        serving = self.serving(model)
        gaps = [
            backend.slot_gap.gap_s
            for tier in (serving.tiers if serving is not None else ())
            for cluster in tier.clusters
            for backend in cluster.open_backends
            if backend.slot_gap.gap_s is not None
        ]
        if not gaps:
            return DEFAULT_RETRY_AFTER_S
        return min(max(min(gaps), MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)

    @property
    def has_open_backend(self) -> bool:
        return any(cluster.open_backends for cluster in self.clusters.values())

    def forget_serving(self) -> None:
        """Called by the Fleet when who may serve has changed."""
        self._serving.clear()

    def _work_out_serving(self, model: str | None) -> Serving | None:
        matching = [
            (cluster, match)
            for tier in self.tiers
            for cluster in self.clusters.values()
            if cluster.cluster.tier == tier
            and (match := match_model(cluster.cluster.models, model)) is not None
        ]
        if not matching:
            return None
        # A cluster without any backend at the moment is nobody's first choice.
        preferred = next((cluster for cluster, _ in matching if cluster.backends), matching[0][0])
        preferred_tier = preferred.cluster.tier
        preferred_clusters = [c for c, _ in matching if c.cluster.tier == preferred_tier]
        passed_over = (
            PlanReason.UNHEALTHY if any(map(is_ruled_out, preferred_clusters)) else PlanReason.DRAINED
        )
        route_model = next((match.rule for _, match in matching if match.rule is not None), "other")
        tiers: list[ServingTier] = []
        for tier in self.tiers:
            able = [(c, m) for c, m in matching if c.cluster.tier == tier and c.open_backends]
            if not able:
                continue
            # A tier after the first open one is reached only when those before it are full.
            reason = (
                PlanReason.FULL
                if tiers
                else PlanReason.FIRST_CHOICE
                if tier == preferred_tier
                else passed_over
            )
            seats = {cluster.name: _seats(cluster, reason, match) for cluster, match in able}
            tiers.append(ServingTier(tuple(cluster for cluster, _ in able), seats))
        seats_of_tiers = [tuple(_seats_of_tier(tier)) for tier in tiers]
        only_plan = (
            Plan(tuple(seats[0] for seats in seats_of_tiers), preferred_tier, route_model)
            if tiers and all(len(seats) == 1 for seats in seats_of_tiers)
            else None
        )
        return Serving(tuple(tiers), preferred_tier, route_model, only_plan)


def _seats_of_tier(tier: ServingTier) -> Iterator[Candidate]:
    for seats in tier.seats.values():
        yield from seats.values()


def _seats(cluster: ClusterState, reason: PlanReason, match: ModelMatch) -> dict[str, Candidate]:
    tier = cluster.cluster.tier
    return {
        backend.id: Candidate(backend.backend, cluster.name, tier, reason, match.upstream_name)
        for backend in cluster.open_backends
    }


class Fleet:
    """The machine behind the picture: `apply(event, now_s)` changes it and says what is to be done."""

    def __init__(self) -> None:
        self.view = FleetView()
        self._handlers: dict[type, Callable[[Any, float], tuple[Effect, ...]]] = {
            AttemptStarted: self._on_attempt_started,
            FirstByteSeen: self._on_first_byte_seen,
            AttemptFinished: self._on_attempt_finished,
            FleetConfigured: self._on_configured,
            Drained: self._on_drained,
            Undrained: self._on_undrained,
            Ticked: self._on_ticked,
            **dict.fromkeys(HEALTH_EVENTS, self._on_health_told),
        }
        # All backends that events may speak of: those of the view, and those that left the configuration
        # while work ran on them, until that work ends.
        self._states: dict[str, BackendState] = {}

    def apply(self, event: Event, now_s: float) -> tuple[Effect, ...]:
        """Takes in one event. Raises UnknownName for a drain of nobody; nothing is changed then."""
        return self._handlers[type(event)](event, now_s)

    def _on_attempt_started(self, event: AttemptStarted, now_s: float) -> tuple[Effect, ...]:
        state = self._states.get(event.backend_id)
        if state is None:
            # Its lease was given just before it left the configuration: it may be back before the end.
            state = self._states[event.backend_id] = BackendState(Backend(event.backend_id, "", 1))
        if state.in_flight == 0:
            state.slot_gap.work_began(now_s)
        state.in_flight += 1
        return ()

    def _on_first_byte_seen(self, event: FirstByteSeen, now_s: float) -> tuple[Effect, ...]:
        state = self._states.get(event.backend_id)
        if state is not None:
            state.latency.observe(event.ttft_s, now_s)
        return ()

    def _on_attempt_finished(self, event: AttemptFinished, now_s: float) -> tuple[Effect, ...]:
        state = self._states.get(event.backend_id)
        if state is not None:
            assert state.in_flight > 0, f"{state}: finished more often than started"
            state.in_flight -= 1
            if event.ttft_s is not None:
                state.latency.observe(event.ttft_s, now_s)
            state.slot_gap.slot_freed(now_s)
            if state.in_flight == 0 and event.backend_id not in self.view.backends:
                del self._states[event.backend_id]
        return ()

    def _on_configured(self, event: FleetConfigured, now_s: float) -> tuple[Effect, ...]:
        view = self.view
        known = self._states
        old_clusters, old_backends = view.clusters, view.backends
        view.cluster_policy = CLUSTER_POLICIES[event.cluster_policy]
        view.tiers = event.tiers
        view.clusters, view.backends = {}, {}
        for cluster in event.clusters:
            states = tuple(self._kept_or_new(known, backend) for backend in cluster.backends)
            state = ClusterState(cluster, states)
            if (old := old_clusters.get(cluster.name)) is not None:
                state.drained_until_s = old.drained_until_s
            view.clusters[cluster.name] = state
            view.backends.update((backend.id, backend) for backend in states)
        leaving = {id_: state for id_, state in known.items() if state.in_flight}
        self._states = leaving | view.backends
        self._refresh()
        removed = tuple(id_ for id_ in old_backends if id_ not in view.backends)
        limits = self._limits()
        return (limits, CloseIdleConnections(removed)) if removed else (limits,)

    @staticmethod
    def _kept_or_new(known: Mapping[str, BackendState], backend: Backend) -> BackendState:
        state = known.get(backend.id)
        if state is None:
            return BackendState(backend)
        state.health.follow(backend.health)
        state.backend, state.limit = backend, state.health.capped(backend.limit)
        return state

    def _limits(self) -> SetLimits:
        return SetLimits({id_: state.limit for id_, state in self.view.backends.items()})

    def _on_health_told(self, event: HealthEvent, now_s: float) -> tuple[Effect, ...]:
        state = self.view.backends.get(event.backend_id)
        if state is None:
            return ()  # it left the configuration while it was asked
        health, old_limit = state.health, state.limit
        was_open = health.is_open
        health.tell(event, state.in_flight, now_s)
        state.limit = health.capped(state.backend.limit)
        if health.is_open is not was_open:
            self._refresh()
        return (self._limits(),) if state.limit != old_limit else ()

    def _on_drained(self, event: Drained, now_s: float) -> tuple[Effect, ...]:
        target = self._named(event.name)
        target.drained_until_s = event.until_s
        self._refresh()
        members = target.backends if isinstance(target, ClusterState) else (target,)
        return (CloseIdleConnections(tuple(member.id for member in members)),)

    def _on_undrained(self, event: Undrained, now_s: float) -> tuple[Effect, ...]:
        self._named(event.name).drained_until_s = None
        self._refresh()
        return ()

    def _on_ticked(self, event: Ticked, now_s: float) -> tuple[Effect, ...]:
        targets: list[ClusterState | BackendState] = [
            *self.view.clusters.values(),
            *self.view.backends.values(),
        ]
        over = [
            state for state in targets if state.drained_until_s is not None and state.drained_until_s <= now_s
        ]
        for state in over:
            state.drained_until_s = None
        if over:
            self._refresh()
        return ()

    def _named(self, name: str) -> ClusterState | BackendState:
        state = self.view.clusters.get(name) or self.view.backends.get(name)
        if state is None:
            raise UnknownName(name)
        return state

    def _refresh(self) -> None:
        for cluster in self.view.clusters.values():
            cluster.refresh()
        self.view.forget_serving()
