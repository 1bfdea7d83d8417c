"""Where a request may go, attempt by attempt: the story that the live gateway and the simulator share."""

from __future__ import annotations

from gateway.core.fleet import Drained
from gateway.core.journey import MAX_STALE_PLANS, Journey, waited_in_vain_s
from gateway.core.model import Candidate, Outcome, Plan, Reason, RequestFacts, Shed
from gateway.core.retries import ExtraAttempts
from tests.core.stories import fleet_of, tell

ONE_EACH = {"primary": [("a", 4)], "backup": [("b", 4)], "spot": [("c", 4)]}


def journey_of(fleet, retry_share: float = 0.2, at_least: int = 3, attempts: int = 3) -> Journey:
    extra = ExtraAttempts(retry_share, 0.0, at_least)
    return Journey(RequestFacts("m", 0), fleet.view, extra, attempts, deadline_s=10.0)


def first_of(plan: Plan | Shed | None) -> Candidate:
    assert isinstance(plan, Plan)
    return plan.candidates[0]


def test_each_failure_leads_to_the_next_tier_until_the_attempts_are_spent():
    journey = journey_of(fleet_of(ONE_EACH))
    went = []
    plan = journey.plan_first(0.0)
    while isinstance(plan, Plan):
        went.append(plan.candidates[0].backend.id)
        journey.tried += (plan.candidates[0],)
        plan = journey.plan_retry(Reason.CONNECT_FAILED, 0.0)
    assert went == ["a", "b", "c"]
    assert journey.denied is None


def test_what_is_final_leads_nowhere_and_is_no_question_of_the_budget():
    journey = journey_of(fleet_of(ONE_EACH))
    journey.tried += (first_of(journey.plan_first(0.0)),)
    assert journey.plan_retry(Reason.CLIENT_ERROR, 0.0) is None
    assert journey.denied is None


def test_an_empty_budget_denies_and_says_so_until_it_is_asked_again():
    journey = journey_of(fleet_of(ONE_EACH), retry_share=0.0, at_least=0)
    journey.tried += (first_of(journey.plan_first(0.0)),)
    assert journey.plan_retry(Reason.RESET, 0.0) is None
    assert journey.denied is Reason.RESET
    assert journey.plan_retry(Reason.CLIENT_ERROR, 0.0) is None
    assert journey.denied is None


def test_a_plan_that_a_drain_has_overtaken_is_made_anew_a_few_times_only():
    fleet = fleet_of(ONE_EACH)
    journey = journey_of(fleet)
    planned = first_of(journey.plan_first(0.0))
    assert journey.may_begin(planned, None, 0.0)
    tell(fleet, Drained("a"), at_s=1.0)
    assert not journey.may_begin(planned, None, 1.0)
    assert first_of(journey.plan_anew(None, 1.0)).backend.id == "b"
    for _ in range(MAX_STALE_PLANS - 1):
        assert not journey.is_overtaken
        journey.may_begin(planned, None, 1.0)
    assert not journey.may_begin(planned, None, 1.0)
    assert journey.is_overtaken


def test_an_attempt_that_was_never_sent_was_never_tried():
    journey = journey_of(fleet_of(ONE_EACH))
    first = first_of(journey.plan_first(0.0))
    journey.tried += (first,)
    journey.take_back(first)
    assert journey.tried == ()
    assert first_of(journey.plan_anew(None, 0.0)).backend.id == "a"


def test_no_time_is_left_after_the_deadline():
    journey = journey_of(fleet_of(ONE_EACH))
    journey.tried += (first_of(journey.plan_first(0.0)),)
    assert journey.plan_retry(Reason.RESET, 9.9) is not None
    assert journey.plan_retry(Reason.RESET, 10.0) is None


def test_how_long_nothing_good_came():
    reset, full = Outcome.of(Reason.RESET), Outcome.of(Reason.BACKEND_FULL)
    assert waited_in_vain_s(reset, None, 1.0, None, 4.0) == 3.0
    assert waited_in_vain_s(reset, 503, 1.0, 2.0, 4.0) == 1.0  # begun, and broken before it was whole
    assert waited_in_vain_s(full, 503, 1.0, 2.0, 4.0) is None  # whole: the outcome says it
