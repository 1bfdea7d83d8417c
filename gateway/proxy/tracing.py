"""W3C Trace Context: what a client says of its trace, and what the backends get to hear of it.

Only where the configuration has `tracing`; elsewhere both headers pass through as any other does. What is
malformed is ignored, as the recommendation asks: a bad traceparent with its tracestate, a bad tracestate by
itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.core.model import Candidate
from gateway.ports import AttemptTrace, ExchangeTrace

# Of version 00; a later one may go on after another dash.
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_VERSION = b"ff"
_SAMPLED = 0x01
_KEY = rb"[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}|[a-z][a-z0-9_\-*/]{0,255}"
_MEMBER = re.compile(rb"(%b)=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])" % _KEY)
MAX_STATE_MEMBERS = 32
MAX_STATE_BYTES = 512


class TraceContexts:
    """Begins the traces of exchanges. `draw` gives 64 uniform bits.

    Whether one is recorded is decided by a draw of our own, never by the trace's id, which the client
    chooses. `follows_client`: where the client has decided, that holds.
    """

    def __init__(self, draw: Callable[[], int], sample_ratio: float, follows_client: bool) -> None:
        self._draw = draw
        self._threshold = int(sample_ratio * 2**64)
        self._follows_client = follows_client

    def begin(self, forward: bytes) -> ExchangeTrace:
        """`forward` are the header lines of the request that are passed on."""
        forward, parents, states = _taken_apart(forward)
        parent = _read_parent(parents)
        span_id = self._draw() or 1  # all zeros is no id
        if parent is None:
            trace_id = (self._draw() << 64 | self._draw()) or 1
            return ExchangeTrace(trace_id, span_id, None, self._is_drawn(), b"", forward)
        trace_id, parent_id, is_sampled = parent
        if not self._follows_client:
            is_sampled = self._is_drawn()
        return ExchangeTrace(trace_id, span_id, parent_id, is_sampled, _read_state(states), forward)

    def attempt(self, trace: ExchangeTrace, candidate: Candidate, now_s: float) -> AttemptTrace:
        attempt = AttemptTrace(self._draw() or 1, candidate, now_s)
        trace.attempts.append(attempt)
        return attempt

    def _is_drawn(self) -> bool:
        return self._draw() < self._threshold


def upstream_lines(trace: ExchangeTrace, attempt: AttemptTrace) -> bytes:
    """The header lines for a backend: the attempt is the parent of whatever happens there."""
    state = b"tracestate: %b\r\n" % trace.state if trace.state else b""
    return b"%btraceparent: 00-%032x-%016x-%02x\r\n%b" % (
        trace.forward,
        trace.trace_id,
        attempt.span_id,
        trace.is_sampled,
        state,
    )


def _taken_apart(forward: bytes) -> tuple[bytes, list[bytes], list[bytes]]:
    """The lines without those of the trace; the values of traceparent; the values of tracestate."""
    if b"trace" not in forward.lower():
        return forward, [], []
    kept: list[bytes] = []
    values: dict[bytes, list[bytes]] = {b"traceparent": [], b"tracestate": []}
    for line in forward.splitlines(True):
        name, _, value = line.partition(b":")
        values.get(name.lower(), kept).append(line if name.lower() not in values else value.strip())
    return b"".join(kept), values[b"traceparent"], values[b"tracestate"]


def _read_parent(values: list[bytes]) -> tuple[int, int, bool] | None:
    """Trace, parent, sampled; None for anything but one well-formed value."""
    found = _PARENT.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        return None
    version, trace, parent, flags, rest = found.groups()
    trace_id, parent_id = int(trace, 16), int(parent, 16)
    if version == _NO_VERSION or (version == b"00" and rest) or not trace_id or not parent_id:
        return None
    return trace_id, parent_id, bool(int(flags, 16) & _SAMPLED)


def _read_state(values: list[bytes]) -> bytes:
    """The list as one line; empty for one that is malformed or too long."""
    members = [member.strip(b" \t") for value in values for member in value.split(b",")]
    members = [member for member in members if member]
    keys = set()
    for member in members:
        found = _MEMBER.fullmatch(member)
        if found is None or found[1] in keys:
            return b""
        keys.add(found[1])
    state = b",".join(members)
    return state if len(members) <= MAX_STATE_MEMBERS and len(state) <= MAX_STATE_BYTES else b""
