"""What the data plane tells the fleet of each attempt: size, generation, silence, Retry-After."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.core.breaker import Circuit
from gateway.core.fleet import AttemptStarted, BytesSeen
from gateway.core.model import Reason
from tests.proxy.dialogue import (
    BODY,
    EVENT,
    HANG,
    LAST_CHUNK,
    THEIRS,
    Ending,
    chunk,
    event_stream,
    post,
    reply,
    settled,
)
from tests.proxy.telling import ends, listen


async def test_an_attempt_tells_its_generation_and_the_size_of_the_request(impatient):
    gateway, primary, _ = impatient
    told = listen(gateway)
    await gateway.ask(post())
    began, ended = told
    backend_id = f"primary@127.0.0.1:{primary.port}"
    assert began == AttemptStarted(backend_id, 0, len(BODY))
    assert (ended.backend_id, ended.generation, ended.retry_after_s) == (backend_id, 0, None)


DATE = "date: Tue, 01 Dec 2026 10:00:00 GMT"
ASKS = {
    "seconds": (["retry-after: 7"], 7.0),
    "milliseconds": (["retry-after-ms: 1500"], 1.5),
    "milliseconds-win": (["Retry-After: 7", "Retry-After-Ms: 250"], 0.25),
    "bad-milliseconds-do-not": (["retry-after: 7", "retry-after-ms: soon"], 7.0),
    "a-date": ([DATE, "retry-after: Tue, 01 Dec 2026 10:00:09 GMT"], 9.0),
    "a-past-date": ([DATE, "retry-after: Tue, 01 Dec 2026 09:00:00 GMT"], 0.0),
    "a-date-without-a-date": (["retry-after: Tue, 01 Dec 2026 10:00:09 GMT"], None),
    "negative": (["retry-after: -1"], None),
    "infinite": (["retry-after: 1e999"], None),
    "nonsense": (["retry-after: 31 Feb 99999999999999999999", DATE], None),
    "nothing": ([], None),
}


@pytest.mark.parametrize("status", ["429 Full", "503 Full"])
@pytest.mark.parametrize(("lines", "asked_s"), ASKS.values(), ids=ASKS)
async def test_a_full_backend_tells_when_to_come_back(impatient, lines, asked_s, status):
    gateway, primary, _ = impatient
    told = listen(gateway)
    primary.will(reply(THEIRS, *lines, status=status))
    await gateway.ask(post())
    assert ends(told)[0].outcome.reason is Reason.BACKEND_FULL
    assert ends(told)[0].retry_after_s == asked_s


async def test_a_broken_one_that_asks_is_not_full(impatient):
    gateway, primary, _ = impatient
    told = listen(gateway)
    primary.will(reply(THEIRS, "retry-after: 7", status="500 Broken"))
    await gateway.ask(post())
    assert ends(told)[0].retry_after_s is None


async def test_429_with_retry_after_cuts_the_limit_and_moves_on(impatient):
    gateway, primary, _ = impatient
    (state, _) = gateway.plane.view.backends.values()
    hold = asyncio.Event()
    primary.will(hold, reply())
    busy = await gateway.connect()
    await busy.send(post())
    assert await settled(lambda: len(primary.requests) == 1)
    primary.will(reply(THEIRS, "retry-after-ms: 700", status="429 Full"))
    answer = await gateway.ask(post())
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "backup")
    assert (state.limit, state.circuit) == (1, Circuit.CLOSED)
    began_s = time.monotonic()
    assert (await gateway.ask(post())).header("x-spillway-spill-reason") == "full"
    assert len(primary.requests) == 2, "it is full and was not asked"
    assert await settled(lambda: state.limit == 8, 2.0)
    assert time.monotonic() - began_s > 0.5
    hold.set()
    await busy.answer()


async def test_bytes_are_told_of_by_the_sweep_once_for_all(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup, limit=2)
    told = listen(gateway)
    for backend in (primary, backup):
        backend.default = [event_stream(), *[chunk(EVENT), 0.03] * 14, LAST_CHUNK]
    began_s = time.monotonic()
    await asyncio.gather(*(gateway.ask(post()) for _ in range(4)))
    seen = [event for event in told if isinstance(event, BytesSeen)]
    assert any(len(event.backend_ids) == 2 for event in seen)
    assert 2 <= len(seen) <= (time.monotonic() - began_s) / 0.1 + 1
    told.clear()
    await asyncio.sleep(0.25)
    assert not told, "who is silent is not told of"


async def test_a_client_that_reads_again_is_no_byte_of_the_backend(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {stall: 5s}", backend)
    big = chunk(b"x" * 60_000)
    backend.will(event_stream(), *[big] * 100, HANG)
    client = await gateway.connect()
    client.stop_reading()
    await client.send(post())
    assert await settled(lambda: len(gateway.plane.exchanges) == 1)
    (exchange,) = gateway.plane.exchanges
    assert await settled(lambda: exchange.connection.paused_since_s is not None)
    await asyncio.sleep(0.25)
    told = listen(gateway)
    exchange.resume()
    exchange.pause()
    await asyncio.sleep(0.25)
    assert not [event for event in told if isinstance(event, BytesSeen)]
    client.reset()


SILENT_ENDS = {
    "cut-error": [b"HTTP/1.1 400 Bad\r\nContent-Length: 9\r\n\r\nabc", Ending.FIN],
    "stalled-error": [b"HTTP/1.1 400 Bad\r\nContent-Length: 9\r\n\r\nabc", HANG],
    "refused": None,
}


@pytest.mark.parametrize("script", SILENT_ENDS.values(), ids=SILENT_ENDS)
async def test_nobody_is_counted_as_waiting_for_ever(start_backend, start_gateway, script):
    """A wait that is never counted out looks like a hung engine, once nothing else runs there."""
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {stall: 200ms}", backend)
    if script is None:
        await backend.refuse()
    else:
        backend.default = script
    for _ in range(3):
        await gateway.ask(post())
    (state,) = gateway.plane.view.backends.values()
    assert state.silence.waiting == 0
