"""Requests on one connection are answered in order, each for itself, whatever their number."""

from __future__ import annotations

import asyncio
import resource

import pytest

from tests.proxy.dialogue import BODY, get, post, reply, settled


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway(backend), backend


def numbered(number: int) -> bytes:
    return post(BODY, f"x-request-id: n{number}")


async def in_order(client, count: int) -> None:
    for number in range(count):
        answer = await client.answer()
        assert (answer.status, answer.header("x-request-id")) == (200, f"n{number}")


@pytest.mark.parametrize("count", [2, 16, 17, 18, 33, 200])
async def test_requests_in_one_segment_are_answered_in_order(pair, count):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(b"".join(map(numbered, range(count))))
    await in_order(client, count)
    assert [request.header("x-request-id") for request in backend.requests] == [f"n{n}" for n in range(count)]
    await client.send(post())
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("size", [1, 7, 160, 1000])
async def test_requests_in_pieces_are_answered_in_order(pair, size):
    gateway, backend = pair
    client = await gateway.connect()
    wire = b"".join(map(numbered, range(30)))
    await client.send(*[wire[at : at + size] for at in range(0, len(wire), size)])
    await in_order(client, 30)
    assert {request.body for request in backend.requests} == {BODY}


@pytest.mark.parametrize("count", [17, 200, 1000])
async def test_answers_of_the_gateway_s_own_keep_their_order(pair, count):
    gateway, _ = pair
    client = await gateway.connect()
    paths = ["/v1/models", "/nowhere", "/v2/health/live"]
    wire = b"".join(get(paths[n % 3], f"x-request-id: n{n}") for n in range(count))
    await client.send(wire)
    for number in range(count):
        answer = await client.answer()
        assert answer.header("x-request-id") == f"n{number}"
        assert answer.status == (404 if number % 3 == 1 else 200)


async def test_own_and_passed_answers_mixed_keep_their_order(pair):
    gateway, backend = pair
    backend.default = [0.002, reply()]
    client = await gateway.connect()
    wire = b"".join(numbered(n) if n % 3 else get("/v1/models", f"x-request-id: n{n}") for n in range(100))
    await client.send(wire)
    await in_order(client, 100)


async def test_one_at_a_time_reaches_a_backend(pair):
    gateway, backend = pair
    first = asyncio.Event()
    backend.will(first, reply())
    client = await gateway.connect()
    await client.send(b"".join(map(numbered, range(5))))
    assert await settled(lambda: len(backend.requests) == 1)
    assert gateway.in_flight == 1
    first.set()
    await in_order(client, 5)


async def test_bodies_may_look_like_requests(pair):
    gateway, backend = pair
    body = b'{"model":"m","x":"%b"}' % (post().replace(b'"', b"'").replace(b"\r\n", b"\\r\\n") * 3)
    blank = b'{"model":"m"' + b"\r\n\r\n" * 40 + b"}"
    client = await gateway.connect()
    await client.send(post(body) + post(blank) + post(body))
    for _ in range(3):
        assert (await client.answer()).status == 200
    assert [request.body for request in backend.requests] == [body, blank, body]


@pytest.mark.parametrize(
    "garbage", [bytes(10), b"NONSENSE\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/3\r\n\r\n"]
)
async def test_garbage_after_a_request_is_refused_after_its_answer(pair, garbage):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(post() + garbage)
    assert (await client.answer()).status == 200
    refused = await client.answer()
    assert refused.status in (400, 505) and refused.error["code"] == "invalid_request"
    assert await client.rest() == b""
    assert len(backend.requests) == 1


async def test_garbage_after_many_requests_is_refused_in_its_turn(pair):
    gateway, _ = pair
    client = await gateway.connect()
    await client.send(b"".join(map(numbered, range(40))) + b"\x00\x01")
    await in_order(client, 40)
    assert (await client.answer()).status == 400
    assert await client.rest() == b""


@pytest.mark.parametrize("first", [post(BODY, "Connection: close"), post(version="1.0")])
async def test_what_comes_after_the_last_request_is_ignored(pair, first):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(first + post())
    assert (await client.answer()).status == 200
    assert await client.rest() == b""
    assert len(backend.requests) == 1


async def test_a_refused_request_keeps_its_place_and_the_connection(pair):
    gateway, _ = pair
    client = await gateway.connect()
    await client.send(post() + post(b"{}") + post(b"nonsense") + post())
    assert [(await client.answer()).status for _ in range(4)] == [200, 400, 400, 200]


async def test_an_upgrade_is_not_followed(pair):
    gateway, backend = pair
    upgrade = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: x",
        "Sec-WebSocket-Version: 13",
    ]
    client = await gateway.connect()
    await client.send(post(BODY, *upgrade) + get("/v1/models", *upgrade) + post())
    assert [(await client.answer()).status for _ in range(3)] == [200, 200, 200]
    assert [request.body for request in backend.requests] == [BODY, BODY]
    assert not [name for name, _ in backend.requests[0].headers if name.startswith(("upgrade", "sec-"))]


async def test_an_upgrade_with_a_chunked_body_is_read_as_framed(pair):
    gateway, backend = pair
    head = post(BODY, "Connection: Upgrade", "Upgrade: foo")
    head = head.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked")
    wire = head.replace(BODY, b"6\r\n" + BODY[:6] + b"\r\n7\r\n" + BODY[6:] + b"\r\n0\r\n\r\n")
    for size in (1, 10, len(wire)):
        client = await gateway.connect()
        await client.send(*[wire[at : at + size] for at in range(0, len(wire), size)], post())
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert {request.body for request in backend.requests} == {BODY}


async def test_who_pipelines_and_does_not_read_fills_no_memory(pair):
    """FAULTS SL-05: what is not read is not answered, and so is not even parsed."""
    gateway, _ = pair
    client = await gateway.connect()
    client.stop_reading()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wire = get("/v1/models") * 2000
    sent = 0
    while client.writer.transport.get_write_buffer_size() < 1_000_000 and sent < 200:
        await client.send(wire)
        sent += 1
        await asyncio.sleep(0.002)
    assert sent < 200, "the gateway read on and on"
    (connection,) = gateway.plane._connections
    assert connection.transport.get_write_buffer_size() < 2_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024
    client.reset()
