"""Who is late is told so in a sweep, and thousands at once do not keep everybody else waiting."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from gateway.proxy import plane
from tests.proxy.dialogue import post, settled


async def test_many_who_are_late_together_are_told_in_many_turns(start_backend, start_gateway, monkeypatch):
    monkeypatch.setattr(plane, "SWEEP_TURN_S", 0.0)
    gateway = await start_gateway("timeouts: {request_head: 1s}", await start_backend())
    late = [await gateway.connect() for _ in range(60)]
    for client in late:
        await client.send(post()[:40])
    assert await settled(lambda: gateway.plane.connection_count == len(late))
    gateway.plane._sweeper.cancel()
    for connection in gateway.plane._connections:
        connection.deadline_s = gateway.plane.clock()
    told_by_turn = []
    gateway.plane._sweep()
    while len(gateway.records) < len(late):
        told_by_turn.append(len(gateway.records))
        await asyncio.sleep(0)
    each = [after - before for before, after in pairwise(told_by_turn)]
    assert max(each) == 1, "more than one of them in a turn that was to be as short as can be"
    for client in late:
        assert (await client.answer()).status == 408
    assert {record.refused for record in gateway.records} == {"too_slow"}


async def test_who_left_or_ended_a_request_meanwhile_is_not_told(start_backend, start_gateway, monkeypatch):
    monkeypatch.setattr(plane, "SWEEP_TURN_S", 0.0)
    gateway = await start_gateway("timeouts: {request_head: 1s}", await start_backend())
    clients = [await gateway.connect() for _ in range(20)]
    for client in clients:
        await client.send(post()[:40])
    assert await settled(lambda: gateway.plane.connection_count == len(clients))
    gateway.plane._sweeper.cancel()
    for connection in gateway.plane._connections:
        connection.deadline_s = gateway.plane.clock()
    gateway.plane._sweep()  # tells one, and goes on in the next turns
    told = len(gateway.records)
    for connection in tuple(gateway.plane._connections)[:10]:
        connection.transport.abort()
    for connection in gateway.plane._connections:
        connection.deadline_s += 100
    await asyncio.sleep(0.05)
    assert len(gateway.records) == told == 1
