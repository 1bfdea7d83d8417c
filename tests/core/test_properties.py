"""Any interleaving of requests, failures, cancellations, drains and reloads keeps the invariants."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.fleet import (
    AttemptFinished,
    AttemptStarted,
    Drained,
    Fleet,
    FleetConfigured,
    SetLimits,
    Ticked,
    Undrained,
)
from gateway.core.model import Backend, Cluster, Outcome, Plan, Reason, RequestFacts, Shed
from gateway.core.routing import plan_route
from gateway.ports import Lease
from gateway.state.memory import MemoryStore
from tests.core.stories import TIERS

MODELS = ("llama", "qwen", None)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Cluster, ...]:
    """Up to three clusters a tier; names repeat over drawings, so that reloads keep some and lose others."""
    made = []
    weights = st.sampled_from((1.0, 3.0))
    for tier in TIERS[: draw(st.integers(1, 3))]:
        for number in range(draw(st.integers(1, 3))):
            name = f"{tier}{number}"
            backends = tuple(
                Backend(f"{name}@b{at}", "http://b", draw(st.integers(1, 4)), draw(weights))
                for at in range(draw(st.integers(1, 4)))
            )
            models = draw(st.sampled_from(({}, {"llama": None}, {"q*": None, "llama": "other"})))
            made.append(Cluster(name, tier, backends, models))
    return tuple(made)


class Gateway(RuleBasedStateMachine):
    """Drives fleet and store exactly as an exchange does."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.store = MemoryStore()
        self.running: list[tuple[Lease, Plan]] = []
        self.now_s = 0.0

    def tell(self, event) -> None:
        for effect in self.fleet.apply(event, self.now_s):
            if isinstance(effect, SetLimits):
                self.store.set_limits(effect.limits)

    @initialize(made=clusters(), policy=st.sampled_from(("weight", "least_loaded")))
    def start(self, made, policy) -> None:
        self.tell(FleetConfigured(made, TIERS, policy))

    @rule(model=st.sampled_from(MODELS), draw=st.integers(0, 2**64 - 1), waits=st.booleans())
    def begin(self, model, draw, waits) -> None:
        plan = plan_route(RequestFacts(model, draw), self.fleet.view, self.now_s)
        if isinstance(plan, Shed):
            return
        ids = [candidate.backend.id for candidate in plan.candidates]
        assert len(ids) == len(set(ids)), "a backend stands twice in a plan"
        self.take(plan, waits)

    def take(self, plan: Plan, waits: bool) -> None:
        free = [c for c in plan.candidates if self.has_slot(c.backend.id)]
        lease = asyncio.run(self.store.lease(plan)) if waits else self.store.lease_now(plan)
        if lease is None:
            assert not free, f"refused while {free[0].backend.id} had a slot"
            return
        assert lease.candidate == free[0], "not the first with a slot"
        rank = TIERS.index(lease.candidate.tier)
        higher = [c.backend.id for c in plan.candidates if TIERS.index(c.tier) < rank]
        assert not any(map(self.has_slot, higher)), "spilled past a free slot"
        self.tell(AttemptStarted(lease.candidate.backend.id))
        self.running.append((lease, plan))

    def has_slot(self, backend_id: str) -> bool:
        state = self.fleet.view.backends.get(backend_id)
        return state is not None and self.store.leases_held(backend_id) < state.limit

    def settle(self, lease: Lease, reason: Reason) -> None:
        self.store.release(lease)
        ttft_s = 0.2 if reason is Reason.COMPLETED else None
        self.tell(AttemptFinished(lease.candidate.backend.id, Outcome.of(reason), ttft_s))

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0), reason=st.sampled_from(Reason), twice=st.booleans())
    def end(self, at, reason, twice) -> None:
        lease, _ = self.running.pop(at % len(self.running))
        self.settle(lease, reason)
        if twice:
            self.store.release(lease)

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0), waits=st.booleans())
    def fail_and_move_on(self, at, waits) -> None:
        lease, plan = self.running.pop(at % len(self.running))
        self.settle(lease, Reason.RESET)
        rest = plan.without(lease.candidate)
        if rest is not None:
            self.take(rest, waits)

    @rule(at=st.integers(0), of_cluster=st.booleans(), for_s=st.sampled_from((1.0, float("inf"))))
    def drain(self, at, of_cluster, for_s) -> None:
        names = list(self.fleet.view.clusters if of_cluster else self.fleet.view.backends)
        self.tell(Drained(names[at % len(names)], self.now_s + for_s))

    @rule(at=st.integers(0))
    def undrain(self, at) -> None:
        names = [*self.fleet.view.clusters, *self.fleet.view.backends]
        self.tell(Undrained(names[at % len(names)]))

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds) -> None:
        self.now_s += seconds
        self.tell(Ticked())

    @rule(made=clusters())
    def reload(self, made) -> None:
        self.tell(FleetConfigured(made, TIERS))

    @invariant()
    def counts_agree(self) -> None:
        running: dict[str, int] = {}
        for lease, _ in self.running:
            backend_id = lease.candidate.backend.id
            running[backend_id] = running.get(backend_id, 0) + 1
        for backend_id, state in self.fleet.view.backends.items():
            assert state.in_flight == self.store.leases_held(backend_id) == running.get(backend_id, 0)

    @invariant()
    def drained_ones_are_in_no_plan(self) -> None:
        view = self.fleet.view
        for model in MODELS:
            plan = plan_route(RequestFacts(model, 7), view, self.now_s)
            if isinstance(plan, Plan):
                for candidate in plan.candidates:
                    assert view.backends[candidate.backend.id].drained_until_s is None
                    assert view.clusters[candidate.cluster].drained_until_s is None

    def teardown(self) -> None:
        for lease, _ in self.running:
            self.settle(lease, Reason.CLIENT_LEFT)
        states = self.fleet.view.backends.values()
        assert all(state.in_flight == 0 for state in states)
        assert all(self.store.leases_held(state.id) == 0 for state in states)


TestGateway = Gateway.TestCase
TestGateway.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
