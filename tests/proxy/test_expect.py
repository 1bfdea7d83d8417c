"""`Expect: 100-continue`: said once, in the request's turn, and never to who must not get it."""

from __future__ import annotations

import pytest

from tests.proxy.dialogue import BODY, CHAT, LAST_CHUNK, chunk, get, post

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway("max_body: 1KiB", backend), backend


def expecting(body: bytes = BODY, path: str = CHAT, value: str = "100-continue") -> tuple[bytes, bytes]:
    whole = post(body, f"Expect: {value}", path=path)
    return whole[: -len(body)], whole[-len(body) :]


async def test_the_body_is_asked_for_and_then_taken(pair):
    gateway, backend = pair
    head, body = expecting(value="100-Continue")
    client = await gateway.connect()
    await client.send(head)
    assert await client.head() == CONTINUE
    await client.send(body)
    assert (await client.answer()).status == 200
    assert backend.requests[0].body == BODY
    assert not backend.requests[0].all("expect")


async def test_a_chunked_body_is_asked_for_too(pair):
    gateway, _ = pair
    head, _ = expecting()
    client = await gateway.connect()
    await client.send(head.replace(b"Content-Length: 13", b"Transfer-Encoding: chunked"))
    assert await client.head() == CONTINUE
    await client.send(chunk(BODY), LAST_CHUNK)
    assert (await client.answer()).status == 200


async def test_behind_another_request_it_waits_for_its_turn(pair):
    gateway, _ = pair
    head, body = expecting()
    client = await gateway.connect()
    await client.send(post() + head)
    assert (await client.answer()).status == 200
    assert await client.head() == CONTINUE
    await client.send(body)
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("before", [post(), get("/v1/models")], ids=["passed", "own"])
async def test_whole_pipelined_requests_that_expect_it_are_answered_in_order(pair, before):
    gateway, backend = pair
    whole = b"".join(expecting())
    client = await gateway.connect()
    await client.send(before + whole + whole)
    statuses = []
    while len([status for status in statuses if status != 100]) < 3:
        statuses.append((await client.answer()).status)
    assert [status for status in statuses if status != 100] == [200, 200, 200]
    assert [request.body for request in backend.requests][-2:] == [BODY, BODY]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (expecting(path="/nowhere")[0], 404),
        (expecting(b'{"model":"m","x":"%b"}' % (b"x" * 2000))[0], 413),
        (expecting(value="200-maybe")[0], 417),
        (expecting()[0].replace(b"Expect", b"Expect: 100-continue\r\nExpect"), 417),
    ],
    ids=["path", "size", "value", "twice"],
)
async def test_what_would_be_refused_gets_the_final_answer_at_once(pair, head, status):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(head)
    answer = await client.answer()
    assert answer.status == status and answer.error
    assert await client.rest() == b""
    assert backend.received_bytes == 0


async def test_an_http_1_0_client_is_never_told_to_continue(pair):
    gateway, _ = pair
    head, body = expecting()
    client = await gateway.connect()
    await client.send(head.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert await client.is_silent(0.05)
    await client.send(body)
    assert (await client.answer()).status == 200


async def test_without_a_body_there_is_nothing_to_continue(pair):
    gateway, _ = pair
    client = await gateway.connect()
    await client.send(get("/v1/models", "Expect: 100-continue"))
    assert (await client.answer()).status == 200
