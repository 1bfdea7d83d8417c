"""Spans to a collector: made on the event loop from finished records, sent by the SDK's own thread.

Imported only where the configuration has `tracing`: the SDK is an extra, and costs memory.

Never in anybody's way: what waits is bounded, what does not fit is dropped and counted, and the end waits a
moment only. The spans are made when all is over, with the ids that the data plane has used on the wire; the
SDK's own tracer, which draws ids by itself, is not used (ADR 0028).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from uuid import uuid4

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from gateway.ports import ExchangeTrace, RequestRecord
from gateway.telemetry.span_content import SpanContent, attempt_span, exchange_span

log = logging.getLogger(__name__)

# A collector that takes longer than this for a batch is as good as down.
EXPORT_TIMEOUT_S = 5.0
SEND_EVERY_S = 1.0
SPANS_PER_BATCH = 512
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_OK, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go. `url` is whole; `headers` may hold credentials and are in no repr."""

    url: str
    service_name: str
    max_queue: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class SpanSink:
    """Takes records of sampled exchanges. Only the event loop calls `record`; `wall_clock` is since 1970."""

    def __init__(self, exporter: SpanExporter, collector: Collector, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._max_queue = collector.max_queue
        self._exporter = _Counting(exporter)
        self._taken = 0
        self._refused = 0
        self._scope = InstrumentationScope("spillway", version("spillway"))
        self._resource = Resource.create(
            {
                "service.name": collector.service_name,
                "service.version": version("spillway"),
                "service.instance.id": str(uuid4()),
            }
        )
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=collector.max_queue,
            schedule_delay_millis=SEND_EVERY_S * 1000,
            max_export_batch_size=min(SPANS_PER_BATCH, collector.max_queue),
        )

    @property
    def dropped(self) -> int:
        """Spans that no collector got."""
        return self._refused + self._exporter.lost

    @property
    def waiting(self) -> int:
        """Spans taken and neither sent nor lost."""
        return self._taken - self._exporter.settled

    def record(self, record: RequestRecord) -> None:
        trace = record.trace
        if trace is None or not trace.is_sampled:
            return
        count = 1 + len(trace.attempts)
        # All of an exchange or nothing: a trace with a hole in its middle misleads.
        if self.waiting + count > self._max_queue:
            self._refused += count
            return
        self._taken += count
        own_context = _context(trace, trace.span_id)
        # The wall clock may have been set meanwhile: every time of this exchange is told by one reading.
        offset_s = self._wall_clock() - (record.started_s + record.duration_s)
        for number, attempt in enumerate(trace.attempts):
            content = attempt_span(record, number, attempt)
            context = _context(trace, attempt.span_id)
            self._processor.on_end(self._span(content, context, own_context, SpanKind.CLIENT, offset_s))
        parent = None if trace.parent_id is None else _context(trace, trace.parent_id, is_remote=True)
        content = exchange_span(record)
        self._processor.on_end(self._span(content, own_context, parent, SpanKind.SERVER, offset_s))

    def _span(
        self,
        content: SpanContent,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        offset_s: float,
    ) -> ReadableSpan:
        events = []
        if content.first_byte_s is not None:
            events = [Event("first_byte", timestamp=_nanoseconds(content.first_byte_s + offset_s))]
        return ReadableSpan(
            content.name,
            context,
            parent,
            self._resource,
            content.attributes,
            events,
            kind=kind,
            status=_ERROR if content.is_error else _OK,
            start_time=_nanoseconds(content.began_s + offset_s),
            end_time=_nanoseconds(content.ended_s + offset_s),
            instrumentation_scope=self._scope,
        )

    def close(self, deadline_s: float = 2.0) -> bool:
        """Sends what waits; False when that did not end within `deadline_s`. Blocks."""
        # The processor gives itself 30 s for that.
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(deadline_s)
        if ending.is_alive():
            self._exporter.shutdown()  # it may be waiting between two tries
        return self.waiting == 0


def open_spans(collector: Collector, wall_clock: Callable[[], float]) -> SpanSink:
    """The sink for the collector of the configuration."""
    # It says everything at length, for each batch; _Counting says it once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    session = requests.Session()
    session.trust_env = False  # no proxy, and no credentials from ~/.netrc
    session.max_redirects = 0  # the headers are for this collector alone
    exporter = OTLPSpanExporter(
        endpoint=collector.url,
        headers=dict(collector.headers),
        timeout=EXPORT_TIMEOUT_S,
        compression=Compression.Gzip,
        session=session,
    )
    return SpanSink(exporter, collector, wall_clock)


class _Counting(SpanExporter):
    """Counts what became of spans. Written by the SDK's thread, read by the event loop."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._is_failing = False
        self.settled = 0
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            went_well = result is SpanExportResult.SUCCESS
            if not went_well:
                self.lost += len(spans)
            self._tell(went_well)
            self.settled += len(spans)  # last: who waits for it sees all the rest
        return result

    def _tell(self, went_well: bool) -> None:
        """Once for each turn: what fails for one batch fails for the next."""
        if went_well is not self._is_failing:
            return
        self._is_failing = not went_well
        if went_well:
            log.info("the collector takes spans again; %d were lost", self.lost)
        else:
            log.warning("the collector takes no spans; they are dropped and counted until it does")

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _context(trace: ExchangeTrace, span_id: int, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace.trace_id, span_id, is_remote, _SAMPLED, _state(trace.state))


@lru_cache(maxsize=256)
def _state(state: bytes) -> TraceState:
    return TraceState.from_header([state.decode()] if state else [])


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
