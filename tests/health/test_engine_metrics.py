"""Metrics pages of engines, as they come: in parts, large, odd and hostile."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.health import EngineReading
from gateway.core.model import Reason
from gateway.health.client import AskFailed
from gateway.health.engine_metrics import (
    ENGINES,
    MAX_LINE_BYTES,
    MAX_PAGE_BYTES,
    BadPage,
    MetricsPage,
    read_metrics,
)
from gateway.mock_engine.counters import Counters, EngineGauges, metrics_text
from tests.health.asking import target_of
from tests.proxy.dialogue import HANG, LAST_CHUNK, chunk, event_stream, reply

# Shortened from what each engine shows.
VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta/{odd} \\"name\\""} 8.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="x"} 77.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 123456.0
"""
OLD_VLLM = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.5\n"
SGLANG = b"""\
sglang:token_usage{model_name="m"} 0.28
sglang:num_running_reqs{model_name="m",tp_rank="0"} 12.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 4.0
"""
TRTLLM = b"""\
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 6.0
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 1.0
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.125
"""
TRITON_TRTLLM = b"""\
nv_inference_pending_request_count{model="ensemble",version="1"} 9
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.6
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 2000
"""
TRITON = b"""\
nv_inference_request_success{model="a",version="1"} 100
nv_inference_pending_request_count{model="a",version="1"} 5
nv_inference_pending_request_count{model="b",version="1"} 2
"""
PAGES = {
    VLLM: EngineReading(11, 2, 0.75, 7.0),
    OLD_VLLM: EngineReading(1, 0, 0.5, 7.0),
    SGLANG: EngineReading(12, 4, 0.28, 7.0),
    TRTLLM: EngineReading(6, 1, 0.125, 7.0),
    TRITON_TRTLLM: EngineReading(4, 3, 0.6, 7.0),
    TRITON: EngineReading(0, 7, None, 7.0),
}


def read(*parts: bytes) -> EngineReading | None:
    page = MetricsPage()
    for part in parts:
        page.feed(part)
    return page.finish(7.0)


@pytest.mark.parametrize(("page", "expected"), PAGES.items(), ids=lambda value: str(value)[:25])
def test_each_engine_by_its_names(page: bytes, expected: EngineReading) -> None:
    assert read(page) == expected
    assert read(page.replace(b"\n", b"\r\n")) == expected
    assert read(page.rstrip(b"\n")) == expected, "without a last line break"


@pytest.mark.parametrize("page", PAGES)
def test_it_does_not_matter_where_a_page_is_cut_into_parts(page: bytes) -> None:
    assert read(*(page[at : at + 1] for at in range(len(page)))) == PAGES[page]
    for at in range(len(page)):
        assert read(page[:at], page[at:]) == PAGES[page]


def test_the_mock_engines_page() -> None:
    counters = Counters()
    counters.hung = 2
    text = metrics_text(counters, EngineGauges(running=3, waiting=4, peak_running=9, kv_usage=0.5), 'a "b"')
    assert read(text) == EngineReading(5, 4, 0.5, 7.0)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"\n\n",
        b"<html>404</html>",
        b'{"kv": 1}',
        b"process_cpu_seconds_total 1\n",
        b"vllm:kv_cache_usage_perc 0.5\n",
        b"vllm:num_requests_running\n",
        b"vllm:num_requests_running{\n",
        b"vllm:num_requests_running NaN\n",
        b"vllm:num_requests_running +Inf\nvllm:num_requests_waiting -1\n",
        b"vllm:num_requests_running many\n",
        b"# vllm:num_requests_running 5\n",
        b"not_vllm:num_requests_running 5\n",
        b'nv_trt_llm_request_metrics{request_type="other"} 5\n',
        b'nv_trt_llm_request_metrics{a="request_type=\\"waiting\\""} 5\n',
        b'nv_trt_llm_request_metrics{a="b,request_type=\\"waiting\\""} 5\n',
        b'nv_trt_llm_request_metrics{not_request_type="waiting"} 5\n',
    ],
)
def test_a_page_that_says_nothing_of_requests(page: bytes) -> None:
    assert read(page) is None


def test_nonsense_is_bounded() -> None:
    page = b"vllm:num_requests_running 9e8\n" * 9 + b"vllm:kv_cache_usage_perc 88\n"
    assert read(page) == EngineReading(1_000_000_000, 0, 1.0, 7.0)


def test_a_page_too_large_and_a_line_too_long_are_refused() -> None:
    page = MetricsPage()
    with pytest.raises(BadPage):
        page.feed(b"x" * (MAX_LINE_BYTES + 1))
    page = MetricsPage()
    line = b"a" * 1023 + b"\n"
    for _ in range(MAX_PAGE_BYTES // 1024):
        page.feed(line)
    with pytest.raises(BadPage):
        page.feed(b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"vllm:num_requests_running{" + b"}" * 60_000,
        b"vllm:num_requests_running" + b" " * 60_000,
        b"vllm:num_requests_running{" + b'a="' * 20_000 + b"} 1",
        b'nv_trt_llm_request_metrics{a="' + b"\\" * 60_000 + b"} 1",
        b"nv_trt_llm_request_metrics{" + b"a" * 60_000 + b"} 1",
        b" " * 60_000,
    ],
    ids=lambda line: line[:30].decode(),
)
def test_a_hostile_line_costs_little(line: bytes) -> None:
    began_s = time.perf_counter()
    read(line + b"\n")
    assert time.perf_counter() - began_s < 0.25


NAMES = sorted({metric.name for metrics in ENGINES.values() for metric in metrics if metric.label is None})


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.dictionaries(st.text(max_size=9), st.integers(0, 10**6), min_size=1),
        min_size=1,
    )
)
def test_it_reads_what_prometheus_reads(series) -> None:
    """Any page that the official client writes, and the official parser's sums of it."""
    registry = CollectorRegistry()
    for name, values in series.items():
        gauge = Gauge(name, "x", ["model_name"], registry=registry)
        for label, value in values.items():
            gauge.labels(label).set(value)
    page = generate_latest(registry)
    sums = {
        family.name: sum(sample.value for sample in family.samples)
        for family in text_string_to_metric_families(page.decode())
    }
    found = read(page)
    for engine, (running, waiting) in {
        "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting"),
        "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        "trtllm": ("trtllm_num_requests_running", "trtllm_num_requests_waiting"),
        "triton": ("", "nv_inference_pending_request_count"),
    }.items():
        assert engine in ENGINES
        if running in sums or waiting in sums:
            assert found is not None
            assert (found.running, found.waiting) == (sums.get(running, 0), sums.get(waiting, 0))
            return
    assert found is None


# --- over the wire -----------------------------------------------------------------------------------


async def scrape(client, backend, metrics: str = "", clock=lambda: 7.0):
    target = target_of(backend, engine_metrics=f"{{{metrics}}}")
    assert target.engine_metrics is not None
    return await read_metrics(client, target, target.engine_metrics, clock)


async def test_a_reading_is_as_old_as_the_question(client, start_backend) -> None:
    backend = await start_backend()
    backend.will(reply(VLLM))
    times = iter([7.0, 99.0])
    event = await scrape(client, backend, "path: /m/etrics", clock=lambda: next(times))
    assert event is not None
    assert event.reading == PAGES[VLLM]
    assert [(r.method, r.target) for r in backend.requests] == [("GET", "/m/etrics")]


async def test_metrics_on_a_port_of_their_own(client, start_backend) -> None:
    backend, metrics = await start_backend(), await start_backend()
    metrics.will(reply(TRITON))
    event = await scrape(client, backend, f"port: {metrics.port}")
    assert event is not None
    assert (event.backend_id, event.reading) == (f"here@127.0.0.1:{backend.port}", PAGES[TRITON])
    assert not backend.requests


@pytest.mark.parametrize("status", ["404 Not Found", "500 Broken", "302 Found"])
async def test_a_page_of_errors_is_none(client, start_backend, status) -> None:
    backend = await start_backend()
    backend.will(reply(VLLM, status=status))
    assert await scrape(client, backend) is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([HANG], Reason.FIRST_BYTE_TIMEOUT),
        ([event_stream(), chunk(VLLM), HANG], Reason.TOTAL_TIMEOUT),
        ([event_stream(), *[chunk(b"x" * 60_000)] * 3, HANG], Reason.BAD_RESPONSE),
        ([event_stream(), *[chunk(b"x" * 999 + b"\n") * 1000] * 10, LAST_CHUNK], Reason.BAD_RESPONSE),
    ],
    ids=["hangs", "stalls", "endless line", "endless page"],
)
async def test_what_cannot_be_read_is_left(client, start_backend, script, reason) -> None:
    backend = await start_backend()
    backend.will(*script)
    with pytest.raises(AskFailed) as caught:
        await scrape(client, backend, "timeout: 900ms")
    assert caught.value.reason is reason
