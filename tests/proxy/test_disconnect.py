"""A client that leaves takes its work along: the upstream is closed at once and the slot is free."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.model import Outcome, Reason
from tests.proxy.dialogue import BODY, EVENT, HANG, WaitingStore, chunk, event_stream, post, settled

AT_ONCE_S = 0.3


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway(backend), backend


def leave(client, how: str) -> None:
    if how == "close":
        client.close()
    elif how == "reset":
        client.reset()
    else:
        client.writer.write_eof()


WAYS = ["close", "reset", "half-close"]


async def is_gone_at_once(gateway, backend) -> None:
    await asyncio.wait_for(backend.connections[-1].is_lost.wait(), AT_ONCE_S)
    assert await settled(lambda: gateway.is_clean, AT_ONCE_S)


@pytest.mark.parametrize("how", WAYS)
async def test_before_the_first_byte(pair, how):
    gateway, backend = pair
    backend.will(HANG)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(backend.requests) == 1)
    assert (gateway.in_flight, gateway.leases) == (1, 1)
    leave(client, how)
    await is_gone_at_once(gateway, backend)


@pytest.mark.parametrize("how", WAYS)
async def test_after_the_first_byte(pair, how):
    gateway, backend = pair
    backend.will(event_stream() + chunk(EVENT), HANG)
    client = await gateway.connect()
    await client.send(post())
    await client.head()
    leave(client, how)
    await is_gone_at_once(gateway, backend)


@pytest.mark.parametrize("how", WAYS)
async def test_with_more_requests_waiting_none_of_them_is_sent(pair, how):
    gateway, backend = pair
    backend.will(HANG)
    client = await gateway.connect()
    await client.send(post() * 5)
    assert await settled(lambda: len(backend.requests) == 1)
    leave(client, how)
    await is_gone_at_once(gateway, backend)
    assert len(backend.requests) == 1


async def test_while_it_sends_its_body(pair):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(post()[:-3])
    assert await settled(lambda: gateway.plane.buffered_bytes > 0)
    client.reset()
    assert await settled(lambda: gateway.is_clean)
    assert backend.received_bytes == 0


async def test_while_the_gateway_connects(start_gateway, deaf_port):
    gateway = await start_gateway(
        "timeouts: {connect: 30s}\n"
        f"clusters: [{{name: a, limit: 8, backends: ['http://127.0.0.1:{deaf_port}']}}]",
        good_request=b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: gateway.in_flight == 1)
    client.reset()
    assert await settled(lambda: gateway.is_clean, AT_ONCE_S)


@pytest.mark.parametrize("how", WAYS)
async def test_while_it_waits_for_a_slot(pair, how):
    gateway, backend = pair
    inner = gateway.plane.store
    gateway.plane.store = store = WaitingStore(inner)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: store.waiting == 1)
    leave(client, how)
    assert await settled(lambda: gateway.is_clean and store.waiting == 0, AT_ONCE_S)
    store.may_answer.set()
    await asyncio.sleep(0.01)
    assert not backend.requests and gateway.is_clean
    gateway.plane.store = inner


async def test_at_once_after_the_request(pair):
    gateway, backend = pair
    backend.default = [HANG]
    for how in WAYS * 10:
        client = await gateway.connect()
        client.writer.write(post())
        leave(client, how)
    assert await settled(lambda: gateway.is_clean)
    assert await settled(lambda: not backend.open_connections)


async def test_a_client_that_left_is_no_failure_of_the_backend(pair):
    gateway, backend = pair
    backend.will(HANG)
    client = await gateway.connect()
    await client.send(post(BODY, "x-request-id: gone"))
    assert await settled(lambda: len(backend.requests) == 1)
    client.close()
    assert await settled(lambda: gateway.is_clean)
    (record,) = gateway.records
    assert (record.request_id, record.outcome) == ("gone", Outcome.of(Reason.CLIENT_LEFT))


async def test_many_that_leave_at_any_moment_leak_nothing(pair):
    gateway, backend = pair
    backend.default = [0.005, event_stream() + chunk(EVENT), 0.005, chunk(EVENT), 0.005, b"0\r\n\r\n"]

    async def come_and_go(number: int) -> None:
        client = await gateway.connect()
        await client.send(post())
        await asyncio.sleep(number * 0.0002)
        leave(client, WAYS[number % 3])

    for _ in range(3):
        await asyncio.gather(*(come_and_go(number) for number in range(100)))
    assert await settled(lambda: gateway.is_clean, 2)
