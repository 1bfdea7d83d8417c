"""Any interleaving of requests, failures, cancellations, drains and reloads keeps the invariants."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.breaker import BreakerSettings, Circuit
from gateway.core.fleet import (
    AttemptFinished,
    AttemptStarted,
    Drained,
    FirstByteSeen,
    Fleet,
    FleetConfigured,
    SetLimits,
    Ticked,
    Undrained,
)
from gateway.core.health import EngineMetricsSeen, EngineReading, ProbeReported, read_agent_words
from gateway.core.model import (
    Backend,
    Cluster,
    HealthRules,
    Outcome,
    Plan,
    PlanReason,
    Reason,
    RequestFacts,
    Shed,
    ShedReason,
)
from gateway.core.routing import plan_route
from gateway.ports import Lease
from gateway.state.memory import MemoryStore
from tests.core.stories import TIERS

# Two drops open a circuit, so that stories of forty steps see all of its states.
EAGER = BreakerSettings(consecutive=2)
MODELS = ("llama", "qwen", None)
RULES = HealthRules(rise=1, fall=1)
WORDS = ("", "ready 50%", "drain", "maxconn:1")


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Cluster, ...]:
    """Up to three clusters a tier; names repeat over drawings, so that reloads keep some and lose others."""
    made = []
    weights = st.sampled_from((1.0, 3.0))
    for tier in TIERS[: draw(st.integers(1, 3))]:
        for number in range(draw(st.integers(1, 3))):
            name = f"{tier}{number}"
            backends = tuple(
                Backend(f"{name}@b{at}", "http://b", draw(st.integers(1, 4)), draw(weights), RULES)
                for at in range(draw(st.integers(1, 4)))
            )
            models = draw(st.sampled_from(({}, {"llama": None}, {"q*": None, "llama": "other"})))
            made.append(Cluster(name, tier, backends, models))
    return tuple(made)


def serves(cluster: Cluster, model: str | None) -> bool:
    """The models drawn above, by hand."""
    return not cluster.models or model == "llama" or (model == "qwen" and "q*" in cluster.models)


class Gateway(RuleBasedStateMachine):
    """Drives fleet and store exactly as an exchange does."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.store = MemoryStore()
        self.running: list[tuple[Lease, Plan]] = []
        self.now_s = 0.0
        # What the machine itself knows, told by nobody it tests: the configuration and the drains.
        self.clusters: tuple[Cluster, ...] = ()
        self.drained_until_s: dict[str, float] = {}
        # And what probes have said last: who is down, and each backend's own words.
        self.down: set[str] = set()
        self.words: dict[str, str] = {}
        self.told_limits: dict[str, int] = {}

    def tell(self, event) -> None:
        for effect in self.fleet.apply(event, self.now_s):
            if isinstance(effect, SetLimits):
                self.store.set_limits(effect.limits, effect.caps)
                self.told_limits = {**effect.limits, **effect.caps}

    @initialize(made=clusters(), policy=st.sampled_from(("weight", "least_loaded")))
    def start(self, made, policy) -> None:
        self.clusters = made
        self.tell(FleetConfigured(made, TIERS, policy, EAGER))

    def allowed(self, model: str | None) -> dict[str, Backend]:
        """The backends that might get new work for `model`, in the order of the tiers."""
        return {
            backend.id: backend
            for tier in TIERS
            for cluster in self.clusters
            if cluster.tier == tier and cluster.name not in self.drained_until_s and serves(cluster, model)
            for backend in cluster.backends
            if backend.id not in self.drained_until_s and self.words.get(backend.id) != "drain"
        }

    @rule(model=st.sampled_from(MODELS), draw=st.integers(0, 2**64 - 1), waits=st.booleans())
    def begin(self, model, draw, waits) -> None:
        plan = plan_route(RequestFacts(model, draw), self.fleet.view, self.now_s)
        allowed = self.allowed(model)
        if isinstance(plan, Shed):
            assert not allowed, "refused though somebody may serve it"
            known = any(serves(cluster, model) for cluster in self.clusters)
            assert plan.reason is (ShedReason.NO_BACKEND if known else ShedReason.MODEL_NOT_FOUND)
            return
        self.judge(plan, allowed)
        self.take(plan, waits)

    def judge(self, plan: Plan, allowed: dict[str, Backend]) -> None:
        """Circuits are taken as the fleet has them: what moves them is judged in test_breaker.py."""
        ids = [candidate.backend.id for candidate in plan.candidates]
        closed = {id_ for id_ in allowed if self.circuit(id_) is Circuit.CLOSED and id_ not in self.down}
        assert len(set(ids)) == len(ids) and closed <= set(ids) <= set(allowed), "not every open one once"
        assert all(c.backend == allowed[c.backend.id] for c in plan.candidates), "planned as it was once"
        for candidate in plan.candidates:
            if candidate.backend.id not in closed:
                is_probe = candidate.is_probe and candidate.backend.id not in self.down
                assert is_probe or (candidate.reason is PlanReason.PANIC and not closed)
        down = {name for name, cluster in self.fleet.view.clusters.items() if cluster.is_down}
        ranks = [TIERS.index(c.tier) for c in plan.candidates if c.is_probe or c.cluster not in down]
        assert ranks == sorted(ranks), "a lower tier before a higher one"

    def circuit(self, backend_id: str) -> Circuit:
        return self.fleet.view.backends[backend_id].circuit

    def take(self, plan: Plan, waits: bool) -> None:
        free = [c for c in plan.candidates if self.has_slot(c.backend.id)]
        lease = asyncio.run(self.store.lease(plan)) if waits else self.store.lease_now(plan)
        if lease is None:
            assert not free, f"refused while {free[0].backend.id} had a slot"
            return
        candidate = lease.candidate
        assert candidate == free[0], "not the first with a slot"
        if not self.fleet.view.admits(candidate):
            self.store.release(lease)
            return
        self.tell(AttemptStarted(candidate.backend.id, candidate.generation, 700))
        self.running.append((lease, plan))

    def has_slot(self, backend_id: str) -> bool:
        """By the limits that the fleet has told, and those are within the configured ones."""
        limits = {backend.id: backend.limit for cluster in self.clusters for backend in cluster.backends}
        assert self.told_limits.keys() == limits.keys()
        assert all(1 <= self.told_limits[id_] <= limit for id_, limit in limits.items())
        return self.at_work()[backend_id] < self.told_limits.get(backend_id, 0)

    def at_work(self) -> Counter[str]:
        return Counter(lease.candidate.backend.id for lease, _ in self.running)

    def settle(self, lease: Lease, reason: Reason) -> None:
        self.store.release(lease)
        times = (0.2, None) if reason is Reason.COMPLETED else (None, 0.2)
        candidate = lease.candidate
        self.tell(AttemptFinished(candidate.backend.id, Outcome.of(reason), *times, candidate.generation))

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0), reason=st.sampled_from(Reason), twice=st.booleans())
    def end(self, at, reason, twice) -> None:
        lease, _ = self.running.pop(at % len(self.running))
        self.settle(lease, reason)
        if twice:
            self.store.release(lease)
        self.forget_who_left()

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0), ttft_s=st.floats(0, 60))
    def first_byte(self, at, ttft_s) -> None:
        lease, _ = self.running[at % len(self.running)]
        self.tell(FirstByteSeen(lease.candidate.backend.id, ttft_s))

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0))
    def all_fail(self, at) -> None:
        """A backend breaks: whatever runs on it is lost."""
        broken = self.running[at % len(self.running)][0].candidate.backend.id
        for pair in [pair for pair in self.running if pair[0].candidate.backend.id == broken]:
            self.running.remove(pair)
            self.settle(pair[0], Reason.RESET)
        self.forget_who_left()

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0), waits=st.booleans())
    def fail_and_move_on(self, at, waits) -> None:
        lease, plan = self.running.pop(at % len(self.running))
        self.settle(lease, Reason.RESET)
        rest = plan.after([lease.candidate])
        if rest is not None:
            self.take(rest, waits)
        self.forget_who_left()

    @rule(at=st.integers(0), of_cluster=st.booleans(), for_s=st.sampled_from((1.0, float("inf"))))
    def drain(self, at, of_cluster, for_s) -> None:
        names = list(self.fleet.view.clusters if of_cluster else self.fleet.view.backends)
        name = names[at % len(names)]
        self.drained_until_s[name] = self.now_s + for_s
        self.tell(Drained(name, self.now_s + for_s))

    @rule(at=st.integers(0))
    def undrain(self, at) -> None:
        names = [*self.fleet.view.clusters, *self.fleet.view.backends]
        name = names[at % len(names)]
        self.drained_until_s.pop(name, None)
        self.tell(Undrained(name))

    @rule(at=st.integers(0), passed=st.booleans(), words=st.sampled_from(WORDS))
    def probe(self, at, passed, words) -> None:
        names = list(self.fleet.view.backends)
        name = names[at % len(names)]
        if passed:
            self.down.discard(name)
            self.words[name] = words
        else:
            self.down.add(name)
        self.tell(ProbeReported(name, passed, "", read_agent_words(words)))

    @rule(at=st.integers(0), running=st.integers(0, 9))
    def read_engine(self, at, running) -> None:
        names = list(self.fleet.view.backends)
        reading = EngineReading(running, 0, None, self.now_s)
        self.tell(EngineMetricsSeen(names[at % len(names)], reading))

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds) -> None:
        self.now_s += seconds
        # A drain of a backend that left for now is looked at when it is back.
        names = self.names()
        over = [n for n, until_s in self.drained_until_s.items() if n in names and until_s <= self.now_s]
        for name in over:
            del self.drained_until_s[name]
        self.tell(Ticked())

    def names(self) -> set[str]:
        return {c.name for c in self.clusters} | {b.id for c in self.clusters for b in c.backends}

    @rule(made=clusters())
    def reload(self, made) -> None:
        self.clusters = made
        self.tell(FleetConfigured(made, TIERS, breaker=EAGER))
        self.forget_who_left()

    def forget_who_left(self) -> None:
        """A backend that left the configuration keeps its drain and its health while work runs on it."""
        kept = self.names() | set(self.at_work())
        self.drained_until_s = {n: until_s for n, until_s in self.drained_until_s.items() if n in kept}
        self.down &= kept
        self.words = {n: words for n, words in self.words.items() if n in kept}

    @invariant()
    def counts_agree(self) -> None:
        """Fleet, store and what really runs; on backends that left the configuration too."""
        at_work = self.at_work()
        assert all(self.store.leases_held(id_) == count for id_, count in at_work.items())
        assert set(self.fleet._states) == set(self.fleet.view.backends) | set(at_work), "forgotten, or never"
        for id_, state in self.fleet._states.items():
            assert state.in_flight == self.store.leases_held(id_) == at_work[id_]

    @invariant()
    def a_drain_lasts_as_long_as_told(self) -> None:
        """Through every reload, and with a backend that left while work ran on it."""
        states = {**self.fleet.view.clusters, **self.fleet._states}
        marks = {name: state.drained_until_s for name, state in states.items()}
        assert {name: mark for name, mark in marks.items() if mark is not None} == self.drained_until_s

    def teardown(self) -> None:
        touched = {lease.candidate.backend.id for lease, _ in self.running} | set(self.fleet._states)
        while self.running:
            lease, _ = self.running.pop()
            self.settle(lease, Reason.CLIENT_LEFT)
        assert all(state.in_flight == 0 for state in self.fleet._states.values())
        assert all(state.silence.waiting == 0 for state in self.fleet._states.values())
        assert all(self.store.leases_held(id_) == 0 for id_ in touched)


TestGateway = Gateway.TestCase
TestGateway.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
