"""No byte of one exchange reaches another, no secret the other side: whatever a backend or a client does."""

from __future__ import annotations

import asyncio
import gc
import random
import re

import pytest

from tests.proxy.dialogue import HANG, LAST_CHUNK, Ending, chunk, event_stream, post, reply, settled
from tests.security.poison import CALM, GOOD, POISON

_SECRET = "sk-canary-0123456789"


async def _only_open(backend, count):
    assert await settled(lambda: len(backend.open_connections) <= count)


LEFTOVERS = {
    "byte": reply(b"ok") + b"x",
    "blank": reply(b"ok") + b"\r\n",
    "answer": reply(b"ok") + POISON,
    "half": reply(b"ok") + POISON[:20],
    "interim": reply(b"ok") + b"HTTP/1.1 103 E\r\n\r\n",
    "behind-chunks": event_stream() + chunk(b"ok") + LAST_CHUNK + b"x",
    "behind-204": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "behind-304": b"HTTP/1.1 304 X\r\n\r\n" + POISON,
    "behind-empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + POISON,
    "close": reply(b"ok", "Connection: close"),
    "close-in-a-list": reply(b"ok", "Connection: x, Close"),
    "http-1.0": reply(b"ok").replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
@pytest.mark.parametrize("sent", LEFTOVERS.values(), ids=LEFTOVERS)
async def test_a_connection_with_anything_left_over_is_not_used_again(pair, sent, later):
    gateway, backend = pair
    at = len(sent) - 1
    backend.will(*([sent[:at], 0.01, sent[at:]] if later else [sent]))
    client = await gateway.connect()
    for number in range(4):
        await client.send(post())
        answer = await client.answer()
        assert b"POISON" not in answer.head + answer.body
        assert number == 0 or answer.body == GOOD
        await _only_open(backend, min(number, 1))
    assert {request.connection for request in backend.requests[1:]} == {1}


async def test_an_early_answer_costs_the_connection_and_not_the_upload(pair):
    """RS-51: what the backend did not read must not be the beginning of the next request."""
    gateway, backend = pair
    body = b'{"model":"m","x":"' + b"a" * 8_000_000 + b'"}'

    def reject(connection, data):
        if not data.startswith(b"POST"):
            return True
        if b"content-length: %d\r\n" % len(body) not in data:
            return False
        connection.transport.write(reply(b"early", status="413 Too Large"))
        connection.transport.pause_reading()
        return True

    backend.intercept = reject
    answer = await gateway.ask(post(body))
    assert (answer.status, answer.body) == (413, b"early")
    assert (await gateway.ask(post())).body == GOOD
    assert backend.requests[0].connection == 1


def _endings(random_: random.Random, mark: bytes):
    """A good answer with the mark, or one that is damaged in one of many ways; all bear the mark."""
    body = mark * random_.randint(1, 400)
    chunks = b"".join(chunk(mark * 3) for _ in range(random_.randint(1, 20)))
    return random_.choice(
        [
            [reply(body)],
            [reply(body)],
            [event_stream() + chunks + LAST_CHUNK],
            [reply(body) + mark],
            [event_stream() + chunks, 0.001, b"XX\r\n" + mark],
            [event_stream() + chunks + LAST_CHUNK + mark],
            [reply(body)[:-3], Ending.FIN],
            [reply(body)[:-3], Ending.RST],
            [b"HTTP/1.1 103 E\r\nX: %b\r\n\r\n" % mark, reply(body)],
            [b"HTTP/1.1 200 OK\r\n\r\n" + body, Ending.FIN],
            [b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n" + mark],
            [reply(body, status="500 " + mark.decode())],
            [mark],
            [Ending.RST],
        ]
    )


@pytest.mark.parametrize("seed", range(3))
async def test_marks_never_cross(pair, seed):
    """Forty clients on kept connections, each with marks of its own; some leave in the middle."""
    gateway, backend = pair
    random_ = random.Random(seed)
    backend.default = lambda request: _endings(random_, re.search(rb"<\d+-\d+>", request.body)[0])

    async def talk(number: int) -> None:
        client = await gateway.connect()
        for turn in range(25):
            mark = b"<%d-%d>" % (number, turn)
            await client.send(post(b'{"model":"m","x":"%b"}' % mark))
            if random_.random() < 0.1:
                client.reset()
                client = await gateway.connect()
                continue
            answer = await client.answer()
            foreign = set(re.findall(rb"<\d+-\d+>", answer.head + answer.body)) - {mark}
            assert not foreign
            assert not answer.is_whole or answer.status != 200 or answer.body.count(mark) >= 1
            if not answer.is_whole or answer.header("connection") == "close":
                client.close()
                client = await gateway.connect()
        client.close()

    await asyncio.gather(*map(talk, range(40)))
    assert not backend.malformed
    assert await settled(lambda: gateway.is_clean)


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0-x\r\n", POISON, b"\0"], ids=["end", "greeting", "answer", "nul"]
)
async def test_who_speaks_or_leaves_when_it_is_connected_to_is_not_asked(pair, sent):
    gateway, backend = pair
    listener = await asyncio.start_server(
        lambda reader, writer: (writer.write(sent), writer.close()), "127.0.0.1", 0
    )
    port, backend.port = backend.port, listener.sockets[0].getsockname()[1]
    pool = next(iter(gateway.plane.pools.values()))
    endpoint = pool.endpoint
    object.__setattr__(pool, "endpoint", type(endpoint)(**{**_fields(endpoint), "port": backend.port}))
    answer = await gateway.ask(post(), within_s=1.0)
    assert answer.status == 502 and b"POISON" not in answer.body
    pool.endpoint, backend.port = endpoint, port
    listener.close()


def _fields(endpoint):
    return {name: getattr(endpoint, name) for name in endpoint.__slots__}


CREDENTIALS = (
    "Authorization", "Cookie", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "X-Amz-Security-Token",
    "OpenAI-Organization", "OpenAI-Project", "Proxy-Authorization",
)  # fmt: skip
FROM_BACKENDS = (
    *CREDENTIALS, "Set-Cookie", "Set-Cookie2", "WWW-Authenticate", "Proxy-Authenticate",
    "Authentication-Info", "Proxy-Authentication-Info", "Alt-Svc", "Strict-Transport-Security",
    "Clear-Site-Data", "X-Spillway-Secret", "Set_Cookie",
)  # fmt: skip
SPELLINGS = (str, str.lower, str.upper)


async def test_a_backend_is_told_nothing_that_nobody_asked_for(pair):
    """No encoding, agent or cookie of the gateway's own: `Accept-Encoding` would change the answer."""
    gateway, backend = pair
    await gateway.ask(post())
    told = {name for name, _ in backend.requests[0].headers}
    forwarded = {"x-forwarded-for", "x-forwarded-proto", "x-request-id"}
    assert told == {"host", "content-type", "content-length", *forwarded}


@pytest.mark.parametrize("spell", SPELLINGS)
async def test_no_credential_of_a_client_leaves(pair, spell):
    gateway, backend = pair
    await gateway.ask(post(b'{"model":"m"}', *(f"{spell(name)}: canary" for name in CREDENTIALS)))
    assert b"canary" not in backend.requests[0].raw


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "503 Service Unavailable"])
async def test_no_state_and_no_challenge_of_a_backend_reaches_a_client(pair, spell, status):
    gateway, backend = pair
    backend.will(reply(b"ok", *(f"{spell(name)}: canary" for name in FROM_BACKENDS), status=status))
    answer = await gateway.ask(post())
    assert answer.body == b"ok" and b"canary" not in answer.head


@pytest.fixture
async def keyed(start_backend, start_gateway):
    """A cluster with a credential of its own."""
    backend = await start_backend()
    cluster = f"{{name: a, limit: 8, backends: ['{backend.url}'], auth: {{value: 'Bearer {_SECRET}'}}}}"
    return await start_gateway(f"{CALM}clusters: [{cluster}]"), backend


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "line", ["X-Echo: {}", "X-Echo: Bearer {}; x", "Location: http://x/?key={}", "{}: x"]
)
async def test_a_credential_that_a_backend_echoes_in_a_header_is_dropped(keyed, line, count):
    gateway, backend = keyed
    backend.default = [reply(b"ok", line.format(_SECRET), "X-Kept: 1")]
    client = await gateway.connect()
    for _ in range(count):
        await client.send(post())
        answer = await client.answer()
        assert (answer.body, answer.header("x-kept")) == (b"ok", "1")
        assert _SECRET.encode() not in answer.head
    assert backend.requests[-1].all("authorization") == [f"Bearer {_SECRET}"]


async def test_a_credential_in_an_error_is_overwritten_and_its_length_stays(keyed):
    gateway, backend = keyed
    text = b'{"error":{"message":"Incorrect API key provided: %b"}}' % _SECRET.encode()
    framed = event_stream().replace(b"200 OK", b"401 Unauthorized")
    for script in (
        [reply(text, status="401 Unauthorized")],
        [framed + chunk(text), 0.01, chunk(text) + LAST_CHUNK],
    ):
        for _ in range(2):
            backend.will(*script)
            answer = await gateway.ask(post())
            assert answer.status == 401 and answer.is_whole
            assert _SECRET.encode() not in answer.body and b"*" * len(_SECRET) in answer.body


async def test_a_credential_in_the_reason_is_no_answer(keyed):
    gateway, backend = keyed
    backend.will(reply(b"ok", status=f"200 {_SECRET}"))
    answer = await gateway.ask(post())
    assert answer.status == 502 and _SECRET.encode() not in answer.head + answer.body


async def test_no_secret_is_in_the_repr_of_anything(keyed):
    """What an unforeseen traceback, debugger or log line may show of objects at work."""
    gateway, backend = keyed
    backend.default = [HANG]
    client = await gateway.connect()
    await client.send(post(b'{"model":"m"}', "Authorization: canary-client", "Cookie: canary-client"))
    assert await settled(lambda: bool(backend.requests))
    of_ours = [each for each in gc.get_objects() if str(type(each).__module__).startswith("gateway.")]
    shown = "\n".join(map(repr, of_ours))
    assert "UpstreamPool" in shown and "Exchange" in shown and "BackendEndpoint" in shown
    assert _SECRET not in shown and "canary-client" not in shown
