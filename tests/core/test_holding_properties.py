"""Whoever comes, leaves, is served or fails in any order: every wait ends once, in order, within bounds."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.holding import Choice, Holding, HoldRules, Waiter
from gateway.core.model import Candidate, PlanReason, RequestFacts
from tests.core.stories import backends_of, cluster_of, finishes, fleet_with, starts

IDS = ("a", "b", "c")
LIMITS = {"a": 1, "b": 2, "c": 3}
SEATS = {
    backend.id: Candidate(backend, "here", "primary", PlanReason.FIRST_CHOICE)
    for backend in backends_of(*LIMITS.items())
}
RULES = HoldRules(0.5, 4)
FACTS = RequestFacts("m", 0)
PLACES = st.sets(st.sampled_from(IDS), min_size=1)
ANY = st.integers(0, 2**16)


class WaitingRequests(RuleBasedStateMachine):
    """Requests for some of three backends: each takes a slot that nobody waits for, or waits, or goes away.

    The driver leases a slot for the first waiter inside the release, as the live one and the simulated do.
    """

    def __init__(self) -> None:
        super().__init__()
        fleet = fleet_with(cluster_of("here", *LIMITS.items()))
        for backend_id in IDS:
            for step in range(20):
                starts(fleet, backend_id, 1, at_s=-1 + step * 0.05)
                finishes(fleet, backend_id, 1, at_s=-1 + step * 0.05 + 0.01)
        self.holding = Holding(fleet.view)
        self.now_s = 0.0
        self.held = dict.fromkeys(IDS, 0)
        self.waiting: list[Waiter] = []
        self.ended: list[Waiter] = []

    def lease(self, backend_id: str) -> bool:
        if self.held[backend_id] >= LIMITS[backend_id]:
            return False
        self.held[backend_id] += 1
        return True

    def ends(self, waiter: Waiter) -> None:
        assert waiter not in self.ended, "ended twice"
        self.waiting.remove(waiter)
        self.ended.append(waiter)

    @rule(places=PLACES, wait_s=st.sampled_from((0.1, 0.3, 0.5)))
    def request(self, places, wait_s) -> None:
        seats = [SEATS[backend_id] for backend_id in sorted(places)]
        if any(self.lease(seat.backend.id) for seat in self.holding.unwanted(seats)):
            return
        waiter = Waiter(FACTS, seats, self.now_s + wait_s)
        if self.holding.choose(waiter, RULES, self.now_s) is Choice.HOLD:
            self.holding.join(waiter, self.now_s)
            self.waiting.append(waiter)

    @precondition(lambda self: any(self.held.values()))
    @rule(at=ANY)
    def a_slot_comes_free(self, at) -> None:
        busy = [backend_id for backend_id in IDS if self.held[backend_id]]
        backend_id = busy[at % len(busy)]
        self.held[backend_id] -= 1
        able = [w for w in self.waiting if any(c.backend.id == backend_id for c in w.candidates)]
        served = 0
        while (found := self.holding.next_for(backend_id)) is not None and self.lease(backend_id):
            waiter, seat = found
            assert seat.backend.id == backend_id
            assert waiter is min(able, key=lambda w: (w.until_s, w.order)), "somebody was overtaken"
            assert self.holding.leave(waiter, self.now_s, was_served=True)
            self.ends(waiter)
            served += 1
        assert served == min(len(able), 1), "one slot wakes one"

    @precondition(lambda self: self.waiting)
    @rule(at=ANY)
    def a_client_leaves(self, at) -> None:
        waiter = self.waiting[at % len(self.waiting)]
        assert self.holding.leave(waiter, self.now_s)
        assert not self.holding.leave(waiter, self.now_s)
        self.ends(waiter)

    @rule(seconds=st.sampled_from((0.001, 0.05, 0.2, 3.0)))
    def time_passes(self, seconds) -> None:
        self.now_s += seconds
        over = self.holding.due(self.now_s)
        assert over == sorted(over, key=lambda waiter: (waiter.until_s, waiter.order))
        for waiter in over:
            self.ends(waiter)

    @rule()
    def the_fleet_changes(self) -> None:
        self.holding.forget_queues(self.now_s)

    @invariant()
    def everybody_is_known_and_in_time(self) -> None:
        assert self.holding.count == len(self.waiting)
        assert set(self.holding.everybody()) == set(self.waiting)
        assert all(waiter.is_waiting and waiter.until_s > self.now_s for waiter in self.waiting)
        assert not any(waiter.is_waiting for waiter in self.ended)
        assert sum(waiting for _, waiting, _ in self.holding.standing()) == len(self.waiting)

    @invariant()
    def queues_are_bounded(self) -> None:
        assert all(waiting <= RULES.max_waiting for _, waiting, _ in self.holding.standing())

    @invariant()
    def no_slot_is_free_that_somebody_waits_for(self) -> None:
        for waiter in self.waiting:
            ids = [candidate.backend.id for candidate in waiter.candidates]
            assert all(self.held[backend_id] == LIMITS[backend_id] for backend_id in ids)


TestWaitingRequests = WaitingRequests.TestCase
