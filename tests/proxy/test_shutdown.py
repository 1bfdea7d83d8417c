"""The end of a gateway: nothing accepted is lost, nothing new is taken, and nobody is waited for in vain."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.proxy.dialogue import (
    BODY,
    EVENT,
    HANG,
    LAST_CHUNK,
    Client,
    WaitingStore,
    chunk,
    event_stream,
    post,
    settled,
)


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway("drain_timeout: 2s", backend), backend


async def test_a_running_stream_finishes_and_then_the_gateway_is_done(pair):
    gateway, backend = pair
    last = asyncio.Event()
    backend.will(event_stream() + chunk(EVENT), last, chunk(EVENT) + LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post())
    await client.head()
    assert await client.chunk() == EVENT
    began_s = time.monotonic()
    draining = asyncio.ensure_future(gateway.gateway.drain())
    await asyncio.sleep(0.05)
    assert not draining.done()
    last.set()
    assert await client.chunk() == EVENT
    assert await client.chunk() == b""
    assert await client.rest() == b""
    assert await draining is True
    assert time.monotonic() - began_s < 1, "a connection that had its answer held the drain up"
    await gateway.stop()


async def test_idle_connections_are_closed_and_new_ones_refused(pair):
    gateway, _ = pair
    idle, used = await gateway.connect(), await gateway.connect()
    await used.send(post())
    await used.answer()
    assert await settled(lambda: gateway.plane.connection_count == 2)
    began_s = time.monotonic()
    assert await gateway.gateway.drain() is True
    assert time.monotonic() - began_s < 0.5
    for client in (idle, used):
        assert await client.rest() == b""
    with pytest.raises(OSError):
        await Client.connect(gateway.port)
    await gateway.stop()


async def test_while_balancers_turn_away_new_and_idle_connections_are_served_once(
    start_backend, start_gateway
):
    gateway = await start_gateway("drain_delay: 300ms\ndrain_timeout: 2s", await start_backend())
    idle = await gateway.connect()
    await idle.send(post())
    assert (await idle.answer()).header("connection") != "close"
    draining = asyncio.ensure_future(gateway.gateway.drain())
    await asyncio.sleep(0)
    assert gateway.gateway._status().state == "draining"
    for client in (idle, await gateway.connect()):
        await client.send(post())
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert await client.rest() == b""
    assert await draining is True
    with pytest.raises(OSError):
        await Client.connect(gateway.port)
    await gateway.stop()


async def test_a_request_half_sent_may_end(pair):
    gateway, _ = pair
    client = await gateway.connect()
    await client.send(post()[:60])
    draining = asyncio.ensure_future(gateway.gateway.drain())
    await client.send(0.02, post()[60:])
    answer = await client.answer()
    assert (answer.status, answer.header("connection")) == (200, "close")
    assert await client.rest() == b""
    assert await draining is True
    await gateway.stop()


async def test_pipelined_requests_of_a_drain_are_answered_until_the_first_that_says_close(pair):
    gateway, backend = pair
    first = asyncio.Event()
    backend.will(first, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    client = await gateway.connect()
    await client.send(post() * 2)
    assert await settled(lambda: len(backend.requests) == 1)
    draining = asyncio.ensure_future(gateway.gateway.drain())
    await asyncio.sleep(0)
    first.set()
    assert (await client.answer()).status == 200
    second = await client.answer()
    assert (second.status, second.header("connection")) == (200, "close")
    assert await draining is True
    await gateway.stop()


async def test_what_does_not_end_in_time_is_cut_visibly(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("drain_timeout: 200ms", backend)
    backend.will(event_stream() + chunk(EVENT), HANG)
    client = await gateway.connect()
    await client.send(post())
    await client.head()
    assert await gateway.gateway.drain() is False
    rest = await client.rest()
    assert b'data: {"error":' in rest and b"[DONE]" not in rest
    assert not rest.endswith(LAST_CHUNK)
    assert gateway.is_clean
    await gateway.stop()


async def test_what_has_no_byte_yet_gets_an_answer_and_no_other_attempt(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("drain_timeout: 200ms", primary, backup)
    primary.will(HANG)
    client = await gateway.connect()
    await client.send(post(BODY))
    assert await settled(lambda: len(primary.requests) == 1)
    assert await gateway.gateway.drain() is False
    answer = await client.answer()
    assert answer.status == 503 and answer.error
    assert not backup.requests
    await gateway.stop()


async def test_what_still_connects_gets_an_answer_and_no_other_attempt(
    start_backend, start_gateway, deaf_port
):
    backup = await start_backend()
    gateway = await start_gateway(
        "timeouts: {connect: 30s}\ndrain_timeout: 200ms\nclusters:\n"
        f"- {{name: deaf, limit: 8, backends: ['http://127.0.0.1:{deaf_port}']}}\n"
        f"- {{name: backup, tier: backup, limit: 8, backends: ['{backup.url}']}}"
    )
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: gateway.in_flight == 1)
    assert await gateway.gateway.drain() is False
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "no_backend")
    assert (answer.header("connection"), answer.header("x-should-retry")) == ("close", None)
    assert await client.rest() == b""
    assert gateway.is_clean and not backup.requests
    await gateway.stop()


async def test_what_waits_for_a_slot_gets_an_answer(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("drain_timeout: 200ms", backend)
    gateway.plane.store = store = WaitingStore(gateway.plane.store)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: store.waiting == 1)
    assert await gateway.gateway.drain() is False
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.header("connection")) == (503, "no_backend", "close")
    assert store.waiting == 0 and gateway.is_clean and not backend.requests
    await gateway.stop()


async def test_a_stop_without_a_drain_closes_everything(pair):
    gateway, backend = pair
    backend.will(HANG)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(backend.requests) == 1)
    gateway.is_stopped = True
    await gateway.gateway.stop()
    assert await client.rest() == b""
    client.close()
    assert await settled(lambda: gateway.is_clean)
    assert await settled(lambda: not backend.open_connections)
