"""Client keys: who may come in, how much of it, and that no key goes anywhere."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from gateway.ports import StoreHealth
from tests.proxy.dialogue import BODY, CHAT, LAST_CHUNK, chunk, event_stream, get, post, settled

KEY, OTHER, ROOT = "sk-canary-aaaa1111", "sk-canary-bbbb2222", "sk-canary-cccc3333"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys(*entries: tuple[str, str, str]) -> str:
    """`keys` of (name, key, further settings)."""
    lines = [f"- {{name: {name}, sha256: {digest(key)}{more}}}" for name, key, more in entries]
    return "\n".join(["keys:", *lines])


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


GOOD = post(BODY, bearer(ROOT))
TEAM = ("team-a", KEY, "")
ADMIN = ("root", ROOT, "")


@pytest.fixture
def start(start_gateway):
    async def begin(*parts):
        return await start_gateway(*parts, good_request=GOOD)

    return begin


# --- who comes in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        bearer(KEY),
        f"authorization: bearer  {KEY} ",
        f"x-api-key: {KEY}",
        f"X-API-Key: {KEY}",
        f"api-key: {KEY}",
    ],
)
async def test_a_good_key_is_let_in_and_goes_no_further(start, start_backend, line):
    backend = await start_backend()
    gateway = await start(keys(TEAM, ADMIN), backend)
    assert (await gateway.ask(post(BODY, line))).status == 200
    assert KEY.encode() not in backend.requests[0].raw
    assert gateway.records[-1].key == "team-a"


BAD = [
    (),
    (bearer("sk-wrong"),),
    (bearer(KEY + "x"),),
    (bearer(KEY[:-1]),),
    (bearer(digest(KEY)),),
    ("Authorization: Bearer ",),
    ("Authorization: Bearer",),
    (f"Authorization: {KEY}",),
    (f"Authorization: Basic {KEY}",),
    (f"Cookie: {KEY}",),
    (f"x-goog-api-key: {KEY}",),
    ("x-api-key:",),
    ("x-api-key: nope", bearer("nope")),
]


async def test_whatever_is_wrong_gets_one_and_the_same_answer(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(TEAM, ADMIN), backend)
    answers = [await gateway.ask(post(BODY, *lines)) for lines in BAD]
    for answer in answers:
        assert answer.status == 401
        assert answer.error["code"] == "unauthorized"
        assert answer.error["type"] == "authentication_error"
        assert answer.header("www-authenticate") == 'Bearer realm="spillway"'
        assert answer.body == answers[0].body
    assert not backend.requests
    assert {record.key for record in gateway.records} == {None}


@pytest.mark.parametrize(
    "request_",
    [
        get("/v1/models"),
        get("/v2/health/ready"),
        get("/nowhere"),
        post(path="/sleep"),
        b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        post(b"not json"),
        post(b'{"model":"nobody-has-it"}'),
    ],
)
async def test_to_a_stranger_nothing_is_said_of_paths_bodies_and_models(start, start_backend, request_):
    gateway = await start(keys(TEAM, ADMIN), await start_backend())
    assert (await gateway.ask(request_)).status == 401


async def test_a_stranger_is_refused_before_he_sends_his_body(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(TEAM, ADMIN), backend)
    for head in (
        post(b"x" * 30_000_000, "Expect: 100-continue")[:200].partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n".encode(),
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode(),
    ):
        client = await gateway.connect()
        await client.send(head)
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (401, "close")
        assert await client.rest() == b""


async def test_a_stranger_without_a_body_may_try_again_on_his_connection(start, start_backend):
    gateway = await start(keys(TEAM, ADMIN), await start_backend())
    client = await gateway.connect()
    await client.send(get("/v1/models") + get("/v1/models", bearer(KEY)))
    assert [(await client.answer()).status for _ in range(2)] == [401, 200]


async def test_each_request_of_a_connection_shows_its_own_key(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(TEAM, ("team-b", OTHER, ""), ADMIN), backend)
    client = await gateway.connect()
    await client.send(*(post(BODY, bearer(key)) for key in (KEY, OTHER, KEY, KEY)))
    assert [(await client.answer()).status for _ in range(4)] == [200] * 4
    assert [record.key for record in gateway.records] == ["team-a", "team-b", "team-a", "team-a"]
    await client.send(post())
    assert (await client.answer()).status == 401
    assert len(backend.requests) == 4


async def test_a_key_of_the_gateway_never_leaves_and_another_credential_may(start, start_backend):
    """`pass_client` is about the client's credentials for the backend, not about those for the gateway."""
    backend = await start_backend()
    cluster = (
        f"clusters: [{{name: a, limit: 8, backends: ['{backend.url}'], "
        "auth: {header: X-Own, value: own-secret, pass_client: true}}]"
    )
    gateway = await start(keys(TEAM, ADMIN), cluster)
    lines = (f"X-Api-Key: {KEY}", "Authorization: Bearer for-the-backend", "Cookie: a=1")
    assert (await gateway.ask(post(BODY, *lines))).status == 200
    (arrived,) = backend.requests
    assert arrived.header("authorization") == "Bearer for-the-backend"
    assert arrived.header("cookie") == "a=1"
    assert arrived.header("x-own") == "own-secret"
    assert (await gateway.ask(post(BODY, bearer(KEY), f"api-key: {KEY}"))).status == 200
    assert all(KEY.encode() not in request.raw for request in backend.requests)


# --- what the owner may send ----------------------------------------------------------------------------


async def test_a_model_that_the_key_may_not_name_does_not_exist_for_it(start, start_backend):
    backend = await start_backend()
    cluster = f"clusters: [{{name: a, limit: 8, models: [m, n, 'q-*'], backends: ['{backend.url}']}}]"
    gateway = await start(keys(("team-a", KEY, ", models: [m, 'q-1*']"), ADMIN), cluster)
    for model, status in (("m", 200), ("n", 404), ("q-1a", 200), ("q-2", 404), ("zzz", 404)):
        answer = await gateway.ask(post(b'{"model":"%b"}' % model.encode(), bearer(KEY)))
        assert answer.status == status, model
        if status == 404:
            assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")
            assert answer.error["message"] == f"No cluster serves the model '{model}'."
    unnamed = await gateway.ask(post(b"{}", bearer(KEY), path="/v1/rerank"))
    assert unnamed.status == 404
    listed = [await gateway.ask(get("/v1/models", bearer(key))) for key in (KEY, ROOT)]
    assert [[model["id"] for model in page.json()["data"]] for page in listed] == [["m"], ["m", "n"]]
    ready = [await gateway.ask(get(f"/v2/models/{model}/ready", bearer(KEY))) for model in ("m", "n")]
    assert [answer.status for answer in ready] == [200, 404]
    assert len(backend.requests) == 2


async def test_a_rate_is_kept_and_the_connection_stays(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(("team-a", KEY, ", rate: 3/h"), ADMIN), backend)
    client = await gateway.connect()
    for _ in range(5):
        await client.send(post(BODY, bearer(KEY)))
    answers = [await client.answer() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    refused = answers[-1]
    assert (refused.error["code"], refused.error["type"]) == ("rate_limited", "rate_limit_error")
    assert 1190 <= int(refused.header("retry-after") or 0) <= 1200
    assert int(refused.header("retry-after-ms") or 0) <= 1_200_000
    assert refused.header("connection") is None
    assert (await gateway.ask(post(BODY, bearer(ROOT)))).status == 200, "another key has its own"
    assert len(backend.requests) == 4


async def test_who_is_over_his_rate_is_refused_before_a_long_body(start, start_backend):
    gateway = await start(keys(("team-a", KEY, ", rate: 1/h"), ADMIN), await start_backend())
    assert (await gateway.ask(post(BODY, bearer(KEY)))).status == 200
    for framing in (
        "Content-Length: 30000000",
        "Transfer-Encoding: chunked",
        "Content-Length: 9\r\nExpect: 100-continue",
    ):
        client = await gateway.connect()
        await client.send(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{bearer(KEY)}\r\n{framing}\r\n\r\n".encode())
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (429, "close")


async def test_requests_in_flight_are_counted_until_the_last_byte(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(("team-a", KEY, ", max_in_flight: 2"), ADMIN), backend)
    goes_on = asyncio.Event()
    streams = []
    for _ in range(2):
        backend.will(event_stream() + chunk(b"data: 1\n\n"), goes_on, LAST_CHUNK)
        client = await gateway.connect()
        await client.send(post(BODY, bearer(KEY)))
        await client.head()
        streams.append(client)
    refused = await gateway.ask(post(BODY, bearer(KEY)))
    assert (refused.status, refused.error["code"], refused.header("retry-after")) == (
        429,
        "rate_limited",
        "1",
    )
    assert gateway.plane.key_in_flight == {"team-a": 2, "root": 0}
    streams[0].writer.transport.abort()
    assert await settled(lambda: gateway.plane.key_in_flight["team-a"] == 1)
    assert (await gateway.ask(post(BODY, bearer(KEY)))).status == 200
    goes_on.set()
    assert await settled(lambda: gateway.plane.key_in_flight["team-a"] == 0)


@pytest.mark.parametrize("body", [b"not json", b'{"model":"nobody"}', b"{}"])
async def test_refused_requests_are_not_in_flight_any_more(start, start_backend, body):
    backend = await start_backend()
    cluster = f"clusters: [{{name: a, limit: 8, models: [m], backends: ['{backend.url}']}}]"
    gateway = await start(keys(("team-a", KEY, ", max_in_flight: 1"), ADMIN), cluster)
    for _ in range(3):
        assert (await gateway.ask(post(body, bearer(KEY)))).status in (400, 404)
    assert gateway.plane.key_in_flight["team-a"] == 0


async def test_with_other_gateways_this_one_takes_its_part(start, start_backend, monkeypatch):
    gateway = await start(keys(("team-a", KEY, ", rate: 9/h"), ADMIN), await start_backend())
    monkeypatch.setattr(gateway.plane.store, "health", lambda: StoreHealth(gateways=3))
    answers = [(await gateway.ask(post(BODY, bearer(KEY)))).status for _ in range(5)]
    assert answers == [200, 200, 200, 429, 429]


# --- what is told of it ---------------------------------------------------------------------------------


async def test_metrics_name_the_owner_and_nothing_shows_a_key(start, start_backend):
    backend = await start_backend()
    gateway = await start(keys(("team-a", KEY, ", rate: 1/h"), ADMIN), backend)
    for line in (bearer(KEY), bearer(KEY), bearer(OTHER)):
        await gateway.ask(post(BODY, line))
    # Only what the gateway's own app renders, so that nothing is left out.
    page = b"".join(gateway.gateway._admin._pages._ports.render_metrics(False)[0]).decode()
    assert 'spillway_key_requests_total{error_code="",key="team-a",outcome="success"} 1.0' in page
    assert 'spillway_key_requests_total{error_code="rate_limited",key="team-a",outcome="ignored"} 1.0' in page
    assert 'spillway_key_in_flight{key="root"} 0.0' in page
    told = page + repr(gateway.records) + repr(gateway.gateway._config) + repr(gateway.plane.settings)
    for secret in (KEY, OTHER, ROOT, digest(KEY)):
        assert secret not in told
