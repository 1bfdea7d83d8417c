"""A line of the access log says in words what became of its request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.model import Outcome, Reason
from gateway.ports import Hedged, RequestRecord, Retry
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.log_words import BadLine, explain_line

Record = Callable[..., RequestRecord]


class Lines:
    dropped = 0

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.written.append(line)


def told(record: RequestRecord) -> str:
    """Through the very line that the log writes."""
    lines = Lines()
    AccessLog(lines, lambda: 0.0).record(record)  # type: ignore[arg-type]
    return "\n".join(explain_line(lines.written[0].decode()).sentences)


def test_a_request_to_the_preferred_tier(record: Record) -> None:
    assert told(record()) == (
        "req-1: POST /v1/chat/completions for llama-3-8b (by the rule llama-*), "
        "ended 1970-01-01T00:00:00.000Z.\n"
        "It went to here@10.0.0.1:8000, cluster here, tier primary.\n"
        "That is the tier where it would best run.\n"
        "The client got 200 (first byte after 40.0 ms, 0.1 ms of it not at that backend; "
        "all after 300.0 ms). Outcome success: completed."
    )


def test_a_spilled_one_says_what_was_so_above(record: Record) -> None:
    words = told(record(tier="spot", spill_reason="full", passed_over="primary: 2 full; backup: 1 drained"))
    assert "Why not the preferred tier primary (full): it had no free slot." in words
    assert (
        "When its first attempt began, these backends did not serve it: primary: 2 full; backup: 1 drained."
        in words
    )


def test_attempts_that_failed_are_named(record: Record) -> None:
    retries = (Retry("here", Reason.RESET), Retry("there", Reason.HUNG))
    words = told(record(tier="spot", spill_reason="failed", attempts=3, retries=retries))
    assert (
        "3 attempts. Before the last one failed: here by reset (closed or reset before the first body byte);"
        in words
    )
    assert "there by hung (no byte on any exchange" in words
    words = told(record(denied_retry=Retry("here", Reason.CONNECT_TIMEOUT), hedge=Hedged("there", "lost")))
    assert "nothing followed this failure: here by connect_timeout (no connection in time)." in words
    assert "A second attempt ran beside the first, in there, and lost." in words


def test_a_failure_of_the_gateway_s_own_words_is_not_taken_for_an_answer(record: Record) -> None:
    failed = {"status": 502, "error_code": "upstream_unreachable", "outcome": Outcome.of(Reason.SERVER_ERROR)}
    words = told(record(**failed, ttft_s=None))
    assert "Nobody else could try" in words
    assert words.endswith("Outcome dropped: server_error, no backend could be reached.")


def test_a_refusal_says_why_no_tier_served(record: Record) -> None:
    nobody = {"cluster": "", "tier": "", "backend": "", "attempts": 0, "ttft_s": None, "status": 429}
    refused = record(
        **nobody, error_code="no_capacity", outcome=Outcome.of(Reason.REFUSED), passed_over="primary: 1 full"
    )
    words = told(refused)
    assert (
        "No backend was tried. It was refused with no_capacity: every backend that may serve it was full."
        in words
    )
    assert "When it was refused, these backends did not serve it: primary: 1 full." in words
    assert "first byte" not in words
    assert "The gateway itself failed" in told(record(outcome=None, status=500, error_code="internal_error"))
    assert "The client got no status" in told(record(status=0, outcome=Outcome.of(Reason.CLIENT_LEFT)))


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"status": 200}', '"x"', "{", '{"status":1,"outcome":1,"attempts":"x"}']
)
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(BadLine):
        explain_line(line)


def test_a_line_of_an_older_version_tells_what_it_knows() -> None:
    line: dict[str, Any] = {"status": 200, "outcome": "dropped", "reason": "other_then", "attempts": 2}
    sentences = explain_line(json.dumps(line)).sentences
    assert "2 attempts." in sentences and sentences[-1].endswith("Outcome dropped: other_then, unknown here.")
