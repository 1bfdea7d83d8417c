"""WebSocket tunnels: only where configured, only after a backend's valid 101, never longer than allowed."""

from __future__ import annotations

import asyncio
import base64
import hashlib

import pytest
from aiohttp import ClientSession, WSMsgType, web
from aiohttp.test_utils import TestServer

from gateway.core.breaker import Circuit
from gateway.core.fleet import AttemptFinished, TunnelOpened
from gateway.core.model import Reason, Verdict
from tests.proxy.dialogue import Ending, get, post, reply, settled
from tests.proxy.telling import circuit_of, listen
from tests.proxy.tunnels import ACCEPT, KEY, PATH, Switching, ask, switch, text_frame


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {connect: 500ms}", backend)
    return gateway, backend


async def opened(gateway, *lines: str, path: str = PATH):
    """A client whose tunnel is open, and the head of its 101."""
    client = await gateway.connect()
    await client.send(ask(*lines, path=path))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    return client, head


async def recorded(gateway, count: int = 1):
    assert await settled(lambda: len(gateway.records) == count)
    return gateway.records[-1]


# --- the way there -----------------------------------------------------------------------------------


async def test_bytes_pass_both_ways_and_the_slot_is_held_until_the_end(pair):
    gateway, backend = pair
    engine, told = Switching(backend), listen(gateway)
    client, head = await opened(gateway)
    assert f"sec-websocket-accept: {ACCEPT}\r\n".encode() in head
    assert b"x-spillway-cluster: primary\r\n" in head and b"connection: Upgrade\r\n" in head
    await client.send(b"\x81\x85abcdhello", b"more")
    assert await settled(lambda: engine.heard == [b"\x81\x85abcdhellomore"])
    engine.ends[0].transport.write(text_frame(b"answer"))
    assert await client.reader.readexactly(8) == text_frame(b"answer")
    assert (gateway.in_flight, gateway.leases, gateway.plane.tunnels) == (1, 1, 1)
    engine.ends[0].transport.close()
    assert await client.rest() == b""
    client.close()
    record = await recorded(gateway)
    assert (record.status, record.outcome.verdict, record.error_code) == (101, Verdict.SUCCESS, None)
    assert (record.bytes_in, record.bytes_out, record.model) == (15, 8, "m")
    assert record.ttft_s is not None and record.path == "/v1/realtime"
    assert gateway.plane.tunnels == 0
    assert [type(event) for event in told if isinstance(event, (TunnelOpened, AttemptFinished))] == [
        TunnelOpened,
        AttemptFinished,
    ]


async def test_what_the_backend_is_asked(pair):
    gateway, backend = pair
    engine = Switching(backend, switch("Sec-WebSocket-Protocol: realtime", "Set-Cookie: a=b"))
    _, head = await opened(
        gateway,
        "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk-secret",
        "Sec-WebSocket-Protocol: openai-beta.realtime-v1",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Authorization: Bearer secret",
        "OpenAI-Beta: realtime=v1",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    )
    asked = engine.heads[0].decode().lower()
    assert asked.startswith("get /v1/realtime?model=m http/1.1\r\n")
    for line in (
        "connection: upgrade",
        "upgrade: websocket",
        f"sec-websocket-key: {KEY.lower()}",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: realtime, openai-beta.realtime-v1",
        "sec-websocket-extensions: permessage-deflate; client_max_window_bits",
        "openai-beta: realtime=v1",
    ):
        assert f"\r\n{line}\r\n" in asked
    assert "secret" not in asked and "http2" not in asked and "content-length" not in asked
    assert b"sec-websocket-protocol: realtime\r\n" in head and b"cookie" not in head.lower()


async def test_credentials_among_the_subprotocols_go_where_the_clients_own_may(start_backend, start_gateway):
    backend = await start_backend()
    clusters = f"clusters: [{{name: a, limit: 1, backends: ['{backend.url}'], auth: {{pass_client: true}}}}]"
    engine, gateway = Switching(backend), await start_gateway(clusters)
    await opened(gateway, "Sec-WebSocket-Protocol: openai-insecure-api-key.sk-1")
    assert b"sec-websocket-protocol: openai-insecure-api-key.sk-1" in engine.heads[0]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get(PATH), 426),
        (ask(without="Upgrade"), 426),
        (ask("Upgrade: h2c", without="Upgrade"), 426),
        (ask("Upgrade: websocket"), 426),  # twice
        (ask(without="Connection"), 426),
        (ask("Connection: close", without="Connection"), 426),
        (ask(without="Sec-WebSocket-Version"), 426),
        (ask("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"), 426),
        (ask(without="Sec-WebSocket-Key"), 400),
        (ask("Sec-WebSocket-Key: dG9vIHNob3J0", without="Sec-WebSocket-Key"), 400),
        (ask(f"Sec-WebSocket-Key: {KEY}"), 400),  # twice
        (ask("Connection: Sec-WebSocket-Key"), 400),
        (ask("Sec-WebSocket-Protocol: a b"), 400),
        (ask("Sec-WebSocket-Protocol: a, a"), 400),
        (ask("Content-Length: 3") + b"abc", 400),
        (ask("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
        (ask().replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
        (post(path=PATH), 405),
        (ask(path="/v1/realtime/"), 404),
        (ask(path="/v1/realtime?model=a&model=b"), 400),
        (ask(path="/v1/realtime?model=a;model=b"), 400),
        (ask(path="/v1/realtime?a=1;model=b"), 400),
        (ask(path="/v1/realtime?model=../x"), 400),
        (ask(path="/v1/realtime?m%6Fdel=a&model=b"), 400),
    ],
)
async def test_what_is_no_handshake_is_refused_and_nothing_reaches_a_backend(pair, request_, status):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(request_ + post())
    assert (await client.answer()).status == status
    if status not in (404, 405) or b"Content-Length" in request_:
        assert b"HTTP/1.1" not in await client.rest(), "the connection went on"
        assert not backend.requests


@pytest.mark.parametrize(
    "answer",
    [
        switch(accept="AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        switch(without="Sec-"),
        switch(f"Sec-WebSocket-Accept: {ACCEPT}"),  # twice
        switch(without="Upgrade"),
        switch("Upgrade: h2c", without="Upgrade"),
        switch(without="Connection"),
        switch("Sec-WebSocket-Protocol: unasked"),
        switch("Sec-WebSocket-Extensions: permessage-deflate"),
        switch("Content-Length: 4") + b"abcd",
        switch("Transfer-Encoding: chunked"),
        switch().replace(b"HTTP/1.1", b"HTTP/1.0"),
        reply(),  # a 200 is no answer to a handshake
    ],
)
async def test_a_wrong_101_opens_nothing_and_another_backend_is_asked(start_backend, start_gateway, answer):
    wrong, right = await start_backend(), await start_backend()
    gateway = await start_gateway(wrong, right)
    told = listen(gateway)
    Switching(wrong, answer)
    engine = Switching(right)
    client, head = await opened(gateway)
    assert b"x-spillway-cluster: backup\r\n" in head
    await client.send(b"x")
    assert await settled(lambda: engine.heard == [b"x"])
    failed = next(event for event in told if isinstance(event, AttemptFinished))
    assert failed.outcome.reason is Reason.BAD_RESPONSE
    assert await settled(lambda: not wrong.open_connections)


async def test_the_last_wrong_101_is_a_502(pair):
    gateway, backend = pair
    Switching(backend, switch(accept="x") + b"HTTP/1.1 200 OK\r\n\r\n")
    client = await gateway.connect()
    await client.send(ask())
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert await client.rest() == b""


async def test_another_answer_is_passed_on_and_ends_the_connection(pair):
    gateway, backend = pair
    backend.will(reply(b"no", status="403 Forbidden"))
    client = await gateway.connect()
    await client.send(ask())
    answer = await client.answer()
    assert (answer.status, answer.body, answer.header("connection")) == (403, b"no", "close")
    assert await client.rest() == b""
    assert len(backend.requests) == 1


async def test_the_connection_of_another_answer_may_not_switch_later(pair):
    """A backend connection that was asked for a tunnel, and said no, is an ordinary one again."""
    gateway, backend = pair
    backend.will(reply(b"no", status="403 Forbidden"))
    client = await gateway.connect()
    await client.send(ask())
    await client.answer()
    backend.will(switch())
    assert (await gateway.ask(post())).status == 502
    assert len({request.connection for request in backend.requests}) == 1


async def test_a_full_tier_spills_and_a_full_fleet_sheds(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup, limit=1)
    Switching(primary), Switching(backup)
    assert b"x-spillway-cluster: primary" in (await opened(gateway))[1]
    assert b"x-spillway-spill-reason: full" in (await opened(gateway))[1]
    answer = await gateway.ask(ask())
    assert (answer.status, answer.error["code"]) == (429, "no_capacity")


async def test_the_model_decides_and_is_renamed_where_it_stands(start_backend, start_gateway):
    one, other = await start_backend(), await start_backend()
    gateway = await start_gateway(f"""
        clusters:
        - {{name: a, limit: 1, models: [x], backends: ['{one.url}']}}
        - {{name: b, limit: 1, models: {{y+z: org/y z}}, backends: ['{other.url}']}}
        websocket_paths: [/v1/realtime, /my/*]
        """, good_request=post(b'{"model":"x"}'))  # fmt: skip
    Switching(one), (engine := Switching(other))
    await opened(gateway, path="/my/own?intent=1&model=y%2Bz&last")
    assert engine.heads[0].startswith(b"GET /my/own?intent=1&model=org%2Fy%20z&last HTTP/1.1\r\n")
    _, head = await opened(gateway, "x-spillway-model: x", path="/v1/realtime")
    assert b"x-spillway-cluster: a\r\n" in head
    answer = await gateway.ask(ask(path="/my/own?model=unknown"))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_without_websocket_paths_there_are_no_tunnels(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("websocket_paths: []\npaths: [/v1/realtime]", backend)
    assert (await gateway.ask(ask())).status == 405
    answer = await gateway.ask(post(path="/v1/realtime"))
    assert answer.status == 200


# --- bytes where they do not belong ------------------------------------------------------------------


async def test_what_is_sent_early_waits_for_the_101(pair):
    """It is neither a request nor sent to a backend that has not agreed (FAULTS: tunnel before 101)."""
    gateway, backend = pair
    go_on = asyncio.Event()
    backend.will(go_on, switch() + text_frame(b"first"))
    client = await gateway.connect()
    await client.send(ask() + post(), b"tail")
    assert await settled(lambda: len(backend.requests) == 1)
    assert backend.received_bytes == len(backend.requests[0].raw)
    seen = []
    backend.intercept = lambda end, data: seen.append(data) or True
    go_on.set()
    await client.head()
    assert await client.reader.readexactly(7) == text_frame(b"first")
    assert await settled(lambda: b"".join(seen) == post() + b"tail")
    assert (await closed_by(client, gateway)).bytes_in == len(post()) + 4


async def closed_by(client, gateway):
    client.close()
    return await recorded(gateway)


async def test_what_is_sent_early_is_nobodys_when_there_is_no_tunnel(pair):
    gateway, backend = pair
    go_on = asyncio.Event()
    backend.will(go_on, reply(b"no", status="403 Forbidden"))
    client = await gateway.connect()
    await client.send(ask() + post(), post())
    assert await settled(lambda: len(backend.requests) == 1)
    go_on.set()
    assert (await client.answer()).status == 403
    assert await client.rest() == b""
    assert len(backend.requests) == 1


async def test_too_much_sent_early_is_refused(pair):
    gateway, backend = pair
    backend.will(asyncio.Event())
    client = await gateway.connect()
    await client.send(ask(), b"x" * 20_000)
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert await settled(lambda: not backend.open_connections)


async def test_a_tunnel_takes_its_turn_behind_other_requests(pair):
    gateway, backend = pair
    go_on = asyncio.Event()
    backend.will(go_on, reply(b"one"))
    client = await gateway.connect()
    await client.send(post() + ask() + b"early")
    assert await settled(lambda: len(backend.requests) == 1)
    engine = Switching(backend)
    go_on.set()
    assert (await client.answer()).body == b"one"
    await client.head()
    assert await settled(lambda: engine.heard == [b"early"])


# --- ends --------------------------------------------------------------------------------------------


async def test_each_half_ends_by_itself(pair):
    gateway, backend = pair
    engine = Switching(backend)
    client, _ = await opened(gateway)
    await client.send(b"last words")
    client.writer.write_eof()
    assert await settled(lambda: engine.heard == [b"last words"])
    # The scripted backend closes at an end by itself; its answer before that still arrives.
    assert await client.rest() == b""
    assert (await recorded(gateway)).outcome.reason is Reason.COMPLETED


async def test_the_other_half_goes_on_for_a_while(start_gateway):
    """A backend that says its last words after the client has said all of its own."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(switch())
        heard = await reader.read()
        writer.write(heard.upper())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gateway = await start_gateway(f"clusters: [{{name: a, limit: 1, backends: ['http://127.0.0.1:{port}']}}]")
    client, _ = await opened(gateway)
    await client.send(b"hello")
    client.writer.write_eof()
    assert await client.rest() == b"HELLO"
    record = await recorded(gateway)
    assert (record.outcome.reason, record.bytes_out) == (Reason.COMPLETED, 5)
    server.close()
    await gateway.stop()  # no good request could be answered any more


async def test_a_client_that_is_gone_closes_the_backends_connection(pair):
    gateway, backend = pair
    engine = Switching(backend)
    client, _ = await opened(gateway)
    client.reset()
    assert await settled(engine.ends[0].is_lost.is_set)
    record = await recorded(gateway)
    assert (record.outcome.reason, record.status) == (Reason.CLIENT_LEFT, 101)


async def test_a_client_that_leaves_before_the_101_closes_the_backends_connection(pair):
    gateway, backend = pair
    backend.will(asyncio.Event())
    client = await gateway.connect()
    await client.send(ask())
    assert await settled(lambda: len(backend.requests) == 1)
    client.close()
    assert await settled(lambda: not backend.open_connections)
    assert (await recorded(gateway)).outcome.reason is Reason.CLIENT_LEFT


async def test_a_backend_that_is_gone_closes_the_clients_connection_and_opens_no_circuit(pair):
    gateway, backend = pair
    for count in range(1, 7):
        engine = Switching(backend)
        client, _ = await opened(gateway)
        engine.ends[0].reset()
        assert await client.rest() == b""
        assert (await recorded(gateway, count)).outcome.reason is Reason.TRUNCATED
    assert circuit_of(gateway, backend) is Circuit.CLOSED


async def test_failed_handshakes_open_the_circuit(pair):
    gateway, backend = pair
    Switching(backend, switch(accept="x"))
    for _ in range(5):
        assert (await gateway.ask(ask())).status == 502
    assert circuit_of(gateway, backend) is Circuit.OPEN
    gateway.is_stopped = True
    await gateway.gateway.stop()


async def test_a_tunnel_as_the_probe_closes_the_circuit_at_once(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("breaker: {open: 10ms, consecutive: 1}", backend)
    backend.will(Ending.RST)
    assert (await gateway.ask(post())).status == 502
    assert circuit_of(gateway, backend) is Circuit.OPEN
    assert await settled(lambda: circuit_of(gateway, backend) is Circuit.HALF_OPEN)
    Switching(backend)
    await opened(gateway)
    assert circuit_of(gateway, backend) is Circuit.CLOSED


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["tunnel_idle", "tunnel_total"])
async def test_a_tunnel_ends_at_its_limit_with_a_close_frame_to_both(start_backend, start_gateway, limit):
    backend = await start_backend()
    gateway = await start_gateway(f"timeouts: {{{limit}: 100ms}}", backend)
    engine = Switching(backend)
    client, _ = await opened(gateway)
    why = limit.encode()
    assert await client.rest() == bytes((0x88, len(why) + 2)) + (1008).to_bytes(2, "big") + why
    assert await settled(engine.ends[0].is_lost.is_set)
    masked = engine.heard[0]
    assert masked[:2] == bytes((0x88, 0x80 | len(why) + 2))
    assert bytes(byte ^ masked[2 + at % 4] for at, byte in enumerate(masked[6:]))[2:] == why
    record = await recorded(gateway)
    assert (record.outcome.verdict, record.error_code) == (Verdict.SUCCESS, limit)


async def test_within_a_frame_no_close_frame_is_put(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {tunnel_idle: 100ms}", backend)
    Switching(backend, switch() + text_frame(b"whole") + text_frame(b"a part of it")[:7])
    client, _ = await opened(gateway)
    assert await client.rest() == text_frame(b"whole") + text_frame(b"a part of it")[:7]


async def test_bytes_keep_a_tunnel_open_beyond_its_idle_limit(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {tunnel_idle: 300ms, total: 200ms}", backend)
    engine = Switching(backend)
    client, _ = await opened(gateway)
    for _ in range(5):
        await asyncio.sleep(0.12)
        await client.send(b"x")
    assert await settled(lambda: engine.heard == [b"xxxxx"])
    assert gateway.plane.tunnels == 1, "neither the idle limit nor the total of requests is meant here"


async def test_the_handshake_has_the_deadline_of_a_first_byte(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {first_byte: 100ms}", backend)
    backend.will(asyncio.Event())
    answer = await gateway.ask(ask())
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_first_byte")


async def test_who_does_not_read_stops_the_reading_of_the_other(pair):
    gateway, backend = pair
    engine = Switching(backend)
    client, _ = await opened(gateway)
    client.stop_reading()
    transport = engine.ends[0].transport
    chunk, sent = b"y" * 65_536, 0
    while transport.get_write_buffer_size() < 1_000_000 and sent < 2_000:
        transport.write(chunk)
        sent += 1
        await asyncio.sleep(0.001)
    assert sent < 2_000, "the gateway took everything"
    client.read_on()
    async with asyncio.timeout(5):
        got = await client.reader.readexactly(sent * len(chunk))
    assert hashlib.sha256(got).digest() == hashlib.sha256(chunk * sent).digest()


# --- the end of the gateway --------------------------------------------------------------------------


async def test_a_drain_waits_for_tunnels_and_then_says_goodbye(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("drain_timeout: 200ms", backend)
    engine = Switching(backend)
    client, _ = await opened(gateway)
    draining = asyncio.ensure_future(gateway.gateway.drain())
    await asyncio.sleep(0.15)
    await client.send(b"\x81\x80abcd")
    assert await settled(lambda: engine.heard == [b"\x81\x80abcd"])
    assert await client.rest() == b"\x88\x0a" + (1001).to_bytes(2, "big") + b"shutdown"
    assert await draining is False
    assert engine.heard[0].startswith(b"\x81\x80abcd\x88\x8a")
    assert (await recorded(gateway)).outcome.reason is Reason.SHUTDOWN
    await gateway.stop()
    assert (gateway.in_flight, gateway.leases) == (0, 0)


async def test_real_websocket_client_and_server(start_gateway):
    """aiohttp on both sides: compressed messages, a subprotocol, pings and an orderly close pass through."""

    async def serve(request):
        socket = web.WebSocketResponse(protocols=["realtime"])
        await socket.prepare(request)
        async for message in socket:
            await (socket.send_bytes if message.type is WSMsgType.BINARY else socket.send_str)(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/v1/realtime", serve)
    async with TestServer(application) as server, ClientSession() as session:
        gateway = await start_gateway(
            f"clusters: [{{name: a, limit: 1, backends: ['{server.make_url('')}']}}]"
        )
        url = f"http://127.0.0.1:{gateway.port}{PATH}"
        async with session.ws_connect(url, protocols=["other", "realtime"], compress=15) as socket:
            assert (socket.protocol, socket.compress) == ("realtime", 15)
            for text in ("hello", "", "long " * 50_000):
                await socket.send_str(text)
                assert await socket.receive_str() == text
            await socket.send_bytes(bytes(range(256)) * 1_000)
            assert len(await socket.receive_bytes()) == 256_000
            await socket.ping()
        assert socket.close_code == 1000
        record = await recorded(gateway)
        assert (record.status, record.outcome.reason) == (101, Reason.COMPLETED)
        await gateway.stop()


def test_the_key_and_its_answer_are_those_of_the_rfc():
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    assert base64.b64encode(hashlib.sha1((KEY + guid).encode()).digest()).decode() == ACCEPT
