"""What the mock engine itself saw: the truth that tests compare the gateway's numbers with."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counts since start. An exchange is in flight from its last request byte to its end, hung ones too."""

    requests: int = 0  # at inference paths, refused ones included
    malformed: int = 0  # not HTTP: closed with 400
    connections: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    hung: int = 0  # in flight and never to be answered
    aborted: int = 0  # the client left before the end
    input_tokens: int = 0
    output_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)  # by finish_reason
    faulted: Counter[str] = field(default_factory=Counter)  # by fault kind

    def opened(self) -> None:
        """An inference exchange began."""
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """The engine's state at one moment. `kv_usage` is a share, 0..1."""

    running: int
    waiting: int
    peak_running: int
    kv_usage: float


def metrics_text(counters: Counters, gauges: EngineGauges, model: str) -> bytes:
    """Prometheus text format under vLLM's names (vllm/v1/metrics/loggers.py) plus `mock_engine_*`."""
    return ("\n".join(_lines(counters, gauges, model)) + "\n").encode()


def _lines(counters: Counters, gauges: EngineGauges, model: str) -> Iterator[str]:
    engine = f'engine="0",model_name="{_escaped(model)}"'
    # A hung vLLM still shows its requests as running: that, without progress, is how it looks from outside.
    yield from _metric("vllm:num_requests_running", "gauge", {engine: gauges.running + counters.hung})
    yield from _metric("vllm:num_requests_waiting", "gauge", {engine: gauges.waiting})
    yield from _metric("vllm:kv_cache_usage_perc", "gauge", {engine: gauges.kv_usage})
    yield from _metric("vllm:prompt_tokens_total", "counter", {engine: counters.input_tokens})
    yield from _metric("vllm:generation_tokens_total", "counter", {engine: counters.output_tokens})
    reasons = {"stop": 0, "length": 0, **counters.finished, "abort": counters.aborted}
    finished = {f'{engine},finished_reason="{reason}"': count for reason, count in reasons.items()}
    yield from _metric("vllm:request_success_total", "counter", finished)
    yield from _metric("mock_engine_requests_total", "counter", {"": counters.requests})
    yield from _metric("mock_engine_malformed_total", "counter", {"": counters.malformed})
    yield from _metric("mock_engine_connections_total", "counter", {"": counters.connections})
    yield from _metric("mock_engine_aborted_total", "counter", {"": counters.aborted})
    yield from _metric("mock_engine_in_flight", "gauge", {"": counters.in_flight})
    yield from _metric("mock_engine_peak_in_flight", "gauge", {"": counters.peak_in_flight})
    yield from _metric("mock_engine_peak_running", "gauge", {"": gauges.peak_running})
    faulted = {f'kind="{kind}"': count for kind, count in sorted(counters.faulted.items())}
    yield from _metric("mock_engine_faults_total", "counter", faulted)


def _metric(name: str, kind: str, samples: Mapping[str, float]) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    for labels, value in samples.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
