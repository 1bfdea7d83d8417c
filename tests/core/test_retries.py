"""Which answers are tried elsewhere, and what a status says about its backend."""

from __future__ import annotations

import pytest

from gateway.core.model import Outcome, Reason, Verdict
from gateway.core.retries import may_succeed_elsewhere, reason_of_status

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
