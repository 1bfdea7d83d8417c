"""What a client and a backend get to see of each other: the bytes that are theirs, and nothing else."""

from __future__ import annotations

import pytest

from tests.proxy.dialogue import (
    BODY,
    CHAT,
    LAST_CHUNK,
    Ending,
    chunk,
    event_stream,
    get,
    post,
    reply,
)

ODD = bytes(range(256)) * 3


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway(backend), backend


async def test_status_reason_headers_and_body_pass_as_they_are(pair):
    gateway, backend = pair
    backend.will(reply(ODD, "X-Odd-Case: a  b", "x-twice: 1", "X-Twice: 2", status="201 Made Of Tokens"))
    answer = await gateway.ask(post())
    assert (answer.status, answer.reason, answer.body) == (201, "Made Of Tokens", ODD)
    assert b"X-Odd-Case: a  b\r\n" in answer.head
    assert answer.all("x-twice") == ["1", "2"]


async def test_an_empty_reason_stays_empty(pair):
    gateway, backend = pair
    backend.will(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok")
    answer = await gateway.ask(post())
    assert (answer.reason, answer.body) == ("", b"ok")


async def test_an_answer_without_a_body_has_none(pair):
    gateway, backend = pair
    backend.will(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n")
    client = await gateway.connect()
    await client.send(post())
    assert (await client.answer()).status == 204
    backend.will(reply(b""))
    await client.send(post())
    assert (await client.answer()).body == b""


async def test_chunks_keep_their_content(pair):
    gateway, backend = pair
    parts = [b"data: one\n\n", ODD, b"x"]
    backend.will(event_stream() + b"".join(map(chunk, parts)) + LAST_CHUNK)
    answer = await gateway.ask(post())
    assert answer.is_whole and answer.body == b"".join(parts)
    assert answer.header("content-type") == "text/event-stream"


async def test_an_answer_that_ends_with_its_connection_is_passed_whole(pair):
    gateway, backend = pair
    backend.will(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n" + ODD, 0.01, ODD, Ending.FIN)
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer()
    assert answer.is_whole and answer.body == ODD * 2
    await client.send(post())
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1_000_000])
async def test_bodies_of_any_size_pass_in_both_directions(pair, size):
    gateway, backend = pair
    filler = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    body = b'{"model":"m","x":"%b"}' % filler
    backend.will(reply(filler))
    answer = await gateway.ask(post(body))
    assert answer.body == filler
    assert backend.requests[0].body == body


async def test_a_compressed_answer_stays_as_it_is(pair):
    gateway, backend = pair
    backend.will(reply(b"\x1f\x8b nope", "Content-Encoding: gzip"))
    answer = await gateway.ask(post())
    assert (answer.header("content-encoding"), answer.body) == ("gzip", b"\x1f\x8b nope")


async def test_a_redirect_is_passed_and_never_followed(pair):
    gateway, backend = pair
    backend.will(reply(b"", "Location: http://127.0.0.1:9/ssrf", status="302 Found"))
    answer = await gateway.ask(post())
    assert (answer.status, answer.header("location")) == (302, "http://127.0.0.1:9/ssrf")
    assert len(backend.requests) == 1


async def test_end_to_end_headers_of_the_request_arrive_as_they_were(pair):
    gateway, backend = pair
    lines = ["Accept: text/event-stream", "X-CuStOm: a  b", "x-multi: 1", "x-multi: 2", "User-Agent: me/1"]
    await gateway.ask(post(BODY, *lines))
    (request,) = backend.requests
    for line in lines:
        assert f"{line}\r\n".encode() in request.raw
    assert not request.all("accept-encoding"), "nothing is added that would change the answer"


async def test_the_path_with_its_query_arrives_as_it_was(pair):
    gateway, backend = pair
    await gateway.ask(post(path=CHAT + "?a=%2F&b=c%20d"))
    assert backend.requests[0].target == CHAT + "?a=%2F&b=c%20d"


async def test_hop_by_hop_headers_end_here_in_both_directions(pair):
    gateway, backend = pair
    hop = ["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: trailers", "Trailer: X-T"]
    hop += ["Proxy-Authorization: Basic eA==", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    backend.will(reply(b"ok", "Keep-Alive: timeout=5", "X-Internal: 1", "Connection: X-Internal, keep-alive"))
    answer = await gateway.ask(post(BODY, *hop, "X-Named: secret", "Connection: keep-alive, X-NAMED"))
    sent = {name for name, _ in backend.requests[0].headers}
    assert sent.isdisjoint(
        {"keep-alive", "proxy-connection", "te", "trailer", "proxy-authorization", "upgrade"}
        | {"http2-settings", "x-named", "connection"}
    )
    assert not {"keep-alive", "x-internal"} & {name for name, _ in answer.headers}


async def test_framing_headers_named_by_connection_are_kept(pair):
    gateway, backend = pair
    answer = await gateway.ask(post(BODY, "Connection: close, Content-Length, Host"))
    assert answer.status == 200
    assert backend.requests[0].body == BODY


async def test_where_a_request_came_from_is_told_by_the_gateway_alone(pair):
    gateway, backend = pair
    lies = ["X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6"]
    await gateway.ask(post(BODY, *lies, "X-Forwarded-Proto: https", "Connection: X-Forwarded-For"))
    (request,) = backend.requests
    assert b"6.6.6.6" not in request.raw
    assert request.all("x-forwarded-for") == ["127.0.0.1"]
    assert request.all("x-forwarded-proto") == ["http"]


SECRETS = ["Authorization: Bearer canary", "Cookie: a=canary", "x-api-key: canary", "api-key: canary"]


async def test_credentials_of_the_client_never_leave(pair):
    gateway, backend = pair
    await gateway.ask(post(BODY, *SECRETS, "x-spillway-tenant: canary", "OpenAI-Organization: canary"))
    assert b"canary" not in backend.requests[0].raw


async def test_credentials_pass_where_the_cluster_says_so(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(
        f"clusters: [{{name: a, limit: 8, backends: ['{backend.url}'], auth: {{pass_client: true}}}}]"
    )
    await gateway.ask(post(BODY, *SECRETS))
    for line in SECRETS:
        name, value = line.split(": ")
        assert backend.requests[0].all(name) == [value]


async def test_a_credential_named_by_connection_does_not_pass(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(
        f"clusters: [{{name: a, limit: 8, backends: ['{backend.url}'], auth: {{pass_client: true}}}}]"
    )
    await gateway.ask(post(BODY, "Authorization: Bearer canary", "Connection: authorization"))
    assert b"canary" not in backend.requests[0].raw


async def test_the_cluster_s_own_credential_takes_the_place_of_the_client_s(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(
        f"clusters: [{{name: a, limit: 8, backends: ['{backend.url}'], auth: {{value: 'Bearer ours'}}}}]"
    )
    await gateway.ask(post(BODY, "Authorization: Bearer theirs"))
    assert backend.requests[0].all("authorization") == ["Bearer ours"]


async def test_state_and_secrets_of_a_backend_never_reach_a_client(pair):
    gateway, backend = pair
    backend.will(reply(b"ok", "Set-Cookie: a=canary", "Authorization: canary", "x-api-key: canary"))
    assert b"canary" not in (await gateway.ask(post())).head


async def test_a_prefix_of_the_backend_goes_before_the_path(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(f"clusters: [{{name: a, limit: 8, backends: ['{backend.url}/serve/x']}}]")
    await gateway.ask(post())
    assert backend.requests[0].target == "/serve/x" + CHAT


async def test_a_request_id_is_taken_or_made_and_told_to_both_sides(pair):
    gateway, backend = pair
    given = await gateway.ask(post(BODY, "X-Request-Id: abc-123"))
    made = [await gateway.ask(post()) for _ in range(2)]
    spoiled = await gateway.ask(post(BODY, "X-Request-Id: a b;c"))
    ids = [answer.header("x-request-id") for answer in (given, *made, spoiled)]
    assert ids[0] == "abc-123" and len(set(ids)) == 4 and "a b;c" not in ids
    assert [request.all("x-request-id") for request in backend.requests] == [[each] for each in ids]


async def test_a_backend_s_request_id_does_not_stand_beside_the_gateway_s(pair):
    gateway, backend = pair
    backend.will(reply(b"ok", "x-request-id: theirs"))
    answer = await gateway.ask(post(BODY, "x-request-id: ours"))
    assert answer.all("x-request-id") == ["ours"]


async def test_trace_context_passes(pair):
    gateway, backend = pair
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await gateway.ask(post(BODY, f"traceparent: {trace}", "tracestate: a=b"))
    assert backend.requests[0].header("traceparent") == trace
    assert backend.requests[0].header("tracestate") == "a=b"


async def test_a_chunked_request_goes_on_with_its_length(pair):
    gateway, backend = pair
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    client = await gateway.connect()
    await client.send(head.encode(), chunk(BODY[:5]), chunk(BODY[5:]), LAST_CHUNK)
    assert (await client.answer()).status == 200
    (request,) = backend.requests
    assert request.body == BODY
    assert request.all("content-length") == [str(len(BODY))] and not request.all("transfer-encoding")


async def test_an_http_1_0_client_gets_its_answer_and_the_end(pair):
    gateway, backend = pair
    backend.will(event_stream() + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n") + LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post(version="1.0"))
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert body == b"data: 1\n\ndata: 2\n\n"
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()


async def test_routing_is_told_in_headers(start_backend, start_gateway):
    backend, other = await start_backend(), await start_backend()
    gateway = await start_gateway(backend, other)
    answer = await gateway.ask(post())
    told = {name: value for name, value in answer.headers if name.startswith("x-spillway-")}
    assert float(told.pop("x-spillway-overhead-ms")) < 1000
    assert told == {
        "x-spillway-cluster": "primary",
        "x-spillway-tier": "primary",
        "x-spillway-backend": f"primary@127.0.0.1:{backend.port}",
        "x-spillway-attempts": "1",
        "x-spillway-queue-ms": "0",
    }


async def test_routing_is_hidden_where_the_configuration_says_so(start_backend, start_gateway):
    backend, other = await start_backend(), await start_backend()
    gateway = await start_gateway("expose_routing: false", backend, other)
    backend.will(reply(status="503 Full"))
    answer = await gateway.ask(post())
    assert answer.status == 200
    assert b"x-spillway" not in answer.head.lower()


async def test_internal_headers_of_client_and_backend_do_not_pass(pair):
    gateway, backend = pair
    backend.will(reply(b"ok", "x-spillway-cluster: lie"))
    answer = await gateway.ask(post(BODY, "x-spillway-tier: lie"))
    assert answer.all("x-spillway-cluster") == ["primary"]
    assert b"lie" not in backend.requests[0].raw


async def test_keep_alive_uses_one_connection_on_each_side(pair):
    gateway, backend = pair
    client = await gateway.connect()
    for _ in range(5):
        await client.send(post())
        assert (await client.answer()).status == 200
    assert len(backend.connections) == 1


async def test_a_client_that_asks_for_the_end_gets_it(pair):
    gateway, _ = pair
    client = await gateway.connect()
    await client.send(post(BODY, "Connection: close"))
    assert (await client.answer()).header("connection") == "close"
    assert await client.rest() == b""


async def test_a_repeated_head_with_another_length_is_read_anew(pair):
    gateway, backend = pair
    client = await gateway.connect()
    bodies = [b'{"model":"m","n":%d}' % (10**n) for n in (0, 9, 3, 3, 12)]
    for body in bodies:
        await client.send(post(body))
        assert (await client.answer()).status == 200
    assert [request.body for request in backend.requests] == bodies


async def test_a_repeated_head_still_gets_its_own_body_checked(pair):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(post(BODY, "x-request-id: one"))
    await client.answer()
    await client.send(post(b'{"model":[]} ', "x-request-id: one"))
    assert (await client.answer()).status == 400
    await client.send(get("/v1/models"))
    assert (await client.answer()).status == 200
    assert len(backend.requests) == 1
