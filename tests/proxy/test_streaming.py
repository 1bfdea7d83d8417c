"""Streams: every byte at once, and an end that never looks whole when it is not."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys

import pytest

from tests.proxy.dialogue import HANG, LAST_CHUNK, Ending, chunk, event_stream, post, reply

EVENT = b'data: {"a":1}\n\n'


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway(backend), backend


async def test_each_chunk_passes_at_once(pair):
    gateway, backend = pair
    steps = [asyncio.Event() for _ in range(4)]
    backend.will(event_stream(), *[s for step in steps for s in (step, chunk(EVENT))], LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post())
    for position, step in enumerate(steps):
        assert await client.is_silent(0.02)
        step.set()
        if position == 0:
            await client.head(0.5)
        assert await client.chunk(0.5) == EVENT
    assert await client.chunk() == b""


async def test_the_head_waits_for_the_first_body_byte(pair):
    gateway, backend = pair
    first = asyncio.Event()
    backend.will(event_stream(), first, chunk(EVENT), LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post())
    assert await client.is_silent(0.1)
    first.set()
    assert (await client.answer()).body == EVENT


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked for it, and about it")
async def test_events_that_come_quickly_are_acknowledged_two_at_a_time(pair):
    """Each acknowledgement is a segment, and costs the gateway as much as half of a write."""
    gateway, backend = pair
    for _ in range(5):  # a machine that stops for 40 ms ends it
        backend.will(event_stream(), *[s for _ in range(41) for s in (chunk(EVENT), 0.001)], HANG)
        client = await gateway.connect()
        await client.send(post())
        await client.head()
        await client.chunk()
        (upstream,) = backend.open_connections
        before = segments_in(upstream.transport)
        for _ in range(40):
            await client.chunk()
        acknowledged = segments_in(upstream.transport) - before
        client.close()
        await upstream.is_lost.wait()
        if acknowledged < 30:
            break
    assert 15 < acknowledged < 30


def segments_in(transport: asyncio.BaseTransport) -> int:
    """What its peer has sent so far, bare acknowledgements counted: tcpi_segs_in of struct tcp_info."""
    info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return int(struct.unpack_from("I", info, 140)[0])


@pytest.mark.parametrize("text", [
    'data: {"x":"é✓"}\r\n\r\ndata: a\rdata: b\r\rdata: c\n\n'.encode(),
    b"\xef\xbb\xbf: comment\n\ndata: two\ndata: lines\n\nevent: x\nid: 1\nretry: 5\ndata: [DONE]\n\n",
], ids=["line-ends", "fields"])  # fmt: skip
async def test_events_cut_at_every_byte_arrive_byte_for_byte(pair, text):
    gateway, backend = pair
    for cut in range(1, len(text)):
        backend.will(event_stream() + chunk(text[:cut]), 0.0, chunk(text[cut:]) + LAST_CHUNK)
        answer = await gateway.ask(post())
        assert answer.is_whole and answer.body == text


async def test_a_wire_cut_at_every_byte_gives_the_same_answer(pair):
    gateway, backend = pair
    wire = event_stream() + chunk(EVENT) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK
    backend.will(*[bytes((byte,)) for byte in wire], 0.0)
    answer = await gateway.ask(post())
    assert answer.is_whole and answer.body == EVENT + b"data: [DONE]\n\n"


async def test_a_long_line_passes(pair):
    gateway, backend = pair
    line = b"data: " + b"x" * 2_000_000
    backend.will(event_stream() + chunk(line) + LAST_CHUNK)
    assert (await gateway.ask(post())).body == line


CUTS = {"end": Ending.FIN, "reset": Ending.RST, "bad-chunk": b"ZZ\r\n", "overflow": b"f" * 17 + b"\r\n"}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_stream_that_breaks_ends_with_one_error_event_and_no_done(pair, cut):
    gateway, backend = pair
    backend.will(event_stream() + chunk(EVENT), 0.01, cut, 5.0)
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer(1)
    assert not answer.is_whole
    assert answer.body.startswith(EVENT)
    events = [event for event in answer.body[len(EVENT) :].split(b"\n\n") if event.strip()]
    assert len(events) == 1 and events[0].strip().startswith(b"data: ")
    error = json.loads(events[0].strip()[6:])["error"]
    assert error["code"] == "upstream_unreachable" and error["message"]
    assert b"[DONE]" not in answer.body
    assert await client.rest() == b""


async def test_a_stream_cut_inside_an_event_still_ends_with_a_readable_error(pair):
    gateway, backend = pair
    backend.will(event_stream() + chunk(b'data: {"half'), 0.01, Ending.FIN)
    answer = await gateway.ask(post())
    last = [line for line in answer.body.split(b"\n") if line][-1]
    assert last.startswith(b'data: {"error":')
    assert b'half\n\ndata: {"error"' in answer.body


async def test_a_compressed_stream_gets_no_plain_event(pair):
    gateway, backend = pair
    backend.will(event_stream("Content-Encoding: gzip") + chunk(b"\x1f\x8b"), 0.01, Ending.FIN)
    answer = await gateway.ask(post())
    assert not answer.is_whole and answer.body == b"\x1f\x8b"


async def test_a_chunked_answer_that_is_no_stream_is_cut(pair):
    gateway, backend = pair
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    backend.will(head + chunk(b'{"half":'), 0.01, Ending.FIN)
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer()
    assert not answer.is_whole and answer.body == b'{"half":'
    assert await client.rest() == b""


@pytest.mark.parametrize("ending", [Ending.FIN, Ending.RST])
async def test_an_answer_shorter_than_its_length_is_short_for_the_client_too(pair, ending):
    gateway, backend = pair
    backend.will(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", 0.01, ending)
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer()
    assert (answer.header("content-length"), answer.body, answer.is_whole) in (
        ("100", b"only this", False),
        ("100", b"", False),  # a reset may overtake bytes
    )


async def test_an_answer_without_length_that_is_reset_is_cut(pair):
    gateway, backend = pair
    backend.will(b"HTTP/1.1 200 OK\r\n\r\nonly this", 0.02, Ending.RST)
    answer = await gateway.ask(post())
    assert not answer.is_whole


OPEN_ENDED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def ended(gateway) -> tuple[str, str, str | None]:
    """What the one request counts as."""
    (record,) = gateway.records
    gateway.records.clear()
    return record.outcome.verdict, record.outcome.reason, record.error_code


@pytest.mark.parametrize(
    "last",
    [
        b"",
        b'data: {"content":"data: [DONE]"}\n\n',
        b": data: [DONE]\n\n",
        b"data: [DON",
        b"data: [DONE] \n\n",
    ],
    ids=["nothing", "in-json", "in-comment", "half", "with-more"],
)
async def test_an_open_ended_stream_without_done_is_not_whole(pair, last):
    """FAULTS RS-41, SS-03: the FIN of a killed engine looks like that of one that has finished."""
    gateway, backend = pair
    backend.will(OPEN_ENDED + EVENT, 0.01, *([last] if last else []), Ending.FIN)
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer()
    assert (answer.status, answer.body, answer.is_whole) == (200, EVENT + last, False)
    assert await client.rest() == b""
    assert ended(gateway) == ("dropped", "truncated", "upstream_unreachable")


@pytest.mark.parametrize(
    "done",
    [DONE, b"data: [DONE]", b"data:[DONE]\r\n\r\n", b"data: [DONE]\r\r", b"data: [DONE]" + b"\n" * 40],
    ids=["lf", "bare", "crlf", "cr", "many-line-ends"],
)
async def test_an_open_ended_stream_with_done_is_whole_however_it_is_cut(pair, done):
    gateway, backend = pair
    text = EVENT + done
    for cut in range(1, len(text)):
        backend.will(OPEN_ENDED + text[:cut], 0.001, text[cut:], Ending.FIN)
        answer = await gateway.ask(post())
        assert answer.is_whole and answer.body == text
        assert ended(gateway) == ("success", "completed", None)


async def test_done_in_single_bytes_is_seen_and_the_connection_kept(pair):
    gateway, backend = pair
    client = await gateway.connect()
    backend.will(OPEN_ENDED, *[step for byte in EVENT + DONE for step in (bytes((byte,)), 0.0)], Ending.FIN)
    await client.send(post() + post())
    first, second = await client.answer(), await client.answer()
    assert (first.is_whole, first.body, second.status) == (True, EVENT + DONE, 200)


async def test_an_open_ended_stream_without_one_event_moves_on(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup)
    primary.will(OPEN_ENDED, 0.01, Ending.FIN)
    answer = await gateway.ask(post())
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "backup")


@pytest.mark.parametrize("head", [
    event_stream(),
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 15\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
    b"HTTP/1.1 404 None\r\nContent-Type: text/event-stream\r\n\r\n",
], ids=["chunked", "length", "json", "error"])  # fmt: skip
async def test_what_has_framing_or_is_no_good_stream_needs_no_done(pair, head):
    gateway, backend = pair
    is_chunked = b"chunked" in head
    backend.will(head + (chunk(EVENT) + LAST_CHUNK if is_chunked else EVENT), 0.01, Ending.FIN)
    answer = await gateway.ask(post())
    assert answer.is_whole and answer.body == EVENT
    assert ended(gateway)[1] == ("completed" if answer.status == 200 else "client_error")


async def test_an_http_1_0_client_gets_an_open_ended_stream_as_it_is(pair):
    gateway, backend = pair
    for last, verdict in ((DONE, "success"), (b"", "dropped")):
        backend.will(OPEN_ENDED + EVENT + last, 0.01, Ending.FIN)
        client = await gateway.connect()
        await client.send(post(version="1.0"))
        assert (await client.rest()).endswith(b"\r\n\r\n" + EVENT + last)
        assert ended(gateway)[0] == verdict


async def test_after_the_first_byte_nothing_is_tried_again(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup)
    primary.will(event_stream() + chunk(EVENT), 0.01, Ending.RST)
    answer = await gateway.ask(post())
    assert not answer.is_whole and answer.body.startswith(EVENT)
    assert not backup.requests


async def test_an_http_1_0_client_sees_a_cut_stream_without_an_event(pair):
    gateway, backend = pair
    backend.will(event_stream() + chunk(EVENT), 0.01, Ending.FIN)
    client = await gateway.connect()
    await client.send(post(version="1.0"))
    assert (await client.rest()).endswith(EVENT)


async def test_interim_answers_of_a_backend_are_swallowed(pair):
    gateway, backend = pair
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    backend.will(b"HTTP/1.1 100 Continue\r\n\r\n" + early * 2 + reply(b"ok"))
    answer = await gateway.ask(post())
    assert (answer.status, answer.body, answer.header("link")) == (200, b"ok", None)


async def test_a_flood_of_interim_answers_is_an_error(pair):
    gateway, backend = pair
    backend.will(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50, 1.0)
    assert (await gateway.ask(post())).status == 502
