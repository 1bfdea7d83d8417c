"""Two gateways of one fleet at a real Redis: a slot that one frees wakes who waits at the other."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from tests.proxy.dialogue import post, reply, settled


@pytest.fixture
async def pair(redis_server, start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    config = f"hold: {{max_wait: 20s}}\nstate: {{url: '{redis_server.url}', fleet: hold-{uuid4().hex}}}\n"
    gateways = [await start_gateway(config, primary, backup, limit=1) for _ in range(2)]
    for gateway in gateways:
        assert (await gateway.ask(post())).status == 200  # from now on the primary's pace is known
    return gateways, primary, backup


async def waits(gateway):
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: gateway.plane.holding.count == 1)
    return client


async def test_a_slot_that_one_gateway_frees_wakes_who_waits_at_the_other(pair):
    (one, other), primary, backup = pair
    backup.requests.clear()
    done = asyncio.Event()
    primary.will(done, reply())
    running = await one.connect()
    await running.send(post())
    assert await settled(lambda: one.leases == 1)
    client = await waits(other)
    await asyncio.sleep(0.1)
    assert one.leases + other.leases == 1
    done.set()
    answer = await client.answer()
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "primary")
    assert int(answer.header("x-spillway-queue-ms")) >= 95
    assert backup.requests == []
    await running.answer()


async def test_who_leaves_while_it_waits_holds_up_nobody_anywhere(pair):
    (one, other), primary, _ = pair
    done = asyncio.Event()
    primary.will(done, reply())
    running = await one.connect()
    await running.send(post())
    assert await settled(lambda: one.leases == 1)
    leaving, staying = await waits(other), None
    staying = await waits(one)
    await asyncio.sleep(0.06)
    leaving.reset()
    assert await settled(lambda: other.plane.holding.count == 0)
    done.set()
    assert (await staying.answer()).header("x-spillway-cluster") == "primary"
    await running.answer()
    assert await settled(lambda: one.is_clean and other.is_clean)
