"""How a request comes to a lease: the steps of a search, told with a store of a few slots and no clock."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.fleet import Drained, Undrained
from gateway.core.holding import Holding, HoldRules, Waiter
from gateway.core.journey import MAX_STALE_PLANS, Journey
from gateway.core.leasing import Done, Lease, LeaseSearch, Release, Step, TryLease, Wait, may_take_at_once
from gateway.core.model import Plan, Reason, RequestFacts, Shed, ShedReason
from gateway.core.retries import ExtraAttempts
from tests.core.stories import finishes, fleet_of, starts, tell

ONE_EACH = {"primary": [("a", 4)], "backup": [("b", 4)], "spot": [("c", 4)]}
HALF_A_SECOND = HoldRules(max_wait_s=0.5, max_waiting=3)
NOW_S = 10.0


class Story:
    """A primary and two lower tiers, at which slots have come free ten times a second up to NOW_S.

    `said` is what the search has said so far, `out` the leases that are out.
    """

    def __init__(self, room: Mapping[str, int], *, has_pace: bool = True) -> None:
        self.fleet = fleet_of(ONE_EACH)
        if has_pace:
            for backend_id in "abc":
                starts(self.fleet, backend_id, 1, at_s=NOW_S - 2.0)
                for step in range(20):
                    starts(self.fleet, backend_id, 1, at_s=NOW_S - 1.9 + step / 10)
                    finishes(self.fleet, backend_id, 1, at_s=NOW_S - 1.9 + step / 10)
        self.holding = Holding(self.fleet.view)
        self.room = dict(room)
        self.said: list[str] = []
        self.out: list[Lease] = []

    def begins(
        self,
        rules: HoldRules | None = HALF_A_SECOND,
        deadline_s: float = 100.0,
        failed: Reason | None = None,
    ) -> Step:
        """A request at NOW_S, or after an attempt at `a` that `failed`: up to its first wait, or its end."""
        extra = ExtraAttempts()
        self.journey = Journey(RequestFacts("m", 0), self.fleet.view, extra, 3, deadline_s)
        plan = self.journey.plan_first(NOW_S)
        assert isinstance(plan, Plan)
        if failed is not None:
            self.journey.tried = plan.candidates[:1]
        search = LeaseSearch(self.journey, self.holding, rules)
        self.steps = search.steps(plan if failed is None else None, failed, NOW_S)
        return self.goes_on(next(self.steps), NOW_S)

    def goes_on(self, step: Step, now_s: float) -> Step:
        while isinstance(step, TryLease | Release):
            step = self.steps.send((self.answer(step, now_s), now_s))
        match step:
            case Wait(waiter):
                self.said.append("wait " + self.places(waiter))
            case Done(found):
                self.said.append("done")
                assert self.out == ([found] if isinstance(found, Lease) else []), "a slot is lost"
        return step

    def answer(self, step: TryLease | Release, now_s: float) -> Lease | None:
        if isinstance(step, Release):
            self.said.append(f"release {step.lease.candidate.backend.id}")
            self.out.remove(step.lease)
            self.room[step.lease.candidate.backend.id] += 1
            return None
        self.said.append("try " + "".join(c.backend.id for c in step.plan.candidates))
        return self.lease(step.plan)

    def lease(self, plan: Plan) -> Lease | None:
        candidate = next((c for c in plan.candidates if self.room.get(c.backend.id, 0)), None)
        if candidate is None:
            return None
        self.room[candidate.backend.id] -= 1
        self.out.append(Lease(candidate))
        return self.out[-1]

    def is_served(self, waiter: Waiter, backend_id: str, now_s: float) -> Step:
        """A slot of this backend comes free: it is leased for the waiter, who goes on."""
        self.room[backend_id] = 1
        found = self.holding.next_for(backend_id)
        assert found is not None and found[0] is waiter
        lease = self.lease(Plan(found[1:], ""))
        self.holding.leave(waiter, now_s, was_served=True)
        return self.goes_on(self.steps.send((lease, now_s)), now_s)

    def waits_in_vain(self, waiter: Waiter, now_s: float) -> Step:
        assert waiter in self.holding.due(now_s)
        return self.goes_on(self.steps.send((None, now_s)), now_s)

    def is_told_of_change(self, now_s: float) -> Step:
        assert len(self.holding.stale(now_s)) == 1
        return self.goes_on(self.steps.send((None, now_s)), now_s)

    @staticmethod
    def places(waiter: Waiter) -> str:
        return "".join(candidate.backend.id for candidate in waiter.candidates)


def waiting(step: Step) -> Waiter:
    assert isinstance(step, Wait)
    assert step.waiter.is_waiting
    return step.waiter


def served_at(step: Step) -> str:
    assert isinstance(step, Done) and isinstance(step.found, Lease), step
    return step.found.candidate.backend.id


def test_a_slot_of_the_best_tier_is_taken_and_nobody_else_is_asked():
    story = Story({"a": 1, "b": 1})
    assert served_at(story.begins()) == "a"
    assert story.said == ["try a", "done"]
    assert story.journey.hold is None


def test_while_a_lower_tier_has_room_it_gives_that_back_and_waits_for_the_best():
    story = Story({"b": 1})
    waiter = waiting(story.begins())
    assert story.said == ["try a", "try bc", "release b", "wait a"]
    assert story.room["b"] == 1, "whoever comes meanwhile may have it"
    assert served_at(story.is_served(waiter, "a", NOW_S + 0.2)) == "a"
    assert story.journey.hold.held_s == pytest.approx(0.2)


def test_where_nobody_has_room_it_waits_for_any():
    story = Story({})
    waiter = waiting(story.begins())
    assert story.said == ["try a", "try bc", "wait abc"]
    assert served_at(story.is_served(waiter, "c", NOW_S + 0.1)) == "c"


def test_after_a_wait_in_vain_the_same_tier_is_not_asked_again():
    story = Story({"b": 1})
    waiter = waiting(story.begins())
    story.room["a"] = 1  # too late: it has come free for somebody else
    assert served_at(story.waits_in_vain(waiter, NOW_S + 0.5)) == "b"
    assert story.said[4:] == ["try bc", "done"]


def test_after_a_wait_in_vain_a_tier_that_has_become_the_best_is_asked():
    story = Story({"b": 1})
    waiter = waiting(story.begins())
    tell(story.fleet, Drained("primary"), at_s=NOW_S + 0.4)
    assert served_at(story.waits_in_vain(waiter, NOW_S + 0.5)) == "b"
    assert story.said[4:] == ["try b", "done"]


def test_nowhere_a_slot_in_time_is_the_end():
    story = Story({})
    waiter = waiting(story.begins())
    assert story.waits_in_vain(waiter, NOW_S + 0.5) == Done(None)
    assert story.journey.is_hold_over(NOW_S + 0.5)
    assert not story.journey.is_hold_over(NOW_S + 0.4)


def test_without_hope_it_takes_what_it_was_offered():
    story = Story({"b": 1}, has_pace=False)
    assert served_at(story.begins()) == "b"
    assert story.said == ["try a", "try bc", "done"], "and it was not given back between"
    nowhere = Story({}, has_pace=False)
    assert nowhere.begins() == Done(None)
    assert not nowhere.journey.is_hold_over(NOW_S), "it has not waited"


def test_no_wait_is_longer_than_its_deadline():
    waiter = waiting(Story({}).begins(deadline_s=NOW_S + 0.3))
    assert waiter.until_s == NOW_S + 0.3


def test_nobody_takes_a_slot_that_somebody_waits_for():
    story = Story({"b": 1})
    waiting(story.begins())
    story.room["a"] = 1  # and the one who waits has not been served yet
    waiting(story.begins())
    assert story.said[4:] == ["try bc", "release b", "wait a"]


def test_a_change_of_the_fleet_ends_the_wait_and_not_its_time():
    story = Story({})
    waiting(story.begins())
    tell(story.fleet, Drained("primary"), at_s=NOW_S + 0.2)
    again = waiting(story.is_told_of_change(NOW_S + 0.2))
    assert (story.places(again), again.until_s) == ("bc", NOW_S + 0.5)
    tell(story.fleet, Undrained("primary"), at_s=NOW_S + 0.3)
    waiting(story.is_told_of_change(NOW_S + 0.3))
    assert story.journey.hold.held_s == pytest.approx(0.3), "both together"


def test_when_all_have_gone_who_waits_is_refused():
    story = Story({})
    waiting(story.begins())
    tell(story.fleet, *map(Drained, ONE_EACH), at_s=NOW_S + 0.2)
    assert story.is_told_of_change(NOW_S + 0.2) == Done(Shed(ShedReason.NO_BACKEND))


def test_a_slot_of_a_backend_that_was_drained_meanwhile_goes_back():
    story = Story({"b": 1})
    waiter = waiting(story.begins())
    tell(story.fleet, Drained("primary"), at_s=NOW_S + 0.1)
    assert served_at(story.is_served(waiter, "a", NOW_S + 0.1)) == "b"
    assert story.said[4:] == ["release a", "try b", "done"]


def test_it_gives_up_when_each_plan_is_stale():
    story = Story({"a": 1})
    story.fleet.view.admits = lambda candidate: False
    assert story.begins() == Done(None)
    assert story.said == ["try a", "release a"] * (MAX_STALE_PLANS + 1) + ["done"]


def test_who_has_failed_once_or_may_not_wait_takes_what_there_is():
    story = Story({"a": 1, "c": 1})
    assert served_at(story.begins(failed=Reason.RESET)) == "c"
    assert story.said == ["try bc", "done"]
    impatient = Story({"c": 1})
    assert served_at(impatient.begins(rules=None)) == "c"
    assert impatient.said == ["try abc", "done"]


def test_an_attempt_whose_failure_is_final_is_the_last():
    story = Story({"b": 1})
    assert story.begins(failed=Reason.CLIENT_ERROR) == Done(None)
    assert story.said == ["done"]


def test_at_once_only_the_best_tier_is_good_enough_for_who_may_wait():
    plan = Journey(RequestFacts("m", 0), fleet_of(ONE_EACH).view, ExtraAttempts(), 3, 1.0).plan_first(0.0)
    assert isinstance(plan, Plan)
    first, second, _ = plan.candidates
    assert may_take_at_once(first, plan, HALF_A_SECOND)
    assert not may_take_at_once(second, plan, HALF_A_SECOND)
    assert may_take_at_once(second, plan, None)


CHANGES = st.sampled_from(
    [Drained("primary"), Undrained("primary"), Drained("backup"), Undrained("backup"), Drained("spot")]
)
WAKINGS = st.tuples(st.floats(0.01, 0.3), st.sampled_from(["served", "told", "nothing"]), CHANGES)


@given(st.fixed_dictionaries(dict.fromkeys("abc", st.integers(0, 1))), st.lists(WAKINGS, max_size=8))
def test_whatever_happens_no_slot_is_lost_and_no_wait_is_too_long(room, wakings):
    story = Story(room)
    step, now_s = story.begins(), NOW_S
    for after_s, how, change in wakings:
        if isinstance(step, Done):
            break
        waiter = waiting(step)
        assert waiter.until_s == NOW_S + 0.5
        now_s = min(now_s + after_s, waiter.until_s)
        tell(story.fleet, change, at_s=now_s)
        if now_s == waiter.until_s:
            step = story.waits_in_vain(waiter, now_s)
            assert isinstance(step, Done), "once its time is over it waits no more"
        elif how == "served":
            step = story.is_served(waiter, waiter.candidates[-1].backend.id, now_s)
        elif how == "told" and story.holding.stale(now_s):
            step = story.goes_on(story.steps.send((None, now_s)), now_s)
    assert story.holding.count == isinstance(step, Wait)
    assert isinstance(step, Done) or not story.out, "who waits holds no slot"
