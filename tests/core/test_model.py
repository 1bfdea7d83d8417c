"""The words of the core."""

from __future__ import annotations

import pytest

from gateway.core.model import SUCCESS, Backend, Outcome, Reason, ShedReason, Verdict

VERDICTS = {
    Reason.COMPLETED: Verdict.SUCCESS,
    Reason.CLIENT_ERROR: Verdict.IGNORED,
    Reason.CLIENT_LEFT: Verdict.IGNORED,
    Reason.REFUSED: Verdict.IGNORED,
    Reason.BACKEND_FULL: Verdict.IGNORED,
    Reason.SHUTDOWN: Verdict.IGNORED,
    Reason.CONNECT_FAILED: Verdict.DROPPED,
    Reason.CONNECT_TIMEOUT: Verdict.DROPPED,
    Reason.RESET: Verdict.DROPPED,
    Reason.SERVER_ERROR: Verdict.DROPPED,
    Reason.FIRST_BYTE_TIMEOUT: Verdict.DROPPED,
    Reason.STALL_TIMEOUT: Verdict.DROPPED,
    Reason.TOTAL_TIMEOUT: Verdict.DROPPED,
    Reason.TRUNCATED: Verdict.DROPPED,
    Reason.BAD_RESPONSE: Verdict.DROPPED,
    Reason.OVERTAKEN: Verdict.IGNORED,
    Reason.HUNG: Verdict.DROPPED,
}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_verdict(reason):
    outcome = Outcome.of(reason)
    assert (outcome.verdict, outcome.reason) == (VERDICTS[reason], reason)


@pytest.mark.parametrize("reason", Reason)
def test_there_is_one_outcome_for_each_reason(reason):
    assert Outcome.of(reason) is Outcome.of(reason)


def test_success_is_one_object():
    assert Outcome.of(Reason.COMPLETED) is SUCCESS


def test_the_words_that_people_see_stay_as_they_are():
    assert [verdict.value for verdict in Verdict] == ["success", "ignored", "dropped"]
    assert {reason.value for reason in ShedReason} == {
        "no_capacity",
        "queue_timeout",
        "no_backend",
        "model_not_found",
        "residency_unavailable",
    }


@pytest.mark.parametrize("limit", [0, -1])
def test_a_backend_has_at_least_one_slot(limit):
    with pytest.raises(ValueError, match="limit must be at least 1"):
        Backend("a", "http://a", limit)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_backend_has_a_weight(weight):
    with pytest.raises(ValueError, match="weight must be above 0"):
        Backend("a", "http://a", 1, weight)
