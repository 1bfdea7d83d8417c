"""What breaks after the first byte: the client sees that it is not whole, and the breaker hears why."""

from __future__ import annotations

import orjson
import pytest

from gateway.core.breaker import Circuit
from gateway.core.model import Reason, Verdict
from tests.proxy.dialogue import HANG, Ending, chunk, event_stream, post, settled
from tests.proxy.telling import ends, listen

EVENT = b'data: {"choices":[]}\n\n'
HALF_AN_EVENT = b'data: {"choi'
JSON_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
SSE_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 500\r\n\r\n"

# How it breaks, as what it counts, and what the client is told.
BREAKS = {
    "cut": ([Ending.FIN], Reason.TRUNCATED, "upstream_unreachable"),
    "reset": ([Ending.RST], Reason.TRUNCATED, "upstream_unreachable"),
    "no-http": ([b"ZZ\r\n"], Reason.BAD_RESPONSE, "upstream_unreachable"),
    "stall": ([HANG], Reason.STALL_TIMEOUT, "upstream_timeout_stall"),
    "total": ([0.1, chunk(b": ping\n\n")] * 20, Reason.TOTAL_TIMEOUT, "upstream_timeout_total"),
}
breaks = pytest.mark.parametrize(("script", "reason", "code"), BREAKS.values(), ids=BREAKS)


@pytest.fixture
async def two(start_backend, start_gateway):
    """Nobody but the primary may ever be asked."""
    primary, backup = await start_backend(), await start_backend()
    timeouts = "timeouts: {stall: 250ms, total: 600ms}"
    gateway = await start_gateway(timeouts, primary, backup)
    yield gateway, primary, listen(gateway)
    assert not backup.requests or gateway.plane.view.clusters["primary"].ejected_backends


async def raw_answer(gateway) -> bytes:
    """Every byte until the gateway closes."""
    client = await gateway.connect()
    await client.send(post())
    return await client.rest()


def check_dropped(gateway, told, reason: Reason) -> None:
    (end,) = ends(told)
    assert (end.outcome.verdict, end.outcome.reason) == (Verdict.DROPPED, reason)
    (record,) = gateway.records
    assert (record.status, record.outcome.reason, record.attempts) == (200, reason, 1)
    assert record.error_code is not None


@pytest.mark.parametrize("begun", [EVENT, EVENT + HALF_AN_EVENT], ids=["between", "inside"])
@breaks
async def test_an_event_stream_ends_with_one_error_event_no_done_and_the_close(
    two, script, reason, code, begun
):
    gateway, primary, told = two
    primary.will(event_stream() + chunk(begun), 0.02, *script)
    raw = await raw_answer(gateway)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"transfer-encoding: chunked" in head
    assert body.startswith(chunk(begun))
    assert not body.endswith(b"0\r\n\r\n") and b"[DONE]" not in body
    assert body.count(b'data: {"error"') == 1
    # What a client reads: after a blank line, so that half an event before it spoils nothing.
    error_event = body[body.index(b'\n\ndata: {"error"') + 2 :].removesuffix(b"\r\n")
    error = orjson.loads(error_event.removeprefix(b"data: ").strip())["error"]
    assert error["code"] == code and error["message"] and error["type"] == "server_error"
    check_dropped(gateway, told, reason)


HEADS = {
    "chunked": JSON_CHUNKED,
    "length": JSON_LENGTH,
    "events-with-a-length": SSE_LENGTH,
}
# With a length every byte is body: nothing in it can be no HTTP.
CUTS = [
    pytest.param(head, *broken, id=f"{kind}-{how}")
    for kind, head in HEADS.items()
    for how, broken in BREAKS.items()
    if kind == "chunked" or how != "no-http"
]


@pytest.mark.parametrize(("head", "script", "reason", "code"), CUTS)
async def test_any_other_answer_is_visibly_cut(two, head, script, reason, code):
    gateway, primary, told = two
    is_chunked = head is JSON_CHUNKED
    if not is_chunked:
        script = [b"x" if isinstance(step, bytes) else step for step in script]
    body = b'{"begun":'
    primary.will(head + (chunk(body) if is_chunked else body), 0.02, *script)
    raw = await raw_answer(gateway)
    got = raw.partition(b"\r\n\r\n")[2]
    assert got.startswith(chunk(body) if is_chunked else body)
    assert b"error" not in got
    assert not got.endswith(b"0\r\n\r\n") if is_chunked else len(got) < 500
    check_dropped(gateway, told, reason)


@breaks
async def test_five_of_them_open_the_circuit(two, script, reason, code):
    gateway, primary, _ = two
    (state, _) = gateway.plane.view.backends.values()
    for count in range(5):
        assert state.circuit is Circuit.CLOSED, count
        primary.will(event_stream() + chunk(EVENT), 0.02, *script)
        await raw_answer(gateway)
    assert state.circuit is Circuit.OPEN and state.breaker.opening.reason is reason
    assert (await gateway.ask(post())).header("x-spillway-cluster") == "backup"
    assert await settled(lambda: gateway.is_clean)
