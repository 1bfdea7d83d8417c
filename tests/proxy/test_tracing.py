"""Traces as a collector gets them and as backends are told of them, from a real gateway over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from gateway.config.fixed import restart_needed
from gateway.config.loading import parse
from gateway.telemetry.spans import EXPORT_TIMEOUT_S
from tests.proxy.collector import Collector, attributes, collecting
from tests.proxy.dialogue import HANG, LAST_CHUNK, Ending, chunk, event_stream, post, reply, settled

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"traceparent: 00-{TRACE}-{PARENT}-01"
EVENT = b'data: {"n":1}\n\n'


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


def tracing(collector: Collector, more: str = "") -> str:
    return f"tracing: {{endpoint: '{collector.url}', sample_ratio: 1, {more}}}"


def sent_on(request: Any) -> tuple[str, str, str]:
    """Trace, parent and flags that a backend was told."""
    (value,) = request.all("traceparent")
    found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", value)
    assert found is not None, value
    return found[1], found[2], found[3]


async def test_a_plain_exchange_is_two_spans(start_backend, start_gateway, collector):
    backend = await start_backend()
    gateway = await start_gateway(tracing(collector, "service_name: edge"), backend)
    before_ns = time.time_ns()
    answer = await gateway.ask(post())
    await gateway.stop()
    exchange, (attempt,) = collector.exchange, collector.attempts
    assert exchange.name == "POST /v1/chat/completions"
    told = attributes(exchange)
    assert told.pop("client.address") == "127.0.0.1"
    assert told.pop("spillway.request_id") == answer.header("x-request-id")
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "http.request.body.size": 13,
        "http.response.body.size": 11,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "spillway.cluster": "primary",
        "spillway.tier": "primary",
        "spillway.backend": f"primary@127.0.0.1:{backend.port}",
        "spillway.outcome": "success",
        "spillway.reason": "completed",
        "spillway.stream": False,
        "spillway.attempts": 1,
        "spillway.hedged": False,
    }
    assert attempt.name == "chat"
    assert attributes(attempt) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": backend.port,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "spillway.cluster": "primary",
        "spillway.tier": "primary",
        "spillway.backend": f"primary@127.0.0.1:{backend.port}",
        "spillway.attempt_reason": "first_choice",
        "spillway.outcome": "success",
        "spillway.reason": "completed",
    }
    assert (attempt.trace_id, attempt.parent_span_id) == (exchange.trace_id, exchange.span_id)
    assert exchange.parent_span_id == b""
    assert exchange.status.code == attempt.status.code == Status.STATUS_CODE_UNSET
    (first_byte,) = exchange.events
    assert first_byte.name == "first_byte"
    times = (
        before_ns - 1_000_000, exchange.start_time_unix_nano, attempt.start_time_unix_nano,
        attempt.end_time_unix_nano, exchange.end_time_unix_nano, time.time_ns(),
    )  # fmt: skip
    assert list(times) == sorted(times)
    assert exchange.start_time_unix_nano < first_byte.time_unix_nano <= exchange.end_time_unix_nano
    assert sent_on(backend.requests[0]) == (exchange.trace_id.hex(), attempt.span_id.hex(), "01")
    (resource,) = collector.resources
    assert (resource["service.name"], bool(resource["service.version"])) == ("edge", True)


async def test_a_clients_trace_goes_on_and_each_attempt_is_its_own_parent(
    start_backend, start_gateway, collector
):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(tracing(collector), primary, backup)
    primary.will(Ending.RST)
    asked = post(b'{"model":"m"}', TRACEPARENT, "tracestate: a=1", "TraceState: b=2", "x-kept: 1")
    assert (await gateway.ask(asked)).status == 200
    await gateway.stop()
    exchange, (failed, good) = collector.exchange, collector.attempts
    assert {span.trace_id.hex() for span in (exchange, failed, good)} == {TRACE}
    assert exchange.parent_span_id.hex() == PARENT
    assert failed.parent_span_id == good.parent_span_id == exchange.span_id
    for backend, attempt in ((primary, failed), (backup, good)):
        assert sent_on(backend.requests[0]) == (TRACE, attempt.span_id.hex(), "01")
        assert backend.requests[0].all("tracestate") == ["a=1,b=2"]
        assert backend.requests[0].header("x-kept") == "1"
    assert attributes(failed)["error.type"] == attributes(failed)["spillway.reason"] == "reset"
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert not failed.events
    assert attributes(good)["spillway.attempt_reason"] == "failed"
    assert attributes(good)["http.request.resend_count"] == 1
    assert attributes(exchange)["spillway.spill_reason"] == "failed"
    assert exchange.status.code == Status.STATUS_CODE_UNSET
    assert exchange.trace_state == "a=1,b=2"


async def test_a_hedge_is_an_attempt_beside_the_first(start_backend, start_gateway, collector):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(
        tracing(collector), "hedge: {after: 50ms, budget: 1}\nretry: {budget: 1}", primary, backup
    )
    primary.will(HANG)
    assert (await gateway.ask(post())).status == 200
    await gateway.stop()
    lost, won = collector.attempts
    assert attributes(lost)["spillway.reason"] == "overtaken"
    assert lost.status.code == Status.STATUS_CODE_UNSET
    assert attributes(won)["spillway.attempt_reason"] == "hedged"
    assert won.start_time_unix_nano < lost.end_time_unix_nano <= won.end_time_unix_nano
    assert attributes(collector.exchange)["spillway.hedged"] is True


async def test_a_stream_has_its_first_byte_before_its_end(start_backend, start_gateway, collector):
    backend = await start_backend()
    gateway = await start_gateway(tracing(collector), backend)
    backend.will(event_stream() + chunk(EVENT), 0.1, chunk(EVENT) + LAST_CHUNK)
    assert (await gateway.ask(post(b'{"model":"m","stream":true}'))).body == EVENT * 2
    await gateway.stop()
    for span in (collector.exchange, *collector.attempts):
        (first_byte,) = span.events
        assert span.end_time_unix_nano - first_byte.time_unix_nano > 80_000_000
    assert attributes(collector.exchange)["spillway.stream"] is True


async def test_a_client_that_leaves_ends_both_spans(start_backend, start_gateway, collector):
    backend = await start_backend()
    gateway = await start_gateway(tracing(collector), backend)
    backend.will(HANG)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: backend.requests)
    client.close()
    assert await settled(lambda: gateway.records)
    await gateway.stop()
    for span in (collector.exchange, *collector.attempts):
        assert attributes(span)["spillway.reason"] == "client_left"
        assert "http.response.status_code" not in attributes(span)
        assert span.status.code == Status.STATUS_CODE_UNSET
    assert len(collector.attempts) == 1


async def test_a_callers_error_is_an_error_of_the_attempt_only(start_backend, start_gateway, collector):
    backend = await start_backend()
    gateway = await start_gateway(tracing(collector), backend)
    backend.will(reply(b"{}", status="400 Bad Request"))
    assert (await gateway.ask(post())).status == 400
    await gateway.stop()
    (attempt,) = collector.attempts
    assert (attempt.status.code, attributes(attempt)["error.type"]) == (Status.STATUS_CODE_ERROR, "400")
    assert collector.exchange.status.code == Status.STATUS_CODE_UNSET
    assert "error.type" not in attributes(collector.exchange)


async def test_a_refused_request_is_a_span_without_attempts(start_backend, start_gateway, collector):
    gateway = await start_gateway(tracing(collector), await start_backend())
    assert (await gateway.ask(post(path="/nowhere"))).status == 404
    await gateway.stop()
    assert (collector.attempts, collector.exchange.name) == ([], "POST /*")
    assert attributes(collector.exchange)["error.type"] == "not_found"


async def test_no_backend_in_reach_is_an_error_of_the_exchange(start_backend, start_gateway, collector):
    backend = await start_backend()
    gateway = await start_gateway(tracing(collector), "retry: {attempts: 1}", backend)
    backend.will(Ending.RST)
    assert (await gateway.ask(post())).status == 502
    await gateway.stop()
    assert collector.exchange.status.code == Status.STATUS_CODE_ERROR
    assert attributes(collector.exchange)["error.type"] == "upstream_unreachable"


async def test_who_is_not_sampled_is_passed_on_and_not_recorded(start_backend, start_gateway, collector):
    backend = await start_backend()
    gateway = await start_gateway(tracing(collector).replace("sample_ratio: 1", "sample_ratio: 0"), backend)
    await gateway.ask(post(b"{}", TRACEPARENT))
    await gateway.ask(post(b'{"model":"m"}', TRACEPARENT))
    await gateway.stop()
    assert not collector.spans
    trace, parent, flags = sent_on(backend.requests[-1])
    assert (trace, flags) == (TRACE, "00")
    assert parent != PARENT
    assert gateway.records[-1].trace.hex_id == TRACE


@pytest.mark.parametrize(("flags", "count"), [("01", 2), ("00", 0)])
async def test_clients_decide_where_they_may(start_backend, start_gateway, collector, flags, count):
    ratio = "sample_ratio: 0" if count else "sample_ratio: 1"
    settings = tracing(collector, "follow_client: true").replace("sample_ratio: 1", ratio)
    backend = await start_backend()
    gateway = await start_gateway(settings, backend)
    await gateway.ask(post(b'{"model":"m"}', f"traceparent: 00-{TRACE}-{PARENT}-{flags}"))
    await gateway.stop()
    assert len(collector.spans) == count
    assert sent_on(backend.requests[0])[2] == flags


def test_tracing_changes_only_with_a_restart(tmp_path):
    clusters = "clusters: [{name: a, limit: 1, backends: ['http://127.0.0.1:9']}]\n"
    off, on = (
        parse(f"{text}\n{clusters}", "g.yaml", tmp_path)
        for text in ("", "tracing: {endpoint: 'http://127.0.0.1:4318'}")
    )
    assert on.tracing is not None and on.tracing.traces_url == "http://127.0.0.1:4318/v1/traces"
    assert "tracing" in restart_needed(off, on)


async def test_what_sends_traces_may_be_missing(start_gateway, start_backend, collector, monkeypatch):
    monkeypatch.setitem(sys.modules, "gateway.telemetry.spans", None)
    with pytest.raises(OSError, match=r"pip install 'spillway\[tracing\]'"):
        await start_gateway(tracing(collector), await start_backend())


def test_a_gateway_without_traces_does_not_load_what_sends_them():
    loaded = "import sys, gateway.app; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], timeout=20).returncode == 0


async def test_without_tracing_both_headers_pass_untouched(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(backend)
    lines = ("traceparent: anything at all", "tracestate: a=1", "tracestate: ,b")
    assert (await gateway.ask(post(b'{"model":"m"}', *lines))).status == 200
    assert backend.requests[0].all("traceparent") == ["anything at all"]
    assert backend.requests[0].all("tracestate") == ["a=1", ",b"]
    assert gateway.records[0].trace is None


async def test_no_secret_gets_into_a_span(start_backend, start_gateway, collector):
    backend = await start_backend()
    secret = "Bearer s3cr3t-of-the-collector"
    gateway = await start_gateway(
        tracing(collector, f"headers: [{{name: X-Token, value: '{secret}'}}]"),
        "clusters:",
        f"- {{name: c, limit: 8, backends: ['{backend.url}'], auth: {{value: s3cr3t-upstream}}}}",
    )
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "s3cr3t-words"}]}).encode()
    asked = post(
        body, "Authorization: Bearer s3cr3t-client", "Cookie: s3cr3t", path="/v1/chat/completions?k=s3cr3t"
    )
    assert (await gateway.ask(asked)).status == 200
    await gateway.stop()
    assert len(collector.spans) == 2
    assert b"s3cr3t" not in collector.raw
    assert collector.headers[0]["X-Token"] == secret


async def test_a_collector_that_hangs_delays_nobody(start_backend, start_gateway, collector):
    collector.hangs = True
    gateway = await start_gateway(tracing(collector, "max_queue: 6"), await start_backend())
    client = await gateway.connect()
    for _ in range(10):
        await client.send(post())
        assert (await client.answer()).status == 200
    spans = gateway.gateway._spans
    assert spans.waiting == 6
    assert spans.dropped == 14
    began_s = time.monotonic()
    assert not await asyncio.to_thread(spans.close, 0.2)
    assert time.monotonic() - began_s < 1.0
    # Its thread is still at it: left alone, it would say in the next test's log that spans were lost.
    collector.lets_go.set()
    assert await settled(lambda: spans.waiting == 0, EXPORT_TIMEOUT_S)
    assert spans.dropped + len(collector.spans) == 20


async def test_a_collector_that_is_down_costs_spans_not_requests(start_backend, start_gateway, caplog):
    gateway = await start_gateway(
        "tracing: {endpoint: 'http://127.0.0.1:1', sample_ratio: 1}", await start_backend()
    )
    for _ in range(3):
        assert (await gateway.ask(post())).status == 200
    spans = gateway.gateway._spans
    await asyncio.to_thread(spans.close, 0.2)
    assert await settled(lambda: spans.waiting == 0)
    assert spans.dropped == 6
    assert [record.message for record in caplog.records if "collector" in record.message] == [
        "the collector takes no spans; they are dropped and counted until it does"
    ]


async def test_a_collector_that_refuses_is_counted(start_backend, start_gateway, collector):
    collector.status = 400
    gateway = await start_gateway(tracing(collector), await start_backend())
    assert (await gateway.ask(post())).status == 200
    await gateway.stop()
    assert gateway.gateway._spans.dropped == 2
