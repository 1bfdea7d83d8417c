"""A line of the access log says in words what became of its request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.core.fleet import Drained, Undrained
from gateway.core.model import Outcome, Reason
from gateway.mock_engine.faults import Fault, FaultKind
from gateway.mock_engine.server import MockEngine
from gateway.ports import Hedged, Held, RequestRecord, Retry
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.log_words import BadLine, explain_line
from tests.sim.live_run import key_of, run_live
from tests.sim.settings import bursts

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
        "The client got 200 (first byte after 40.0 ms, 0.1 ms of it the gateway's own; "
        "all after 300.0 ms). Outcome success: completed."
    )


REFUSED: dict[str, Any] = {"status": 400, "error_code": "invalid_request", "backend": "", "attempts": 0}


@pytest.mark.parametrize(
    ("noted", "words"),
    [
        ({"refused": "invalid", "param": "model"}, "What was wrong: model (invalid)."),
        ({"refused": "unreadable_body"}, "What was wrong: unreadable_body."),
    ],
)
def test_a_refused_one_says_what_was_wrong(record: Record, noted: dict[str, str], words: str) -> None:
    said = told(record(**REFUSED, **noted))
    assert (
        f"It was refused with invalid_request: it was not valid; the answer said what was wrong.\n{words}"
        in said
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
    failed["outcome"] = Outcome.of(Reason.TRUNCATED)
    words = told(record(**failed, ttft_s=None))
    assert words.endswith("Outcome dropped: truncated, cut short after the first byte.")


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
    assert words.endswith("The client got 429 (all after 300.0 ms).")
    assert "The gateway itself failed" in told(record(outcome=None, status=500, error_code="internal_error"))
    assert "The client got no status" in told(record(status=0, outcome=Outcome.of(Reason.CLIENT_LEFT)))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("unauthorized", "it showed no key that is good here."),
        ("rate_limited", "its key was at its limit, of requests in flight or of its rate."),
        ("residency_unavailable", "but none where it may be answered, by its key's residency and its"),
        ("model_not_found", "no cluster is configured for this model, or its key may not ask for it."),
        ("queue_timeout", "no slot came free while it waited."),
        ("invalid_request", "the answer said what was wrong."),
        ("not_found", "its path is not served."),
    ],
)
def test_every_refusal_is_told_in_words(record: Record, code: str, said: str) -> None:
    nobody = {"cluster": "", "tier": "", "backend": "", "attempts": 0, "ttft_s": None, "status": 400}
    words = told(record(**nobody, error_code=code, outcome=Outcome.of(Reason.CLIENT_ERROR)))
    assert f"It was refused with {code}: " in words
    assert said in words


def test_whose_key_it_was_and_how_long_it_waited(record: Record) -> None:
    words = told(record(key="bank", held=Held("primary", 0.3004, "served")))
    assert ", with the key of bank, ended" in words
    assert "It waited 300.4 ms for a slot." in words
    assert "waited" not in told(record())


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


KEYS = "".join(
    f"  - {{{{name: {name}, sha256: {sha256(key_of(name).encode()).hexdigest()}{rules}}}}}\n"
    for name, rules in {"shop": "", "bank": ", residency: [eu], models: [m]", "lab": ", rate: 20/m"}.items()
)
FLEET = (
    "timeouts: {{first_byte: 1s}}\nhold: {{max_wait: 250ms}}\nkeys:\n"
    + KEYS
    + """\
clusters:
  - {{name: eu, limit: 2, backends: ['{0}', '{1}'], residency: [eu], models: [m]}}
  - {{name: us, limit: 2, backends: ['{2}'], residency: [us], models: [m, n], tier: backup}}
"""
)


async def trouble(gateway: Gateway, engines: list[MockEngine]) -> None:
    """An engine that fails, one that hangs at times, and a drain."""
    await asyncio.sleep(2.0)
    engines[0].faults.replace([Fault(FaultKind.ERROR, status=500)])
    engines[1].faults.replace([Fault(FaultKind.HANG_BEFORE_HEAD, probability=0.2)])
    await asyncio.sleep(3.0)
    engines[0].faults.replace([Fault(FaultKind.STALL, after_tokens=3)])
    gateway.apply(Drained("us"))
    await asyncio.sleep(1.0)
    gateway.apply(Undrained("us"))


def test_every_request_of_a_live_run_with_trouble_is_explained_by_its_line_alone() -> None:
    """At real sockets: whatever became of it, the words say where it went, or why nowhere."""
    places, tenants = (None, "us", "eu"), ("shop", "bank", "lab", "nobody")
    arrivals = [
        a._replace(model=("m", "m", "n", "x")[n % 4], tenant=tenants[n % 7 % 4], residency=places[n % 3])
        for n, a in enumerate(bursts(150, 14.0, output_tokens=9))
    ]
    run = run_live(FLEET, arrivals, trouble)
    codes = {record.error_code for record in run.records}
    assert codes >= {
        *("unauthorized", "rate_limited", "model_not_found", "residency_unavailable", "queue_timeout"),
        None,
    }
    assert {record.spill_reason for record in run.records} >= {"full", "failed"}
    for request in run.records:
        words = told(request)
        assert "unknown here" not in words and "see the documentation" not in words
        assert request.overhead_s >= 0.0
        if request.backend:
            assert f"It went to {request.backend}, cluster {request.cluster}" in words
            assert ("Why not" in words) is (request.tier != request.preferred_tier)
            assert ("Before the last one failed" in words) is (request.attempts > 1)
        else:
            assert f"It was refused with {request.error_code}: " in words
