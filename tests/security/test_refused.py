"""Each refusal is one error for the client and one count for the operator."""

from __future__ import annotations

import pytest

from tests.proxy.dialogue import post, settled
from tests.security import cases

REFUSED = {
    "malformed": cases.length(b"+13"),
    "malformed-line": cases.request_line(b"POST  /v1/chat/completions HTTP/1.1\r\n"),
    "malformed-version": cases.request_line(b"POST /v1/chat/completions HTTP/1.2\r\n"),
    "head_too_large": cases.header(cases.many(129)),
    "head_too_large-line": cases.header(b"X: " + b"a" * 9000 + b"\r\n"),
    "head_too_large-target": cases.target(b"/v1/chat/completions?" + b"a" * 9000),
    "framing_too_large": cases.chunked(b"d;" + b"e" * 5000 + b"\r\n"),
    "framing_too_large-trailer": cases.chunked(b"d\r\n" + cases.BODY + b"\r\n0\r\n" + cases.many(3000)),
    "body_too_large": cases.length(b"99999999999"),
    "too_slow": cases.LINE + cases.HOST,
    "too_slow-body": cases.LINE + cases.HOST + cases.LENGTH + b"\r\n{",
    "expectation": cases.header(b"Expect: x\r\n"),
    "method": b"TRACE /v1/models HTTP/1.1\r\n" + cases.HOST + b"\r\n",
    "not_found": cases.target(b"/metrics"),
    "not_found-model": post(b'{"model":"none"}'),
    "content_type": post(b"x", "Content-Type: text/plain"),
    "unreadable_body": post(b"[]"),
    "unreadable_body-deep": post(b"[" * 5000),
    "unreadable_body-form": post(b"x", "Content-Type: multipart/form-data; boundary=b"),
    "invalid": post(b"{}"),
    "not_websocket": b"GET /v1/realtime?model=m HTTP/1.1\r\n" + cases.HOST + b"\r\n",
    "invalid-deadline": post(b'{"model":"m"}', "x-spillway-deadline: soon"),
}


@pytest.mark.parametrize(("name", "sent"), REFUSED.items(), ids=REFUSED)
async def test_a_refusal_is_counted_once_by_its_reason(name, sent, start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(
        "timeouts: {request_head: 200ms, request_body: 200ms}\n"
        f"clusters: [{{name: a, limit: 8, models: [m], backends: ['{backend.url}']}}]"
    )
    answer = await gateway.ask(sent)
    assert answer.error["code"]
    assert await settled(lambda: gateway.is_clean)
    assert gateway.gateway._metrics.refused == {(name.partition("-")[0],): 1}
    assert backend.received_bytes == 0
