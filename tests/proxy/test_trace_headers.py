"""What of a client's trace is believed (W3C Trace Context), and what is passed on."""

from __future__ import annotations

from itertools import count

import pytest

from gateway.core.model import Backend, Candidate, PlanReason
from gateway.proxy.tracing import MAX_STATE_BYTES, TraceContexts, upstream_lines

TRACE, PARENT = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GOOD = b"00-%b-%b-01" % (TRACE, PARENT)
HERE = Candidate(Backend("b", "http://b", 1), "here", "primary", PlanReason.FIRST_CHOICE)


def contexts(ratio: float = 1.0, follows_client: bool = False, draws: int = 1) -> TraceContexts:
    numbers = count(draws)
    return TraceContexts(lambda: next(numbers), ratio, follows_client)


def lines(parent: bytes, *states: bytes) -> bytes:
    return b"x-a: 1\r\nTraceParent: %b\r\n" % parent + b"".join(b"tracestate: %b\r\n" % s for s in states)


def passed_on(forward: bytes, **settings: bool) -> bytes:
    made = contexts(**settings)
    trace = made.begin(forward)
    return upstream_lines(trace, made.attempt(trace, HERE, 0.0))


def test_a_good_parent_is_followed():
    trace = contexts().begin(lines(GOOD, b"v=1"))
    assert (trace.hex_id.encode(), trace.parent_id, trace.state) == (TRACE, int(PARENT, 16), b"v=1")
    assert trace.forward == b"x-a: 1\r\n"


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"garbage",
        GOOD.upper(),
        GOOD[:-1],
        GOOD + b"0",
        GOOD + b"-more",  # of version 00
        b"ff" + GOOD[2:],
        b"0" + GOOD,
        b"00-%b-%b-01" % (b"0" * 32, PARENT),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-0x" % (TRACE, PARENT),
        GOOD + b"\r\ntraceparent: " + GOOD,  # twice
        b"%b, %b" % (GOOD, GOOD),
    ],
)
def test_a_malformed_parent_is_ignored_with_its_state(parent):
    trace = contexts().begin(lines(parent, b"v=1"))
    assert trace.parent_id is None
    assert trace.trace_id not in (0, int(TRACE, 16))
    assert trace.state == b""
    sent = passed_on(lines(parent, b"v=1"))
    assert sent.lower().count(b"traceparent") == 1
    assert b"tracestate" not in sent


def test_a_later_version_may_say_more_and_is_passed_on_as_ours():
    sent = passed_on(lines(b"cc-%b-%b-0f-more" % (TRACE, PARENT)))
    assert b"traceparent: 00-%b-" % TRACE in sent


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ((b"a=1",), b"a=1"),
        ((b"a=1 , b=2",), b"a=1,b=2"),
        ((b"a=1", b"t@v=2"), b"a=1,t@v=2"),
        ((b"a=1,,b=2", b""), b"a=1,b=2"),
        ((b"a=1,a=2",), b""),
        ((b"A=1",), b""),
        ((b"a",), b""),
        ((b"a=1;b=,x",), b""),
        ((b"a=x=y",), b""),
        ((b",".join(b"k%d=1" % n for n in range(33)),), b""),
        ((b"a=" + b"x" * MAX_STATE_BYTES,), b""),
    ],
)
def test_a_malformed_state_is_dropped_and_the_parent_stays(states, kept):
    trace = contexts().begin(lines(GOOD, *states))
    assert trace.state == kept
    assert trace.parent_id == int(PARENT, 16)


def test_a_state_without_a_parent_means_nothing():
    assert contexts().begin(b"tracestate: a=1\r\n").state == b""


def test_headers_that_only_sound_alike_pass():
    assert (
        contexts().begin(b"x-trace: 1\r\ntraceparent-x: 2\r\n").forward
        == b"x-trace: 1\r\ntraceparent-x: 2\r\n"
    )


def test_each_attempt_is_a_parent_of_its_own():
    made = contexts()
    trace = made.begin(lines(GOOD))
    first, second = (made.attempt(trace, HERE, 0.0) for _ in range(2))
    assert len({trace.span_id, first.span_id, second.span_id}) == 3
    assert b"-%016x-01" % second.span_id in upstream_lines(trace, second)


def test_no_draw_makes_an_id_of_zeros():
    made = TraceContexts(lambda: 0, 1.0, False)
    trace = made.begin(b"")
    assert trace.trace_id and trace.span_id and made.attempt(trace, HERE, 0.0).span_id


@pytest.mark.parametrize(
    ("ratio", "follows", "flags", "is_sampled"),
    [
        (1.0, False, b"00", True),
        (0.0, False, b"01", False),  # a client cannot force it
        (0.0, True, b"01", True),
        (1.0, True, b"00", False),
        (1.0, True, b"02", False),  # another flag than the one for sampled
    ],
)
def test_who_decides_what_is_recorded(ratio, follows, flags, is_sampled):
    trace = contexts(ratio, follows).begin(lines(GOOD[:-2] + flags))
    assert trace.is_sampled is is_sampled


def test_the_ratio_is_that_of_the_draws():
    draws = iter(step * 2**64 // 8 for step in range(8) for _ in range(4))
    made = TraceContexts(lambda: next(draws), 0.25, False)
    assert [made.begin(b"").is_sampled for _ in range(8)] == [True] * 2 + [False] * 6
