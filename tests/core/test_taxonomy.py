"""The fault taxonomy: every way to end has its row, and the rows agree with each other."""

from __future__ import annotations

import pytest

from gateway.core.taxonomy import LESSONS, STATUS_RULES, Reason, Verdict, may_move, reason_of_status


def test_every_reason_has_a_row():
    assert set(LESSONS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_what_moves_on_was_no_success_and_no_fault_of_the_caller(reason):
    lesson = LESSONS[reason]
    if lesson.may_move:
        assert lesson.verdict is Verdict.DROPPED or reason is Reason.BACKEND_FULL
        assert not lesson.is_late, "nothing is repeated after the first byte"


@pytest.mark.parametrize("reason", Reason)
def test_what_breaks_before_the_first_byte_moves_on(reason):
    lesson = LESSONS[reason]
    if lesson.verdict is Verdict.DROPPED and not lesson.is_late:
        assert may_move(reason)


@pytest.mark.parametrize("reason", [Reason.CLIENT_ERROR, Reason.CLIENT_LEFT, Reason.REFUSED, Reason.SHUTDOWN])
def test_what_is_nobodys_fault_upstream_is_final_and_teaches_nothing(reason):
    assert (LESSONS[reason].verdict, may_move(reason)) == (Verdict.IGNORED, False)


def test_only_a_full_backend_cuts_its_limit_and_it_is_never_dropped_for_that():
    cutting = [reason for reason in Reason if LESSONS[reason].cuts_limit]
    assert cutting == [Reason.BACKEND_FULL]
    assert LESSONS[Reason.BACKEND_FULL].verdict is Verdict.IGNORED


@pytest.mark.parametrize("status", range(100, 600))
def test_a_status_and_its_reason_agree_on_moving_on(status):
    rule = next(rule for rule in STATUS_RULES if status in rule.statuses)
    assert rule.reason is reason_of_status(status)
    assert may_move(rule.reason) or not rule.may_move, "a status moves on only if its reason may"
