"""Every stage of time has its own end: nobody waits for ever, on either side."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.proxy.dialogue import (
    BODY,
    EVENT,
    HANG,
    WaitingStore,
    chunk,
    event_stream,
    get,
    post,
    reply,
    settled,
)

SOON_S = 1.0


async def test_a_hung_backend_is_a_504(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {first_byte: 200ms}", backend)
    backend.will(HANG)
    began_s = time.monotonic()
    answer = await gateway.ask(post())
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_first_byte")
    assert 0.2 <= time.monotonic() - began_s < SOON_S
    assert await settled(lambda: not backend.open_connections)


async def test_a_long_prompt_may_take_longer(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {first_byte: 100ms, first_byte_per_kib: 20ms}", backend)
    backend.will(0.4, reply())
    answer = await gateway.ask(post(b'{"model":"m","x":"%b"}' % (b"x" * 32_768)))
    assert answer.status == 200


async def test_a_backend_that_accepts_nobody_is_left_after_the_connect_timeout(
    start_backend, start_gateway, deaf_port
):
    backup = await start_backend()
    gateway = await start_gateway(f"""
        timeouts: {{connect: 200ms}}
        clusters:
        - {{name: nowhere, limit: 8, backends: ['http://127.0.0.1:{deaf_port}']}}
        - {{name: backup, tier: backup, limit: 8, backends: ['{backup.url}']}}
        """)
    began_s = time.monotonic()
    answer = await gateway.ask(post())
    assert (answer.status, answer.header("x-spillway-attempts")) == (200, "2")
    assert time.monotonic() - began_s < SOON_S


async def test_a_stalled_stream_ends_with_an_error_event(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {stall: 200ms}", backend)
    backend.will(event_stream() + chunk(EVENT), HANG)
    began_s = time.monotonic()
    answer = await gateway.ask(post())
    assert not answer.is_whole and b"upstream_timeout_stall" in answer.body
    assert 0.2 <= time.monotonic() - began_s < SOON_S


async def test_a_stream_that_trickles_does_not_stall(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {stall: 300ms}", backend)
    backend.will(event_stream(), *[0.1, chunk(b": ping\n\n")] * 8, b"0\r\n\r\n")
    answer = await gateway.ask(post())
    assert answer.is_whole and len(answer.chunks) == 8


async def test_the_whole_request_has_an_end(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {total: 300ms}", backend)
    backend.will(event_stream(), *[0.05, chunk(EVENT)] * 100)
    answer = await gateway.ask(post())
    assert not answer.is_whole and b"upstream_timeout_total" in answer.body


async def test_no_attempt_begins_after_the_total_timeout(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("timeouts: {total: 200ms, first_byte: 5s}", primary, backup)
    primary.will(HANG)
    answer = await gateway.ask(post())
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
    assert not backup.requests


async def test_the_whole_request_has_an_end_also_while_it_connects(start_gateway, deaf_port):
    gateway = await start_gateway(
        "timeouts: {total: 200ms, connect: 30s}\n"
        f"clusters: [{{name: a, limit: 8, backends: ['http://127.0.0.1:{deaf_port}']}}]",
        good_request=get("/v1/models"),
    )
    answer = await gateway.ask(post(), SOON_S)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")


async def test_the_whole_request_has_an_end_also_while_it_waits_for_a_slot(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {total: 200ms}", backend)
    inner = gateway.plane.store
    gateway.plane.store = store = WaitingStore(inner)
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer(SOON_S)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
    assert store.waiting == 0 and not backend.requests
    store.may_answer.set()
    await client.send(post())
    assert (await client.answer()).status == 200
    gateway.plane.store = inner


async def test_a_silent_connection_is_closed(start_backend, start_gateway):
    gateway = await start_gateway("timeouts: {request_head: 200ms}", await start_backend())
    client = await gateway.connect()
    assert await client.rest(SOON_S) == b""


async def test_a_head_that_never_ends_is_a_408(start_backend, start_gateway):
    gateway = await start_gateway("timeouts: {request_head: 200ms}", await start_backend())
    client = await gateway.connect()
    for byte in b"POST /v1/c":  # each byte late, none late enough to matter alone
        await client.send(bytes((byte,)), 0.03)
    answer = await client.answer(SOON_S)
    assert (answer.status, answer.error["code"]) == (408, "invalid_request")
    assert await client.rest() == b""


@pytest.mark.parametrize(
    "begun",
    [
        post()[:-5],
        post().replace(b"Content-Length: 13", b"Transfer-Encoding: chunked").replace(BODY, b"d\r\n{"),
    ],
    ids=["length", "chunked"],
)
async def test_a_body_that_never_ends_is_a_408_and_takes_no_slot(start_backend, start_gateway, begun):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {request_body: 200ms}", backend)
    client = await gateway.connect()
    await client.send(begun)
    assert gateway.in_flight == 0
    answer = await client.answer(SOON_S)
    assert answer.status == 408 and answer.error
    assert await client.rest() == b""
    assert backend.received_bytes == 0


async def test_an_idle_connection_is_closed_after_keep_alive(start_backend, start_gateway):
    gateway = await start_gateway("timeouts: {keep_alive: 200ms}", await start_backend())
    client = await gateway.connect()
    for _ in range(2):
        await client.send(post())
        assert (await client.answer()).status == 200
    began_s = time.monotonic()
    assert await client.rest(SOON_S) == b""
    assert time.monotonic() - began_s >= 0.15


async def test_a_request_begun_behind_an_answered_one_has_its_deadline_too(start_backend, start_gateway):
    gateway = await start_gateway("timeouts: {request_body: 200ms}", await start_backend())
    client = await gateway.connect()
    await client.send(post() + post()[:-3])
    assert (await client.answer()).status == 200
    assert (await client.answer(SOON_S)).status == 408


async def test_an_idle_upstream_connection_is_closed(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("pool: {idle: 100ms}", backend)
    await gateway.ask(post())
    await asyncio.wait_for(backend.connections[0].is_lost.wait(), SOON_S)


async def test_a_slow_client_loses_no_time_to_the_next_request(start_backend, start_gateway):
    """The head deadline of a request starts with its first byte, not with the connection."""
    gateway = await start_gateway("timeouts: {request_head: 200ms}", await start_backend())
    client = await gateway.connect()
    await client.send(get("/v1/models"))
    await client.answer()
    await client.send(0.3, post()[:30], 0.05, post()[30:])
    assert (await client.answer()).status == 200
