"""What is counted per request: plain numbers, found with one dictionary lookup.

`record` runs for every request on the event loop, so nothing here locks, formats or builds label
strings after the first request of a kind; exposition.py does that when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from gateway.core.model import Outcome, Reason
from gateway.ports import Held, RequestRecord
from gateway.telemetry.catalogue import (
    DURATION_BOUNDS_S,
    EXCHANGE_BOUNDS_S,
    HOLD_BOUNDS_S,
    OVERHEAD_BOUNDS_S,
    TTFT_BOUNDS_S,
)

# The error codes of refusals for want of capacity, whoever asked and however it was asked.
SHED_CODES = frozenset({"no_capacity", "no_backend", "queue_timeout", "residency_unavailable"})
# Label values come from the configuration, so this is never near; it bounds what a mistake can cost.
MAX_SERIES = 5_000
OTHER = "other"
# The status of a tunnel.
SWITCHED = 101

_Key = tuple[str, str, str, Outcome | None, int]


class SeenTrace(NamedTuple):
    """One request of a bucket, to look at in the traces; `at_s` is seconds since 1970."""

    trace_id: str
    seen_s: float
    at_s: float


class Histogram:
    """Counts per bucket (not cumulative, the last one is +Inf) and the sum of what was seen.

    `exemplars` has the last recorded trace of each bucket; None where none ever was.
    """

    __slots__ = ("bounds_s", "counts", "exemplars", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0
        self.exemplars: dict[int, SeenTrace] | None = None

    def show(self, trace_id: str, seen_s: float, at_s: float) -> None:
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds_s, seen_s)] = SeenTrace(trace_id, seen_s, at_s)


class Timings:
    """The histograms of one cluster."""

    __slots__ = ("duration", "overhead", "ttft")

    def __init__(self) -> None:
        self.ttft = Histogram(TTFT_BOUNDS_S)
        self.duration = Histogram(DURATION_BOUNDS_S)
        self.overhead = Histogram(OVERHEAD_BOUNDS_S)


class RequestSeries:
    """One series of requests_total; it knows the timings of its cluster, so that one lookup finds all."""

    __slots__ = ("count", "timings")

    def __init__(self, timings: Timings) -> None:
        self.count = 0
        self.timings = timings


class Metrics:
    """The numbers of all requests so far. Only the event loop writes; any thread may read a copy.

    `wall_clock` gives seconds since 1970, for exemplars.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self.requests: dict[tuple[str, ...], RequestSeries] = {}
        self.timings: dict[tuple[str, ...], Timings] = {}
        # Apart: an hour of a tunnel says nothing about requests, nor a handshake about first tokens.
        self.tunnel_timings: dict[tuple[str, ...], Timings] = {}
        self.spills: dict[tuple[str, ...], int] = {}
        self.sheds: dict[tuple[str, ...], int] = {}
        self.refused: dict[tuple[str, ...], int] = {}
        self.retries: dict[tuple[str, ...], int] = {}
        self.retries_denied: dict[tuple[str, ...], int] = {}
        self.hedges: dict[tuple[str, ...], int] = {}
        self.holds: dict[tuple[str, ...], Histogram] = {}
        self.openings: dict[tuple[str, ...], int] = {}
        self.exchanges: dict[tuple[str, ...], Histogram] = {
            (result,): Histogram(EXCHANGE_BOUNDS_S) for result in ("ok", "failed")
        }
        self.failures = 0
        self._series_of: dict[_Key, RequestSeries] = {}

    def record(self, record: RequestRecord) -> None:
        """Counts one finished request."""
        tier = record.tier
        key = (record.route_model, record.cluster, tier, record.outcome, record.status)
        series = self._series_of.get(key) or self._new_series(key)
        series.count += 1
        timings = series.timings
        seen_s, histogram = record.duration_s, timings.duration
        histogram.counts[bisect_left(DURATION_BOUNDS_S, seen_s)] += 1
        histogram.sum_s += seen_s
        seen_s, histogram = record.overhead_s, timings.overhead
        histogram.counts[bisect_left(OVERHEAD_BOUNDS_S, seen_s)] += 1
        histogram.sum_s += seen_s
        ttft_s = record.ttft_s
        if ttft_s is not None:
            histogram = timings.ttft
            histogram.counts[bisect_left(TTFT_BOUNDS_S, ttft_s)] += 1
            histogram.sum_s += ttft_s
        if tier != record.preferred_tier and tier and record.preferred_tier:
            _count(self.spills, (record.preferred_tier, tier, record.spill_reason or OTHER))
        if record.error_code is not None:
            self._record_error(record.error_code, record.refused)
        if record.held is not None:
            self._record_hold(record.held)
        if record.retries or record.hedge is not None or record.denied_retry is not None:
            self._record_attempts(record)
        if record.trace is not None and record.trace.is_sampled:
            self._show_trace(timings, record.trace.hex_id, record)

    def _show_trace(self, timings: Timings, trace_id: str, record: RequestRecord) -> None:
        at_s = self._wall_clock()
        timings.duration.show(trace_id, record.duration_s, at_s)
        if record.ttft_s is not None:
            timings.ttft.show(trace_id, record.ttft_s, at_s)

    def _record_error(self, code: str, refused: str | None) -> None:
        if refused is not None:
            _count(self.refused, (refused,))
        elif code in SHED_CODES:
            _count(self.sheds, (code,))

    def _record_attempts(self, record: RequestRecord) -> None:
        for retry in record.retries:
            _count(self.retries, (retry.cluster, retry.reason.value))
        if record.denied_retry is not None:
            cluster, reason = record.denied_retry
            _count(self.retries_denied, (cluster, reason.value))
        if record.hedge is not None:
            _count(self.hedges, record.hedge)

    def _record_hold(self, held: Held) -> None:
        labels: tuple[str, ...] = (held.tier, held.outcome)
        if labels not in self.holds and len(self.holds) >= MAX_SERIES:
            labels = (OTHER, held.outcome)
        histogram = self.holds.setdefault(labels, Histogram(HOLD_BOUNDS_S))
        histogram.counts[bisect_left(HOLD_BOUNDS_S, held.seconds)] += 1
        histogram.sum_s += held.seconds

    def record_opening(self, cluster: str, backend_id: str, reason: Reason) -> None:
        """Counts one opening of a backend's circuit."""
        _count(self.openings, (cluster, backend_id, reason.value))

    def record_exchange(self, seconds: float, went_well: bool) -> None:
        """Counts one exchange with the shared store."""
        histogram = self.exchanges[("ok",) if went_well else ("failed",)]
        histogram.counts[bisect_left(EXCHANGE_BOUNDS_S, seconds)] += 1
        histogram.sum_s += seconds

    def _new_series(self, key: _Key) -> RequestSeries:
        """The series for a key not seen before; keys that differ only in what no label shows share one."""
        labels: tuple[str, ...] = _labels(key)
        if labels not in self.requests and len(self.requests) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        series = self.requests.get(labels)
        if series is None:
            of_kind = self.tunnel_timings if key[4] == SWITCHED else self.timings
            timings = of_kind.setdefault(labels[1:3], Timings())
            series = self.requests[labels] = RequestSeries(timings)
        if len(self._series_of) < 2 * MAX_SERIES:
            self._series_of[key] = series
        return series


def _labels(key: _Key) -> tuple[str, ...]:
    route_model, cluster, tier, outcome, status = key
    # A backend chooses its status: anything but a three-digit HTTP one is not worth a series.
    code = str(status) if 100 <= status <= 599 else "none" if status == 0 else OTHER
    verdict = outcome.verdict.value if outcome is not None else "none"
    return route_model, cluster, tier, verdict, code


def _count(counts: dict[tuple[str, ...], int], labels: tuple[str, ...]) -> None:
    if labels not in counts and len(counts) >= MAX_SERIES:
        labels = (OTHER,) * len(labels)
    counts[labels] = counts.get(labels, 0) + 1
