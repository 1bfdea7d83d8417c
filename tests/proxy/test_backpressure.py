"""What one side does not take, the other does not send: memory stays bounded, and nothing is lost."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.proxy.dialogue import (
    BODY,
    HANG,
    LAST_CHUNK,
    Client,
    chunk,
    event_stream,
    get,
    post,
    reply,
    settled,
)

MIB = 2**20
BLOCK = bytes(range(256)) * 256  # 64 KiB
COUNT = 400  # 25 MiB: more than all socket buffers on the way


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway("timeouts: {write: 300ms, stall: 5s}", backend), backend


async def small_window(gateway) -> Client:
    """A client whose kernel takes little ahead of what it reads."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    found.setblocking(False)
    await asyncio.get_running_loop().sock_connect(found, ("127.0.0.1", gateway.port))
    client = Client(*await asyncio.open_connection(sock=found, limit=16_384))
    gateway._clients.append(client)
    return client


async def tight_window(gateway) -> Client:
    """A client with a small window at the gateway's end too: what it does not read stays in the gateway."""
    client = await small_window(gateway)
    assert await settled(lambda: len(gateway.plane._connections) == 1)
    (connection,) = gateway.plane._connections
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return client


def owed_bytes(gateway) -> int:
    return sum(connection.transport.get_write_buffer_size() for connection in gateway.plane._connections)


async def test_a_slow_reader_pauses_the_backend_and_gets_all(pair):
    gateway, backend = pair
    backend.will(event_stream() + chunk(BLOCK) * COUNT + LAST_CHUNK)
    client = await small_window(gateway)
    await client.send(post())
    await client.head()
    peak, received = 0, bytearray()
    while part := await client.chunk():
        received += part
        peak = max(peak, owed_bytes(gateway))
        if len(received) % 50 == 0:
            await asyncio.sleep(0.02)
    assert received == BLOCK * COUNT
    assert peak < 2 * MIB
    await client.send(post())
    assert (await client.answer()).status == 200


async def test_the_backend_really_waits(pair):
    gateway, backend = pair
    backend.will(event_stream() + chunk(BLOCK) * COUNT + LAST_CHUNK)
    client = await small_window(gateway)
    client.stop_reading()
    await client.send(post())
    assert await settled(lambda: bool(backend.requests))
    await asyncio.sleep(0.15)
    held = backend.open_connections[0].transport.get_write_buffer_size()
    assert held > COUNT * len(BLOCK) / 2, "the gateway took what its client did not"
    assert owed_bytes(gateway) < 2 * MIB
    client.read_on()
    answer = await client.answer(10)
    assert answer.is_whole and len(answer.body) == COUNT * len(BLOCK)


async def test_who_reads_nothing_is_given_up_and_the_backend_freed(pair):
    gateway, backend = pair
    backend.will(event_stream() + chunk(BLOCK) * COUNT, HANG)
    client = await small_window(gateway)
    client.stop_reading()
    began_s = time.monotonic()
    await client.send(post())
    assert await settled(lambda: bool(backend.requests))
    await asyncio.wait_for(backend.connections[0].is_lost.wait(), 2)
    assert time.monotonic() - began_s >= 0.3
    assert await settled(lambda: gateway.is_clean)


@pytest.mark.parametrize("lines", [[], ["Connection: close"]], ids=["keep-alive", "close"])
async def test_who_does_not_read_the_end_of_an_answer_is_given_up_too(start_backend, start_gateway, lines):
    """The backend is done, but the last bytes wait for a client that reads nothing."""
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {write: 300ms, keep_alive: 100ms}", backend)
    backend.will(reply(b"x" * 60_000))  # below the mark at which writing is paused
    client = await tight_window(gateway)
    client.stop_reading()
    await client.send(post(BODY, *lines))
    assert await settled(lambda: owed_bytes(gateway) > 0 and gateway.is_clean)
    began_s = time.monotonic()
    assert await settled(lambda: not gateway.plane._connections, 3)
    assert time.monotonic() - began_s >= 0.2


async def test_a_cut_answer_that_is_not_read_does_not_stay_for_ever(pair):
    gateway, backend = pair
    gone = asyncio.Event()
    backend.will(event_stream() + chunk(bytes(60_000)), gone, b"ZZ\r\n")
    client = await tight_window(gateway)
    client.stop_reading()
    await client.send(post())
    assert await settled(lambda: owed_bytes(gateway) > 0)
    gone.set()
    assert await settled(lambda: not gateway.plane._connections and gateway.is_clean, 3)


async def test_a_slow_reader_of_a_last_answer_gets_all_of_it(pair):
    """It needs longer than the write timeout for the whole, but never that long for a part."""
    gateway, backend = pair
    backend.will(reply(BLOCK * 4))
    client = await tight_window(gateway)
    await client.send(post(BODY, "Connection: close"))
    await client.head()
    body = b""
    while len(body) < len(BLOCK) * 4:
        part = await client.reader.read(8_192)
        assert part, f"cut after {len(body)} bytes"
        body += part
        await asyncio.sleep(0.03)
    assert body == BLOCK * 4


async def test_a_paused_connection_serves_again_when_its_answer_ended_meanwhile(pair):
    """The answer ends in the very segment that made the client's side pause."""
    gateway, backend = pair
    client = await small_window(gateway)
    for _ in range(10):
        backend.will(reply(BLOCK * 4))
        client.stop_reading()
        await client.send(post())
        await asyncio.sleep(0.01)
        client.read_on()
        answer = await client.answer()
        assert answer.body == BLOCK * 4
    assert (await gateway.ask(post())).status == 200


async def test_a_body_beyond_the_limit_is_refused_by_its_length(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("max_body: 64KiB", backend)
    client = await gateway.connect()
    await client.send(post(b"x" * 65_537)[:200])
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert await client.rest() == b""
    assert backend.received_bytes == 0


async def test_a_chunked_body_is_refused_when_it_passes_the_limit(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("max_body: 64KiB", backend)
    client = await gateway.connect()
    head = post().replace(b"Content-Length: 13", b"Transfer-Encoding: chunked").replace(BODY, b"")
    await client.send(head, *[chunk(b" " * 20_000)] * 3)
    assert await client.is_silent(0.02)
    await client.send(chunk(b" " * 20_000))
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert await client.rest() == b""
    assert backend.received_bytes == 0


async def test_a_body_of_exactly_the_limit_passes(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("max_body: 64KiB", backend)
    body = b'{"model":"m"' + b" " * (65_536 - 13) + b"}"
    assert (await gateway.ask(post(body))).status == 200
    assert (await gateway.ask(post(body[:-1] + b" }"))).status == 413


async def test_the_answer_to_a_client_that_goes_on_sending_is_not_lost(start_backend, start_gateway):
    gateway = await start_gateway("max_body: 1KiB", await start_backend())
    client = await gateway.connect()
    await client.send(post(b"x" * 3_000_000))  # it does not look before all is sent
    assert (await client.answer()).status == 413


async def test_all_bodies_together_are_bounded_and_go_on_when_there_is_room(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("max_body: 1MiB\nmax_buffered: 2MiB", backend)
    answered = asyncio.Event()
    backend.default = [answered, reply()]
    body = b'{"model":"m","x":"%b"}' % (b"x" * (MIB - 100))
    clients = [await gateway.connect() for _ in range(6)]
    sending = [asyncio.ensure_future(client.send(post(body))) for client in clients]
    assert await settled(lambda: gateway.plane.buffered_bytes > 2 * MIB)
    await asyncio.sleep(0.05)
    assert gateway.plane.buffered_bytes < 2 * MIB + 6 * 256 * 1024 + MIB
    assert len(backend.requests) < 6
    answered.set()
    for client in clients:
        assert (await client.answer(10)).status == 200
    await asyncio.gather(*sending)
    assert {len(request.body) for request in backend.requests} == {len(body)}


async def test_reading_is_not_stopped_for_the_small_ones_of_the_gateway_s_own(start_backend, start_gateway):
    gateway = await start_gateway("max_body: 1MiB\nmax_buffered: 1MiB", await start_backend())
    client = await gateway.connect()
    await client.send(get("/v1/models") * 50)
    for _ in range(50):
        assert (await client.answer()).status == 200


async def test_two_half_bodies_do_not_wait_for_each_other_for_ever(start_backend, start_gateway):
    """Together beyond `max_buffered`, and each too far on to be the one that waits."""
    backend = await start_backend()
    gateway = await start_gateway("max_body: 1MiB\nmax_buffered: 1MiB", backend)
    body = b'{"model":"m","x":"%b"}' % (b"x" * (MIB * 7 // 10))
    wire = post(body)
    half = len(wire) * 8 // 10
    clients = [await gateway.connect() for _ in range(2)]
    for client in clients:
        await client.send(wire[:half])
    await settled(lambda: gateway.plane.buffered_bytes >= MIB)
    for client in clients:
        client.writer.write(wire[half:])
    for client in clients:
        assert (await client.answer()).status == 200


async def test_a_backend_that_answers_early_ends_the_upload(start_backend, start_gateway):
    """FAULTS RS-51: the answer passes, and the half-written connection is not used again."""
    backend = await start_backend()
    gateway = await start_gateway(backend)

    def answer_early(connection, data: bytes) -> bool:
        connection.transport.pause_reading()
        connection.transport.write(reply(b"enough", status="413 Enough"))
        return True

    client = await gateway.connect()
    await gateway.ask(post())  # the connection is pooled now
    connection = backend.connections[0]
    backend.intercept = answer_early
    await client.send(post(b'{"model":"m","x":"%b"}' % (b"x" * (16 * MIB))))
    answer = await client.answer(5)
    assert (answer.status, answer.body) == (413, b"enough")
    backend.intercept = lambda connection, data: True
    connection.transport.resume_reading()
    await asyncio.wait_for(connection.is_lost.wait(), 1)
    backend.intercept = None
    assert (await gateway.ask(post())).status == 200
