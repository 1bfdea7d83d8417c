"""Chunks that pass the parser by: only what it would have taken, framed as we would have framed it."""

from __future__ import annotations

import socket
import types
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.model import Reason
from gateway.proxy.chunks import MAX_WHOLE_CHUNK_BYTES, WHOLE_CHUNK_STARTS, plain_chunks
from gateway.proxy.upstream import UpstreamConnection
from tests.proxy.dialogue import EVENT, HANG, LAST_CHUNK, Ending, chunk, event_stream, post


def is_one_chunk(segment: bytes) -> bool:
    return segment.endswith(b"\r\n") and segment.startswith(WHOLE_CHUNK_STARTS[len(segment)])


def test_every_chunk_up_to_the_limit_is_known_by_its_length():
    size = 1
    while len(whole := chunk(b"x" * size)) <= MAX_WHOLE_CHUNK_BYTES:
        assert is_one_chunk(whole)
        size += 1
    assert size > MAX_WHOLE_CHUNK_BYTES - 10


ODD = {
    "last": b"0\r\n\r\n",
    "leading-zero": b"05\r\nhello\r\n",
    "extension": b"5;a=b\r\nhello\r\n",
    "empty-extension": b"5;\r\nhello\r\n",
    "blank": b" 5\r\nhello\r\n",
    "blank-behind": b"5 \r\nhello\r\n",
    "plus": b"+5\r\nhello\r\n",
    "prefix": b"0x5\r\nhello\r\n",
    "underscore": b"1_0\r\n0123456789abcdef\r\n",
    "too-long": b"5\r\nhello!\r\n",
    "too-short": b"5\r\nhell\r\n",
    "no-size": b"\r\nhello\r\n",
    "line-feed": b"5\nhello\r\n",
    "with-the-last": b"5\r\nhello\r\n0\r\n\r\n",
    "trailer": b"0\r\nA: b\r\n",
    "half-a-size-line": b"5\r\nhello\r\n5\r\n",
    "cut": b"5\r\nhello\r\na\r\n\r\n",
    "no-hex": b"g\r\n0123456789abcdef\r\n",
    "beyond-the-table": b"x" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("segment", ODD.values(), ids=ODD)
def test_whatever_is_not_plain_is_for_the_parser(segment):
    assert len(segment) > MAX_WHOLE_CHUNK_BYTES or not is_one_chunk(segment)
    assert plain_chunks(segment) == (b"", 0)


def test_several_chunks_and_capitals_come_out_as_we_frame_them():
    assert plain_chunks(chunk(b"a" * 5) + chunk(b"b" * 171)) == (chunk(b"a" * 5) + chunk(b"b" * 171), 176)
    assert plain_chunks(b"AB\r\n%b\r\n" % (b"C\r\nD" + b"x" * 167)) == (chunk(b"C\r\nD" + b"x" * 167), 171)
    large = chunk(b"x" * 50_000) + chunk(b"y")
    assert plain_chunks(large) == (large, 50_001)


# --- the connection with and without the short way -----------------------------------------------------


# The kernel is asked about it, and has nothing to tell.
_SILENT = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class Hearing:
    """A receiver, its pool and its transport: notes what comes, and in the end compares equal."""

    def __init__(self, takes_whole_chunks: bool) -> None:
        self.body = b""
        self.framed = b""
        self.passed_by = 0
        self.ended: str | Reason | None = None
        self.returned = self.aborted = False
        self._takes_whole_chunks = takes_whole_chunks
        self.secret = b""
        self.ssl_context = None
        self.writes = types.SimpleNamespace(add=lambda connection, data: connection.write(data))
        self.connection = UpstreamConnection(self, 0.0)  # type: ignore[arg-type]
        self.connection.connection_made(self)  # type: ignore[arg-type]
        self.connection.send(self, b"request", b"")

    def feed(self, segments: list[bytes]) -> None:
        for segment in segments:
            if self.aborted or self.returned:
                break
            self.connection.data_received(segment)

    def on_answer_head(self, head) -> None:
        if self._takes_whole_chunks:
            self.connection.pass_whole_chunks(self.take_framed)

    def take_framed(self, data: bytes) -> None:
        assert self.ended is None and not self.aborted
        self.passed_by += 1
        self.framed += data
        self.body += unframed(data)

    def on_answer_body(self, piece: bytes) -> None:
        self.framed += chunk(piece)
        self.body += piece

    def on_answer_end(self) -> None:
        assert self.ended is None
        self.ended = "complete"
        assert self.connection.body_bytes == len(self.body)

    def on_answer_failed(self, reason: Reason) -> None:
        assert self.ended is None
        self.ended = reason

    def give_back(self, connection) -> None:
        self.returned = True

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None: ...

    def get_extra_info(self, name: str) -> object:
        return _SILENT if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        return 0

    @property
    def heard(self) -> tuple:
        return self.body, self.ended, self.returned, self.aborted


def unframed(data: bytes) -> bytes:
    """The strictest reading of chunks: the very bytes that `chunk` makes, and nothing else."""
    body = b""
    while data:
        line, _, rest = data.partition(b"\r\n")
        size = int(line, 16)
        assert data.startswith(chunk(rest[:size])) and size, data
        body += rest[:size]
        data = rest[size + 2 :]
    return body


PAYLOADS = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from(
        [EVENT, b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"\n\r\n", b"x" * 171, b"y" * 4090, b"z" * 9000]
    ),
)
SPELLINGS = st.sampled_from(["%x", "%x", "%x", "%X", "0%x", "%x;a=b"])


@st.composite
def wires(draw) -> tuple[bytes, list[bytes]]:
    """A chunked answer, perhaps damaged in one place, and a way to cut it: often between chunks."""
    parts = [event_stream()]
    for payload in draw(st.lists(PAYLOADS, max_size=8)):
        size_line = (draw(SPELLINGS) % len(payload)).encode()
        parts.append(size_line + b"\r\n" + payload + b"\r\n")
    parts.append(
        draw(st.sampled_from([LAST_CHUNK, LAST_CHUNK, b"0\r\nA: b\r\n\r\n", LAST_CHUNK + b"x", b""]))
    )
    wire = b"".join(parts)
    boundaries = [sum(map(len, parts[:count])) for count in range(1, len(parts))]
    cuts = set(boundaries) if draw(st.booleans()) else set(draw(st.lists(st.sampled_from(boundaries))))
    cuts |= set(draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    if draw(st.booleans()):
        at = draw(st.integers(len(parts[0]), len(wire)))
        wire = wire[:at] + draw(st.sampled_from([b"", b"\r\n", b"\n", b"0", b"Z", b"1\r\n"])) + wire[at + 1 :]
    edges = sorted({0, *cuts, len(wire)})
    return wire, [wire[a:b] for a, b in pairwise(edges) if wire[a:b]]


@settings(max_examples=600, deadline=None)
@given(wires())
@example((b"", [event_stream(), chunk(EVENT), b"5", b"\r\n", b"hello\r\n", chunk(EVENT), LAST_CHUNK]))
@example((b"", [event_stream(), chunk(EVENT), b"9\r\n", chunk(b"12345") + b"\r\n", LAST_CHUNK]))
@example((b"", [event_stream(), b"a\r\n01234567\r\n", b"\r\n", chunk(EVENT), LAST_CHUNK]))
@example((b"", [event_stream(), chunk(EVENT) + b"1", b"5\r\nhello\r\n", b"x" * 14 + b"\r\n", LAST_CHUNK]))
@example((b"", [event_stream() + b"1", b"5\r\nhello\r\n", b"x" * 14 + b"\r\n", LAST_CHUNK]))
@example((b"", [event_stream(), b"0\r\n", b"5\r\nhello\r\n", b"\r\n"]))
def test_the_short_way_hears_what_the_parser_hears(wire):
    _, segments = wire
    short, parsed = Hearing(True), Hearing(False)
    short.feed(segments)
    parsed.feed(segments)
    assert short.heard == parsed.heard
    assert unframed(short.framed) == short.body
    assert parsed.passed_by == 0


def test_plain_events_do_take_the_short_way_also_after_one_that_was_cut():
    hearing = Hearing(True)
    event = chunk(EVENT)
    hearing.feed([event_stream(), event, event * 3, event[:4], event[4:], event, LAST_CHUNK])
    assert hearing.passed_by == 3
    assert (hearing.body, hearing.ended, hearing.returned) == (EVENT * 6, "complete", True)


def test_who_was_let_go_hears_nothing_more():
    hearing = Hearing(True)
    hearing.feed([event_stream(), chunk(EVENT)])
    hearing.connection.abandon()
    hearing.aborted = False
    hearing.connection.data_received(chunk(EVENT))
    assert (hearing.body, hearing.aborted) == (EVENT, True)


# --- through a gateway -----------------------------------------------------------------------------------


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway("timeouts: {stall: 300ms}", backend), backend


@pytest.mark.parametrize("spelling", [b"%x", b"%X", b"0%x"], ids=["ours", "capitals", "zero"])
async def test_a_stream_in_any_spelling_reaches_the_client_in_ours(pair, spelling):
    gateway, backend = pair
    events = [b"data: %b\n\n" % (b"x" * size) for size in (2, 163, 4000, 5000)]
    framed = [(spelling % len(event)) + b"\r\n" + event + b"\r\n" for event in events]
    backend.will(event_stream(), *[step for one in framed for step in (0.005, one)], 0.005, LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post())
    await client.head()
    wire = b"".join(map(chunk, events)) + LAST_CHUNK
    assert await client.reader.readexactly(len(wire)) == wire
    await client.send(post())
    assert (await client.answer()).status == 200
    assert [request.connection for request in backend.requests] == [0, 0]
    assert gateway.records[0].bytes_out == sum(map(len, events))


async def test_an_http_1_0_client_gets_no_framing(pair):
    gateway, backend = pair
    backend.will(event_stream(), *[step for _ in range(5) for step in (0.005, chunk(EVENT))], LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post(version="1.0"))
    assert (await client.rest()).endswith(b"\r\n\r\n" + EVENT * 5)


@pytest.mark.parametrize(
    "ending", [HANG, Ending.FIN, Ending.RST, b"ZZ\r\n"], ids=["hung", "end", "reset", "bad"]
)
async def test_a_break_after_chunks_that_passed_by_is_seen(pair, ending):
    gateway, backend = pair
    backend.will(event_stream(), *[step for _ in range(5) for step in (0.1, chunk(EVENT))], 0.01, ending)
    answer = await gateway.ask(post())
    assert not answer.is_whole and answer.body.startswith(EVENT * 5 + b"\n\ndata: {")
    (record,) = gateway.records
    assert record.outcome.verdict == "dropped" and record.bytes_out == len(EVENT * 5)
