"""Connections are counted: one over a cap gets a clear answer, and nothing grows with a flood of them."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import msgspec
import pytest

from gateway.proxy import door
from gateway.proxy.door import client_of
from gateway.proxy.request_reader import MAX_PIECES
from tests.proxy.dialogue import CHAT, post, reply, settled


def refused_in(gateway) -> dict[str, int]:
    return {reason: count for reason, count in gateway.plane.door.refused.items() if count}


@pytest.mark.parametrize(
    ("setting", "status"), [("max_connections", 503), ("max_connections_per_client", 429)]
)
async def test_one_over_the_cap_gets_an_answer_and_the_others_are_served(
    start_backend, start_gateway, setting, status
):
    gateway = await start_gateway(f"{setting}: 2", await start_backend())
    first, second = await gateway.connect(), await gateway.connect()
    for client in (first, second):
        await client.send(post())
        assert (await client.answer()).status == 200
    third = await gateway.connect()
    await third.send(post())
    answer = await third.answer()
    assert (answer.status, answer.error["code"]) == (status, "too_many_connections")
    assert (answer.header("retry-after"), answer.header("connection")) == ("1", "close")
    assert await third.rest() == b""
    assert refused_in(gateway) == {setting: 1}
    await first.send(post())
    assert (await first.answer()).status == 200
    first.close()
    assert await settled(lambda: gateway.plane.connection_count == 1)
    assert (await gateway.ask(post())).status == 200
    second.close()
    assert await settled(lambda: not gateway.plane.connection_count and not gateway.plane.door._by_client)


async def test_in_a_flood_only_some_are_told(start_backend, start_gateway, monkeypatch):
    monkeypatch.setattr(door, "MAX_ANSWERED", 3)
    gateway = await start_gateway("max_connections: 1", await start_backend())
    inside = await gateway.connect()
    await inside.send(post())
    await inside.answer()
    flood = [await gateway.connect() for _ in range(10)]
    assert await settled(lambda: sum(gateway.plane.door.refused.values()) == 10)
    assert len(gateway.plane.door.answered) <= 3
    told = [await client.rest() for client in flood]
    assert sum(b"too_many_connections" in answer for answer in told) == 3
    for client in (*flood, inside):
        client.close()
    assert await settled(lambda: not gateway.plane.door.answered and not gateway.plane.connection_count)


async def test_a_cap_follows_a_new_configuration(start_backend, start_gateway):
    gateway = await start_gateway("max_connections: 1", await start_backend())
    await gateway.connect()
    assert await settled(lambda: gateway.plane.connection_count == 1)
    assert (await gateway.ask(post())).status == 503
    config = gateway.gateway._config
    gateway.gateway.adopt(msgspec.structs.replace(config, max_connections=2))
    assert (await gateway.ask(post())).status == 200


def test_who_counts_as_one_client():
    assert client_of("10.0.0.1") == "10.0.0.1" == client_of("::ffff:10.0.0.1")
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:0:0:2")
    assert client_of("2001:db8::1") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2")
    assert client_of("") == "" and client_of("no:address") == "no:address"


async def test_bodies_that_wait_their_turn_are_as_large_as_one_may_be(start_backend, start_gateway):
    """A client that pipelines large requests is read no further than that."""
    backend = await start_backend()
    gateway = await start_gateway("max_body: 100KiB", backend)
    go_on = asyncio.Event()
    backend.will(go_on, reply())
    client = await gateway.connect()
    body = b'{"model":"m","x":"%b"}' % (b"x" * 60_000)
    await client.send(post(), *[post(body)] * 10)
    assert await settled(lambda: len(backend.requests) == 1)
    await asyncio.sleep(0.05)
    (connection,) = gateway.plane._connections
    assert len(connection._waiting) == 2
    assert gateway.plane.buffered_bytes < 200_000
    go_on.set()
    assert [(await client.answer()).status for _ in range(11)] == [200] * 11


async def test_a_body_in_tiny_chunks_costs_what_it_holds(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(backend)
    client = await gateway.connect()
    text = b'{"model":"m","x":"' + b"ab" * 40_000
    head = f"POST {CHAT} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    tracemalloc.start()
    try:
        wire = b"".join(b"2\r\n%b\r\n" % text[at : at + 2] for at in range(0, len(text), 2))
        before, _ = tracemalloc.get_traced_memory()
        client.writer.write(head + wire)
        assert await settled(lambda: gateway.plane.buffered_bytes == len(text), within_s=10)
        (connection,) = gateway.plane._connections
        assert len(connection._reader._body) <= MAX_PIECES
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 3 * len(text), "each chunk is kept as an object"
    await client.send(b'2\r\n"}\r\n0\r\n\r\n')
    assert (await client.answer()).status == 200
    assert json.loads(backend.requests[0].body)["x"] == "ab" * 40_000
