"""Which answers are tried elsewhere, what a status says, and how much trying again the fleet can bear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Outcome, PlanReason, Reason, RequestFacts, Verdict
from gateway.core.retries import (
    Budget,
    ExtraAttempts,
    hedge_delay_s,
    may_succeed_elsewhere,
    plan_again,
    reason_of_status,
)
from tests.core.stories import answers, drops, fleet_of, plan

RETRYABLE = {429, 500, 502, 503, 504}


def test_only_full_and_broken_answers_are_tried_elsewhere():
    assert {status for status in range(100, 600) if may_succeed_elsewhere(status)} == RETRYABLE


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (200, Reason.COMPLETED),
        (204, Reason.COMPLETED),
        (304, Reason.COMPLETED),
        (399, Reason.COMPLETED),
        (400, Reason.CLIENT_ERROR),
        (404, Reason.CLIENT_ERROR),
        (422, Reason.CLIENT_ERROR),
        (499, Reason.CLIENT_ERROR),
        (429, Reason.BACKEND_FULL),
        (503, Reason.BACKEND_FULL),
        (500, Reason.SERVER_ERROR),
        (501, Reason.SERVER_ERROR),
        (502, Reason.SERVER_ERROR),
        (504, Reason.SERVER_ERROR),
        (599, Reason.SERVER_ERROR),
    ],
)
def test_what_a_status_says(status, reason):
    assert reason_of_status(status) is reason


def test_a_callers_error_is_final_and_teaches_nothing():
    for status in set(range(400, 500)) - RETRYABLE:
        assert not may_succeed_elsewhere(status)
        assert Outcome.of(reason_of_status(status)).verdict is Verdict.IGNORED


def test_whatever_is_tried_elsewhere_was_no_success():
    for status in RETRYABLE:
        assert Outcome.of(reason_of_status(status)).verdict is not Verdict.SUCCESS


# --- budgets -----------------------------------------------------------------------------------------


def test_a_quiet_gateway_may_still_retry_three_times_in_ten_seconds():
    budget = Budget(0.2, at_least=3)
    for _ in range(3):
        assert budget.allows(0.0)
        budget.spend(0.0)
    assert not budget.allows(9.5)
    assert budget.allows(10.5), "ten seconds later they are forgotten"


def test_a_fifth_of_the_exchanges_and_not_one_more():
    budget = Budget(0.2, at_least=3)
    spent = 0
    for number in range(100):
        budget.exchange_began(number * 0.05)
        if budget.allows(number * 0.05):
            budget.spend(number * 0.05)
            spent += 1
    assert spent == 20


def test_hedges_are_a_twentieth_and_none_without_traffic():
    extra = ExtraAttempts()
    assert not extra.may_hedge(0.0)
    hedged = 0
    for number in range(200):
        extra.exchange_began(number * 0.01)
        if extra.may_hedge(number * 0.01):
            extra.hedged(number * 0.01)
            hedged += 1
    assert hedged == 10


def test_retries_leave_nothing_for_hedges_when_they_have_spent_it_all():
    extra = ExtraAttempts()
    for _ in range(100):
        extra.exchange_began(0.0)
    assert extra.may_hedge(0.0)
    for _ in range(20):
        assert extra.may_retry(0.0)
        extra.retried(0.0)
    assert not extra.may_hedge(0.0) and not extra.may_retry(0.0)


@given(
    gaps_s=st.lists(st.floats(0, 3) | st.just(0.0) | st.floats(5, 30), min_size=1, max_size=300),
    attempts=st.integers(1, 4),
)
def test_a_full_outage_multiplies_the_load_by_at_most_a_fifth_and_the_minimum(gaps_s, attempts):
    """Every attempt fails and every request tries as often as it may."""
    extra, now_s, upstream = ExtraAttempts(), 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        extra.exchange_began(now_s)
        upstream += 1
        for number in range(attempts):
            if number % 2 == 0 and extra.may_retry(now_s):
                extra.retried(now_s)
                upstream += 1
            elif number % 2 == 1 and extra.may_hedge(now_s):
                extra.hedged(now_s)
                upstream += 1
    # The window holds at least nine seconds.
    assert upstream <= 1.2 * len(gaps_s) + 3 * (now_s // 9 + 1)


# --- where to, and whether there is time -------------------------------------------------------------

TWO_TIERS = {"primary": [("a1", 4), ("a2", 4)], "backup": [("b1", 4)]}


def again(fleet, *tried: str, at_s: float = 0.0, left_s: float = 60.0) -> list[str] | None:
    candidates = [c for c in plan(fleet, at_s=0.0).candidates if c.backend.id in tried]
    found = plan_again(RequestFacts(None, 0), fleet.view, candidates, at_s, left_s)
    return None if found is None else [c.backend.id for c in found.candidates]


def test_never_the_same_backend_again_and_tried_tiers_last():
    fleet = fleet_of(TWO_TIERS)
    assert again(fleet, "a1") == ["b1", "a2"]
    assert again(fleet, "a1", "b1") == ["a2"]
    assert again(fleet, "b1") in (["a1", "a2"], ["a2", "a1"])
    assert again(fleet, "a1", "a2", "b1") is None


def test_the_second_plan_says_why():
    fleet = fleet_of(TWO_TIERS)
    tried = [c for c in plan(fleet).candidates if c.backend.id == "a1"]
    found = plan_again(RequestFacts(None, 0), fleet.view, tried, 0.0, 60.0)
    assert {c.reason for c in found.candidates} == {PlanReason.FAILED}


def test_a_circuit_that_opened_meanwhile_is_not_in_the_second_plan():
    fleet = fleet_of(TWO_TIERS)
    first = plan(fleet).candidates
    drops(fleet, "b1", 5)
    found = plan_again(RequestFacts(None, 0), fleet.view, first[:1], 0.0, 60.0)
    assert [c.backend.id for c in found.candidates] == [first[1].backend.id]


def test_no_attempt_that_cannot_finish():
    fleet = fleet_of(TWO_TIERS)
    for _ in range(20):
        answers(fleet, "a2", ttft_s=2.0)
        answers(fleet, "b1", ttft_s=0.2)
    assert again(fleet, "a1", left_s=5.0) == ["b1", "a2"]
    assert again(fleet, "a1", left_s=1.0) == ["b1"]
    assert again(fleet, "a1", left_s=0.1) is None
    assert again(fleet, left_s=0.1) == ["a1"], "of it nothing is known"
    assert again(fleet, left_s=0.0) is None


def test_a_second_attempt_starts_at_the_p95():
    fleet = fleet_of(TWO_TIERS)
    backend = fleet.view.backends["a1"]
    assert hedge_delay_s(backend, 0.0) is None
    for number in range(100):
        answers(fleet, "a1", ttft_s=0.1 if number < 94 else 3.0, at_s=0.0)
    assert hedge_delay_s(backend, 1.0) == pytest.approx(3.0, rel=0.19)
    assert backend.digest.quantile_s(0.5, 1.0) == pytest.approx(0.1, rel=0.19)


def test_who_has_not_answered_for_a_minute_is_hedged_by_what_was_known_of_it():
    """A slow backend whose clients give up, or whose answers are overtaken, has no first bytes to tell of."""
    fleet = fleet_of(TWO_TIERS)
    backend = fleet.view.backends["a1"]
    for _ in range(100):
        answers(fleet, "a1", ttft_s=0.2, at_s=0.0)
    known_s = hedge_delay_s(backend, 1.0)
    assert known_s == pytest.approx(0.2, rel=0.19)
    assert backend.digest.quantile_s(0.95, 90.0) is None
    assert hedge_delay_s(backend, 90.0) == known_s
    for _ in range(20):
        answers(fleet, "a1", ttft_s=2.0, at_s=91.0)
    assert hedge_delay_s(backend, 92.0) == pytest.approx(2.0, rel=0.19), "it is as slow as it is now"
