"""Who may wait for a slot, who gets the next one, and how a wait ends: stories with time as an argument."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.fleet import AttemptFinished, Drained, Ticked, Undrained
from gateway.core.holding import (
    CALM_S,
    SURGE_S,
    Choice,
    Holding,
    HoldRules,
    Waiter,
    best_tier,
    predicted_wait_s,
    wanted,
)
from gateway.core.model import Outcome, Reason, RequestFacts
from gateway.core.routing import plan_route
from tests.core.stories import cluster_of, drops, finishes, fleet_with, starts, tell

RULES = HoldRules(max_wait_s=0.5, max_waiting=3)
FACTS = RequestFacts("m", 0)


class Story:
    """A primary of two backends and a backup; slots come free at the primary as told."""

    def __init__(self) -> None:
        self.fleet = fleet_with(
            cluster_of("here", ("a", 2), ("b", 2)), cluster_of("there", ("c", 2), tier="backup")
        )
        self.holding = Holding(self.fleet.view)

    def frees(self, backend_id: str, every_s: float, until_s: float) -> None:
        """It has always had work, and has ended one each `every_s`, the last at `until_s`."""
        starts(self.fleet, backend_id, 1, at_s=until_s - 20 * every_s)
        for step in range(20):
            at_s = until_s - (19 - step) * every_s
            starts(self.fleet, backend_id, 1, at_s=at_s)
            finishes(self.fleet, backend_id, at_s=at_s)

    def waiter(self, now_s: float, wait_s: float = 0.5, *only: str) -> Waiter:
        plan = plan_route(FACTS, self.fleet.view, now_s)
        seats = best_tier(plan)[0]
        return Waiter(FACTS, [c for c in seats if not only or c.backend.id in only], now_s + wait_s)

    def choice(self, now_s: float, wait_s: float = 0.5, rules: HoldRules = RULES) -> Choice:
        """Who is told to hold joins the queue."""
        waiter = self.waiter(now_s, wait_s)
        choice = self.holding.choose(waiter, rules, now_s)
        if choice is Choice.HOLD:
            self.holding.join(waiter, now_s)
        return choice

    def joins(self, now_s: float, wait_s: float = 0.5, *only: str) -> Waiter:
        waiter = self.waiter(now_s, wait_s, *only)
        self.holding.join(waiter, now_s)
        return waiter

    def serves(self, backend_id: str, now_s: float) -> Waiter | None:
        found = self.holding.next_for(backend_id)
        if found is None:
            return None
        assert found[1].backend.id == backend_id
        assert self.holding.leave(found[0], now_s, was_served=True)
        return found[0]


def test_nobody_waits_where_nothing_has_ever_come_free():
    assert Story().choice(now_s=0.0) is Choice.NO_PACE


def test_it_waits_while_a_slot_is_likely_in_time_and_not_behind_too_many():
    story = Story()
    story.frees("a", every_s=0.2, until_s=10.0)
    rules = HoldRules(0.5, 100)
    choices = [story.choice(10.0, rules=rules) for _ in range(12)]
    assert choices.index(Choice.TOO_LONG) == 7  # 2.5 are expected in half a second, with luck 7
    assert story.holding.count == 7


def test_two_backends_free_twice_the_slots():
    one, two = Story(), Story()
    one.frees("a", 0.2, 10.0)
    two.frees("a", 0.2, 10.0)
    two.frees("b", 0.2, 10.0)
    rules = HoldRules(0.5, 100)
    held = [[story.choice(10.0, rules=rules) for _ in range(30)].count(Choice.HOLD) for story in (one, two)]
    assert held == [7, 11]


def test_the_pace_falls_as_soon_as_nothing_comes_free_any_more():
    story = Story()
    story.frees("a", 0.01, until_s=10.0)
    assert story.choice(10.0, wait_s=0.05) is Choice.HOLD
    story.holding.due(40.0)
    assert story.choice(40.0, wait_s=0.05) is Choice.TOO_LONG


def test_a_backend_that_says_it_is_full_has_no_pace():
    story = Story()
    story.frees("a", 0.01, until_s=10.0)
    full = AttemptFinished("a", Outcome.of(Reason.BACKEND_FULL), retry_after_s=3.0)
    story.fleet.apply(full, 10.0)
    assert story.choice(10.5) is Choice.NO_PACE
    assert story.choice(13.5) is Choice.HOLD


def test_the_queue_is_bounded():
    story = Story()
    story.frees("a", 0.001, until_s=10.0)
    assert [story.choice(10.0) for _ in range(4)] == [Choice.HOLD] * 3 + [Choice.CROWDED]
    story.serves("a", 10.01)
    assert story.choice(10.01) is Choice.HOLD


def test_the_first_to_end_is_served_first_then_the_first_to_come():
    story = Story()
    slow, first, second = story.joins(0.0, 0.5), story.joins(0.1, 0.2), story.joins(0.1, 0.2)
    assert [story.serves("a", 0.2) for _ in range(4)] == [first, second, slow, None]


def test_a_slot_goes_to_the_first_of_all_queues_that_may_use_it():
    story = Story()
    only_b, both = story.joins(0.0, 0.4, "b"), story.joins(0.1, 0.4)
    assert story.serves("a", 0.2) is both
    assert story.serves("a", 0.2) is None
    later = story.joins(0.2, 0.5)
    assert [story.serves("b", 0.3), story.serves("b", 0.3)] == [only_b, later]


def test_nobody_takes_a_slot_that_somebody_waits_for():
    story = Story()
    seats = story.waiter(0.0).candidates
    waiter = story.joins(0.0, 0.5, "b")
    assert [c.backend.id for c in story.holding.unwanted(seats)] == ["a"]
    probes = [replace(c, is_probe=True) for c in seats]
    assert len(story.holding.unwanted(probes)) == 2, "a probe takes the permit that nobody waits for"
    story.holding.leave(waiter, 0.1)
    assert len(story.holding.unwanted(seats)) == 2


def test_waits_end_in_order_and_each_only_once():
    story = Story()
    late, early, gone = story.joins(0.0, 0.5), story.joins(0.0, 0.3), story.joins(0.0, 0.1)
    assert story.holding.leave(gone, 0.05)
    assert not story.holding.leave(gone, 0.05), "leaving twice is the same as once"
    assert story.holding.next_due_s == 0.3
    assert story.holding.due(0.2) == []
    assert story.holding.due(0.6) == [early, late]
    assert (story.holding.count, story.holding.next_due_s, story.serves("a", 0.6)) == (0, None, None)


def test_a_surge_is_not_held_and_is_over_when_nobody_comes():
    story = Story()
    story.frees("a", 0.1, until_s=0.0)
    now_s, choices = 0.0, []
    while now_s < 2 * SURGE_S:  # twice as many come as are served
        story.frees("a", 0.1, until_s=now_s)
        choices += [story.choice(now_s, rules=HoldRules(0.5, 100)) for _ in range(2)]
        story.serves("a", now_s)
        story.holding.due(now_s)
        now_s += 0.1
    assert Choice.SURGE not in choices[:190]
    assert set(choices[210:]) == {Choice.SURGE}
    assert story.holding.count == 0, "who waits when a surge is seen is still served"
    now_s += CALM_S + 0.1
    story.frees("a", 0.1, until_s=now_s)
    assert story.choice(now_s) is Choice.HOLD


def test_a_queue_that_empties_now_and_then_is_no_surge():
    story = Story()
    choices = []
    for step in range(300):
        now_s = step * 0.1
        story.frees("a", 0.05, until_s=now_s)
        choices += [story.choice(now_s), story.choice(now_s)]
        while story.serves("a", now_s) is not None:
            pass
    assert set(choices) == {Choice.HOLD}


def test_queues_without_anybody_are_forgotten():
    story = Story()
    story.frees("a", 0.1, until_s=0.0)
    story.choice(0.0)
    story.holding.forget_queues(1000.0)
    assert story.serves("a", 1000.0) is not None
    story.holding.forget_queues(1000.0)
    assert "0 in 0 queues" in repr(story.holding)


def test_only_those_whose_plan_is_another_one_stop_waiting_when_the_fleet_changes():
    story = Story()
    plan = plan_route(FACTS, story.fleet.view, 0.0)
    narrow, wide = (
        Waiter(FACTS, wanted(plan, is_wide=is_wide), 0.5, is_wide=is_wide) for is_wide in (False, True)
    )
    story.holding.join(narrow, 0.0)
    story.holding.join(wide, 0.0)
    tell(story.fleet, Drained("there"), Undrained("there"), at_s=0.1)
    assert story.holding.stale(0.1) == [], "all is as it was"
    story.fleet.apply(Drained("there"), 0.1)
    assert story.holding.stale(0.1) == [wide]
    assert (narrow.is_waiting, wide.is_waiting, story.holding.stale(0.1)) == (True, False, [])
    story.fleet.apply(Drained("here"), 0.2)
    assert story.holding.stale(0.2) == [narrow], "there is no plan at all"


def test_nobody_waits_to_be_a_probe():
    story = Story()
    drops(story.fleet, "b", 5)
    tell(story.fleet, Ticked(0), at_s=5.0)
    plan = plan_route(FACTS, story.fleet.view, 5.0)
    assert [c.backend.id for c in plan.candidates if c.is_probe] == ["b"]
    waiter = Waiter(FACTS, wanted(plan, is_wide=True), 5.5, is_wide=True)
    assert {c.backend.id for c in waiter.candidates} == {"a", "c"}
    story.holding.join(waiter, 5.0)
    tell(story.fleet, Drained("there"), Undrained("there"), at_s=5.1)
    assert story.holding.stale(5.1) == [], "nor for another reason"


@pytest.mark.parametrize(("ahead", "per_s"), [(0, 1.0), (3, 5.0), (50, 100.0)])
def test_the_prediction_is_the_earliest_time_that_chance_allows(ahead, per_s):
    expected = predicted_wait_s(ahead, per_s) * per_s
    assert expected + 3 * expected**0.5 == pytest.approx(ahead + 1)
    assert predicted_wait_s(ahead, 0.0) == float("inf")
