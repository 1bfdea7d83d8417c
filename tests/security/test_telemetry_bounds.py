"""What clients and backends choose grows no metric and forges no log line."""

from __future__ import annotations

import json

import pytest

from gateway.telemetry.access_log import open_access_log
from gateway.telemetry.log_fields import FIELDS
from gateway.telemetry.observer import Observer
from tests.proxy.dialogue import get, post, reply, settled

FORGERY = '", "status": 200, "client": "forged'
CHOSEN = (
    post(json.dumps({"model": "m", "user": "a\r\nb", "x": FORGERY}).encode()),
    post(b'{"model":"a\\r\\nforged"}'),
    post(b'{"model":"a\\u2028forged"}'),
    post(b'{"model":"\\u001b[31mforged"}'),
    post(b'{"model":"~forged, +=@/:."}'),
    post(b"{}", f"x-spillway-model: {FORGERY}"),
    post(b'{"model":"m"}', f"x-request-id: {FORGERY}"),
    post(b'{"model":"m"}', "x-request-id: a%0d%0aforged"),
    post(b'{"model":"m"}', "x-request-id: " + "a" * 65),
    get("/v1/forged%0d%0aX:y"),
    get("/v1/images/forged%22%2c"),
    post(b'{"model":"m"}', path="/v1/images/a?x=%22forged"),
    b"GET /v1/\x1b[31mforged HTTP/1.1\r\nHost: h\r\n\r\n",
    b"FORGED\r\nforged\r\n\r\n",
)


@pytest.fixture
async def noted(start_backend, start_gateway, tmp_path):
    """A gateway with one backend, and the path of its access log."""
    backend = await start_backend()
    gateway = await start_gateway(backend, limit=100)
    path = tmp_path / "access.log"
    log = open_access_log(str(path), lambda: 0.0)
    gateway.plane.telemetry = Observer(gateway.gateway._metrics, log)
    yield gateway, backend, path
    log.close()


async def test_no_client_ends_a_line_or_forges_a_field(noted):
    gateway, backend, path = noted
    for request in CHOSEN:
        await gateway.ask(request)
    backend.will(reply(b"x", status='200 OK", "forged": "'))
    await gateway.ask(post())
    count = len(CHOSEN) + 1
    assert await settled(lambda: path.read_bytes().count(b"\n") == count)
    text = path.read_bytes()
    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in text)
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["client"] for line in lines} == {"127.0.0.1"}
    always = {field.name for field in FIELDS if not field.is_optional}
    assert {name for line in lines for name in line} - always == {"refused", "param"}
    assert all(always <= set(line) for line in lines)
    assert all("forged" not in json.dumps({**line, "model": ""}) for line in lines)
    assert [line["model"] for line in lines if "forged" in (line["model"] or "")] == ["~forged, +=@/:."]


async def test_no_client_and_no_backend_grows_a_metric(noted):
    gateway, backend, _ = noted

    def series() -> int:
        metrics = gateway.gateway._metrics
        counted = (metrics.requests, metrics.timings, metrics.refused, metrics.sheds, metrics.retries)
        return sum(map(len, counted))

    async def at_random(start: int) -> None:
        client = await gateway.connect()
        for number in range(start, start + 60):
            backend.will(reply(b"x", status=f"{200 + number % 99} r{number}"))
            await client.send(post(b'{"model":"m%d"}' % number, f"x-request-id: id-{number}"))
            assert (await client.answer()).status != 502
            backend.scripts.clear()
            await client.send(post(path=f"/v1/images/p{number}") + get(f"/nothing/{number}"))
            await client.answer()
            assert (await client.answer()).status == 404
            await gateway.ask(b"M%d / HTTP/1.1\r\n\r\n" % number)

    await at_random(0)
    before = series()
    await at_random(99)
    assert series() == before
