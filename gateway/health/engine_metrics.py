"""What engines say of themselves in their Prometheus metrics: which names mean what, and how a page is read.

Not with prometheus_client.parser: that builds every family of a page in Python, on the event loop of the data
plane, for three numbers whose lines can be named (ADR 0016). Here the page is looked through as it arrives,
part by part, and nothing of it is kept but sums.
"""

from __future__ import annotations

import re
from enum import StrEnum
from math import isfinite
from typing import NamedTuple

from gateway.config.schema_health import EngineMetricsConfig
from gateway.core.health import EngineMetricsSeen, EngineReading
from gateway.core.model import Reason
from gateway.health.client import Ask, AskFailed, HealthClient
from gateway.health.targets import Target
from gateway.ports import Clock

# A vLLM page has about 60 KiB for each model.
MAX_PAGE_BYTES = 8 * 1024 * 1024
MAX_LINE_BYTES = 64 * 1024
# More than any engine runs at once; what is above is nonsense.
MAX_COUNT = 1e9


class Meaning(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"
    KV_CACHE = "kv_cache"  # the used share, 0 to 1


class EngineMetric(NamedTuple):
    """One metric; with a `label` only those of its samples that carry it."""

    meaning: Meaning
    name: str
    label: tuple[str, str] | None = None


ENGINES: dict[str, tuple[EngineMetric, ...]] = {
    # vllm/v1/metrics/loggers.py; `gpu_cache_usage_perc` was its name before 0.9.
    "vllm": (
        EngineMetric(Meaning.RUNNING, "vllm:num_requests_running"),
        EngineMetric(Meaning.WAITING, "vllm:num_requests_waiting"),
        EngineMetric(Meaning.KV_CACHE, "vllm:kv_cache_usage_perc"),
        EngineMetric(Meaning.KV_CACHE, "vllm:gpu_cache_usage_perc"),
    ),
    # sglang/srt/metrics/collector.py; only with --enable-metrics.
    "sglang": (
        EngineMetric(Meaning.RUNNING, "sglang:num_running_reqs"),
        EngineMetric(Meaning.WAITING, "sglang:num_queue_reqs"),
        EngineMetric(Meaning.KV_CACHE, "sglang:token_usage"),
    ),
    # tensorrt_llm/metrics/collector.py, under /prometheus/metrics of trtllm-serve.
    "trtllm": (
        EngineMetric(Meaning.RUNNING, "trtllm_num_requests_running"),
        EngineMetric(Meaning.WAITING, "trtllm_num_requests_waiting"),
        EngineMetric(Meaning.KV_CACHE, "trtllm_kv_cache_utilization"),
    ),
    # triton-inference-server/tensorrtllm_backend, README "Triton Metrics"; that `scheduled` means running is
    # the choice of the Gateway API Inference Extension's model server protocol.
    "triton_trtllm": (
        EngineMetric(Meaning.RUNNING, "nv_trt_llm_request_metrics", ("request_type", "scheduled")),
        EngineMetric(Meaning.WAITING, "nv_trt_llm_request_metrics", ("request_type", "waiting")),
        EngineMetric(
            Meaning.KV_CACHE, "nv_trt_llm_kv_cache_block_metrics", ("kv_cache_block_type", "fraction")
        ),
    ),
    # triton-inference-server/server, docs/user_guide/metrics.md. Triton tells what waits, not what runs.
    "triton": (EngineMetric(Meaning.WAITING, "nv_inference_pending_request_count"),),
}
"""In order: Triton with TensorRT-LLM has the metrics of both, and the more telling ones count."""

_NAMES = sorted({metric.name for metrics in ENGINES.values() for metric in metrics})
# Blanks are counted, so that a hostile line costs no more than its length.
_SAMPLE = re.compile(
    rb"^[ \t]{0,8}(%b)[ \t]{0,8}(?:\{([^\n]*)\})?[ \t]{1,8}([^ \t\r\n]+)"
    % b"|".join(name.encode() for name in _NAMES),
    re.MULTILINE,
)


class BadPage(Exception):
    """A page that is no metrics page, or too large to be one."""


class MetricsPage:
    """Reads one page: `feed` its parts, then `finish`.

    Running and waiting requests are summed over a page's samples (data-parallel engines, several models); of
    KV caches the fullest counts.
    """

    def __init__(self) -> None:
        self._sums: dict[EngineMetric, float] = {}
        self._rest = b""
        self._bytes = 0

    def feed(self, part: bytes) -> None:
        """Raises BadPage."""
        self._bytes += len(part)
        if self._bytes > MAX_PAGE_BYTES:
            raise BadPage(f"more than {MAX_PAGE_BYTES} bytes")
        lines, newline, rest = (self._rest + part).rpartition(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise BadPage(f"a line of more than {MAX_LINE_BYTES} bytes")
        self._rest = rest
        if newline:
            self._look_through(lines)

    def finish(self, at_s: float) -> EngineReading | None:
        """What the page says, as of `at_s`; None when it names no engine known here."""
        self._look_through(self._rest)
        self._rest = b""
        for metrics in ENGINES.values():
            seen = {metric: self._sums[metric] for metric in metrics if metric in self._sums}
            told = {meaning: _told(seen, meaning) for meaning in Meaning}
            if told[Meaning.RUNNING] is not None or told[Meaning.WAITING] is not None:
                return EngineReading(
                    int(told[Meaning.RUNNING] or 0),
                    int(told[Meaning.WAITING] or 0),
                    told[Meaning.KV_CACHE],
                    at_s,
                )
        return None

    def _look_through(self, lines: bytes) -> None:
        for name, labels, value in _SAMPLE.findall(lines):
            number = _number(value)
            if number is not None:
                for metric in _BY_NAME[name]:
                    if metric.label is None or _has(labels, metric.label):
                        self._take(metric, number)

    def _take(self, metric: EngineMetric, number: float) -> None:
        known = self._sums.get(metric, 0.0)
        if metric.meaning is Meaning.KV_CACHE:
            self._sums[metric] = max(known, min(number, 1.0))
        else:
            self._sums[metric] = min(known + number, MAX_COUNT)


_BY_NAME: dict[bytes, list[EngineMetric]] = {
    name.encode(): [m for metrics in ENGINES.values() for m in metrics if m.name == name] for name in _NAMES
}


async def read_metrics(
    client: HealthClient, target: Target, metrics: EngineMetricsConfig, clock: Clock
) -> EngineMetricsSeen | None:
    """One reading, as old as the question; None when there is nothing to be read. Raises AskFailed."""
    page = MetricsPage()

    def take(part: bytes) -> bool:
        page.feed(part)
        return True

    asked_s = clock()
    deadline_s = min(metrics.timeout_s, metrics.interval_s)
    try:
        status = await client.ask(
            target.endpoint, Ask(metrics.path, deadline_s, target.connect_s, metrics.port), take
        )
    except BadPage as exc:
        raise AskFailed(Reason.BAD_RESPONSE) from exc
    reading = page.finish(asked_s) if status == 200 else None
    return EngineMetricsSeen(target.backend_id, reading) if reading is not None else None


def _told(seen: dict[EngineMetric, float], meaning: Meaning) -> float | None:
    return max((value for metric, value in seen.items() if metric.meaning is meaning), default=None)


def _number(text: bytes) -> float | None:
    """A count or a share; None for NaN, infinities, negatives and nonsense."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) and 0 <= number <= MAX_COUNT else None


def _has(labels: bytes, wanted: tuple[str, str]) -> bool:
    """Inside another label's value the quotes would be escaped, so that this does not find it there."""
    text = b'%b="%b"' % (wanted[0].encode(), wanted[1].encode())
    return labels.startswith(text) or b"," + text in labels
