"""The picture of the fleet: what routing, the admin pages and the metrics read. Only the Fleet writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.core.balancing import CLUSTER_POLICIES
from gateway.core.breaker import DEFAULTS, NO_GENERATION, Breaker, BreakerSettings, Circuit
from gateway.core.constraints import Residency, match_cluster
from gateway.core.digest import LatencyDigest
from gateway.core.explaining import passed_over
from gateway.core.health import BackendHealth, Capacity
from gateway.core.latency import PeakEwma, SlotGap
from gateway.core.model import Backend, Candidate, Cluster, RequestFacts
from gateway.core.serving import Serving, work_out_serving
from gateway.core.silence import Silence

# A client chooses the names it asks for: what is remembered of them is bounded.
MAX_REMEMBERED_MODELS = 1024
# What a refused client is told to wait: between these, and the default before anything has ended.
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S, DEFAULT_RETRY_AFTER_S = 0.05, 30.0, 1.0
# What a full backend may ask, and what is assumed when it asks nothing.
MIN_FULL_S, MAX_FULL_S, DEFAULT_FULL_S = 0.1, 60.0, 1.0


class BackendState:
    """One backend as it is now. `limit` and `weight` are the effective ones: see `settle`."""

    __slots__ = (
        "_cut_limit",
        "_full_until_s",
        "backend",
        "breaker",
        "digest",
        "drained_until_s",
        "fleet_limit",
        "health",
        "in_flight",
        "latency",
        "limit",
        "silence",
        "slot_gap",
        "weight",
    )

    def __init__(self, backend: Backend, window_s: float = DEFAULTS.window_s) -> None:
        self.backend = backend
        self.limit = self.fleet_limit = backend.limit
        self.weight = backend.weight
        self.in_flight = 0
        self.breaker = Breaker(window_s)
        self.silence = Silence()
        self.latency = PeakEwma()
        self.digest = LatencyDigest()
        self.slot_gap = SlotGap()
        self.health = BackendHealth(backend.health)
        self.drained_until_s: float | None = None
        self._cut_limit = backend.limit
        self._full_until_s = float("-inf")

    @property
    def id(self) -> str:
        return self.backend.id

    @property
    def headroom(self) -> int:
        return max(self.limit - self.in_flight, 0)

    @property
    def is_drained(self) -> bool:
        """By an operator, or at its own wish."""
        return self.drained_until_s is not None or self.health.is_drained

    @property
    def circuit(self) -> Circuit:
        return self.breaker.circuit

    def wants_probe(self, now_s: float) -> bool:
        """Whether the next request may try it, though its circuit is not closed."""
        return self.health.is_open and self.breaker.wants_probe(now_s)

    def cost(self, now_s: float) -> float:
        """Lower is better: the expected time that one more request would add, per weight.

        A backend that gives nothing though asked is at least as slow as that has lasted.
        """
        latency_s = self.latency.value_s(now_s)
        if self.silence.waiting:
            latency_s = max(latency_s, self.silence.owed_s(now_s))
        return (self.in_flight + self.health.others(now_s) + 1) * latency_s / self.weight

    def said_full(self, retry_after_s: float | None, now_s: float) -> None:
        """It answered 429 or 503: what it holds now is what it can hold, for as long as it asks."""
        holds = max(self.in_flight, 1)
        self._cut_limit = min(self._cut_limit, holds) if now_s < self._full_until_s else holds
        asked_s = DEFAULT_FULL_S if retry_after_s is None else retry_after_s
        until_s = now_s + min(max(asked_s, MIN_FULL_S), MAX_FULL_S)
        self._full_until_s = max(self._full_until_s, until_s)

    def says_full(self, now_s: float) -> bool:
        """By its own word, whatever its limit."""
        return now_s < self._full_until_s

    def settle(self, settings: BreakerSettings, now_s: float) -> bool:
        """Works out the effective limit and weight; True when one of them has changed.

        The configured ones, cut by the backend's own advice, times the circuit's share (slow start), cut
        while the backend says it is full; the limit is at least 1.

        While a probe is wanted the limit is whole: long streams that began before, or other gateways, may
        use more than the share, and the one probe needs a slot beside them. The permit keeps it to one.
        """
        share = self.breaker.share(settings, now_s)
        fleet_limit = self.health.capped(self.backend.limit)
        if share != 1.0 and not self.wants_probe(now_s):
            fleet_limit = max(int(fleet_limit * share), 1)
        limit = min(fleet_limit, self._cut_limit) if now_s < self._full_until_s else fleet_limit
        weight = self.backend.weight * share * self.health.advice.weight_share
        has_changed = (limit, fleet_limit, weight) != (self.limit, self.fleet_limit, self.weight)
        self.limit, self.fleet_limit, self.weight = limit, fleet_limit, weight
        return has_changed

    def __repr__(self) -> str:
        drained = ", drained" if self.drained_until_s is not None else ""
        circuit = f", {self.circuit}" if self.circuit is not Circuit.CLOSED else ""
        return f"<{self.id} {self.in_flight}/{self.limit}{drained}{circuit}>"


class ClusterState:
    """One cluster as it is now.

    `open_backends` may get new work. Of those not drained, `ejected_backends` have a circuit that is not
    closed, or fail their health probes, and `probe_backends` are the ejected ones whose circuit the next
    request may try.
    """

    __slots__ = (
        "backends",
        "cluster",
        "down_since_s",
        "drained_until_s",
        "ejected_backends",
        "open_backends",
        "probe_backends",
        "returned_at_s",
        "weight",
    )

    def __init__(self, cluster: Cluster, backends: tuple[BackendState, ...]) -> None:
        self.cluster = cluster
        self.backends = backends
        self.weight = cluster.weight
        self.drained_until_s: float | None = None
        self.down_since_s: float | None = None
        self.returned_at_s = float("-inf")  # when it was down last
        self.open_backends: tuple[BackendState, ...] = backends
        self.ejected_backends: tuple[BackendState, ...] = ()
        self.probe_backends: tuple[BackendState, ...] = ()

    @property
    def name(self) -> str:
        return self.cluster.name

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
        """Backends that may get new work, of those that should be there."""
        expected = max(len(self.backends), self.cluster.expected_backends or 0)
        return Capacity(len(self.open_backends), expected)

    @property
    def is_down(self) -> bool:
        """Most of it is ejected or missing: its tier is passed over while another has room."""
        return self.down_since_s is not None

    def refresh(self, settings: BreakerSettings, now_s: float) -> None:
        """Works out again who may get new work, whether the cluster is down, and its weight."""
        is_open = self.drained_until_s is None
        undrained = [b for b in self.backends if is_open and not b.is_drained]
        is_ejected = {b.id: b.circuit is not Circuit.CLOSED or not b.health.is_open for b in undrained}
        self.open_backends = tuple(b for b in undrained if not is_ejected[b.id])
        self.ejected_backends = tuple(b for b in undrained if is_ejected[b.id])
        self.probe_backends = tuple(b for b in self.ejected_backends if b.wants_probe(now_s))
        if self._is_short(undrained, settings.min_available):
            self.down_since_s = now_s if self.down_since_s is None else self.down_since_s
        elif self.down_since_s is not None:
            # Half back may be gone again in a moment; what is back whole is welcome at once, unless it has
            # come back and gone again just before.
            may_return = not self.ejected_backends and now_s - self.returned_at_s >= settings.hold_down_s
            if may_return or now_s - self.down_since_s >= settings.hold_down_s:
                self.down_since_s = None
                self.returned_at_s = now_s
        self.weight = self._weight_of(undrained)

    def _is_short(self, undrained: Sequence[BackendState], min_available: float) -> bool:
        """Less than `min_available` of the expected slots are there. What is drained is not expected.

        Expected is what is configured or discovered, never what happens to be up.
        """
        configured = sum(b.backend.limit for b in self.backends)
        drained = configured - sum(b.backend.limit for b in undrained)
        expected = max(self.cluster.expected_limit or 0, configured) - drained
        return sum(b.backend.limit for b in self.open_backends) < min_available * expected

    def _weight_of(self, undrained: Sequence[BackendState]) -> float:
        """The configured weight times the share of it that is not ejected or starting slowly."""
        now = sum(b.weight for b in self.open_backends)
        # Where only ejected backends are left, the cluster is chosen among others like it, in panic.
        return self.cluster.weight * (now / sum(b.backend.weight for b in undrained) if now else 1.0)

    def __repr__(self) -> str:
        drained = ", drained" if self.drained_until_s is not None else ""
        return f"<{self.name} {self.in_flight}/{self.limit}{drained}{', down' if self.is_down else ''}>"


class FleetView:
    """What routing reads. Only the Fleet writes it."""

    def __init__(self) -> None:
        self.tiers: tuple[str, ...] = ()
        self.clusters: dict[str, ClusterState] = {}
        self.backends: dict[str, BackendState] = {}
        self.cluster_policy = CLUSTER_POLICIES["weight"]
        self.version = 0  # another one when who may serve has changed
        self.residencies: frozenset[str] = frozenset()  # that any cluster has
        self._serving: dict[str | tuple[str | None, Residency] | None, Serving] = {}
        self._passed_over: dict[tuple[str | None, Residency, str | None, bool], str] = {}

    def serving(self, model: str | None, residency: Residency = None) -> Serving | None:
        """Who may serve `model`; None when no cluster is configured for it, in that residency."""
        key = model if residency is None else (model, residency)
        found = self._serving.get(key)
        if found is None and (found := self._work_out_serving(model, residency)) is not None:
            if len(self._serving) >= MAX_REMEMBERED_MODELS:
                self._serving.clear()
            self._serving[key] = found
        return found

    def admits(self, candidate: Candidate) -> bool:
        """Whether a candidate may still be tried that was planned a while ago.

        To be asked after every wait between the plan and the attempt: its circuit may have opened, its
        probe may have been taken, it may have been drained or be gone.
        """
        state = self.backends.get(candidate.backend.id)
        cluster = self.clusters.get(candidate.cluster)
        if state is None or cluster is None or cluster.drained_until_s is not None:
            return False
        if state.is_drained:
            return False
        if candidate.generation == NO_GENERATION:
            return True  # planned in panic
        breaker = state.breaker
        return candidate.generation == breaker.generation and not (candidate.is_probe and breaker.probes)

    def passed_over(self, facts: RequestFacts, taken: Candidate | None) -> str:
        """Why the tiers above did not serve: see `explaining.passed_over`. Remembered: floods spill alike."""
        at, is_probe = (None, False) if taken is None else (taken.cluster, taken.is_probe)
        key = (facts.model, facts.residency, at, is_probe)
        found = self._passed_over.get(key)
        if found is None:
            if len(self._passed_over) >= MAX_REMEMBERED_MODELS:
                self._passed_over.clear()
            found = self._passed_over[key] = passed_over(self, facts, taken)
        return found

    def retry_after_s(self, model: str | None, residency: Residency = None) -> float:
        """How long until a slot for `model` is likely to come free."""
        gaps = [b.slot_gap.gap_s for b in self._open_for(model, residency) if b.slot_gap.gap_s is not None]
        if not gaps:
            return DEFAULT_RETRY_AFTER_S
        return min(max(min(gaps), MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)

    def _open_for(self, model: str | None, residency: Residency) -> Iterator[BackendState]:
        serving = self.serving(model, residency)
        for tier in serving.tiers if serving is not None else ():
            for cluster in tier.clusters:
                yield from cluster.open_backends

    @property
    def has_open_backend(self) -> bool:
        return any(cluster.open_backends for cluster in self.clusters.values())

    def forget_serving(self) -> None:
        """Called by the Fleet when who may serve has changed."""
        self.version += 1
        self.residencies = frozenset().union(*(c.cluster.residency for c in self.clusters.values()))
        self._serving.clear()
        self._passed_over.clear()

    def _work_out_serving(self, model: str | None, residency: Residency) -> Serving | None:
        matching = [
            (cluster, match)
            for cluster in self.clusters.values()
            if cluster.cluster.tier in self.tiers
            and (match := match_cluster(cluster.cluster, model, residency)) is not None
        ]
        return work_out_serving(self.tiers, matching) if matching else None
