"""The metrics of all workers as one: texts of their /metrics in, in either form, one set of families out.

Invariant: no counter and no histogram ever goes backwards. What a worker has counted stays, when it does not
answer and when it has died, as of the last time it was heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import add

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar, Sample

from gateway.ports import ConfigStatus, DiscoveryStatus
from gateway.telemetry import catalogue
from gateway.telemetry.catalogue import PROCESS_ACROSS, Across
from gateway.telemetry.config_gauges import config_families
from gateway.telemetry.discovery_families import discovery_families
from gateway.telemetry.families import counter, gauge, rendered

_CUMULATIVE = frozenset({"counter", "histogram"})
_ACROSS = PROCESS_ACROSS | {spec.full_name: spec.across for spec in catalogue.CATALOGUE}
_COMBINE: dict[Across, Callable[[float, float], float]] = {Across.SUM: add, Across.MAX: max, Across.MIN: min}

Series = tuple[str, tuple[tuple[str, str], ...]]


class _Family:
    """One metric: its series in the order in which they were met."""

    def __init__(self, like: Metric) -> None:
        self.name, self.documentation, self.kind = like.name, like.documentation, like.type
        self.values: dict[Series, float] = {}
        self.exemplars: dict[Series, Exemplar] = {}

    def take(self, values: Mapping[Series, float], across: Across) -> None:
        combine = _COMBINE[across]
        for series, value in values.items():
            known = self.values.get(series)
            self.values[series] = value if known is None else combine(known, value)

    def take_exemplars(self, metric: Metric) -> None:
        """The latest of each series stays."""
        for sample in metric.samples:
            if sample.exemplar is not None:
                series = _series(sample)
                known = self.exemplars.get(series)
                if known is None or _at_s(known) <= _at_s(sample.exemplar):
                    self.exemplars[series] = sample.exemplar

    def metric(self) -> Metric:
        metric = Metric(self.name, self.documentation, self.kind)
        for series, value in self.values.items():
            name, labels = series
            metric.add_sample(name, dict(labels), value, exemplar=self.exemplars.get(series))
        return metric


class _Picture:
    """Some families, by name."""

    def __init__(self) -> None:
        self.families: dict[str, _Family] = {}

    def take(self, like: Metric, values: Mapping[Series, float], across: Across) -> None:
        if like.name not in self.families:
            self.families[like.name] = _Family(like)
        family = self.families[like.name]
        family.take(values, across)
        family.take_exemplars(like)

    def add(self, other: _Picture) -> None:
        """Everything of `other`, by each metric's own rule."""
        for name, family in other.families.items():
            self.take(family.metric(), family.values, _across(name))


class WorkerMetrics:
    """Keeps what workers have counted. A worker is known from `joined` to `departed`, by its own number."""

    def __init__(
        self,
        config_status: Callable[[], ConfigStatus] = ConfigStatus,
        discovery: Callable[[], Iterable[DiscoveryStatus]] = tuple,
    ) -> None:
        self._config_status = config_status
        self._discovery = discovery
        self._counted: dict[int, _Picture] = {}
        self._departed = _Picture()
        self._restarts = 0
        self._missed = 0
        self._own = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._own)

    def joined(self, worker: int) -> None:
        self._counted[worker] = _Picture()

    def departed(self, worker: int, was_restarted: bool = True) -> None:
        """It has ended: what it had counted stays in the sums."""
        self._departed.add(self._counted.pop(worker, _Picture()))
        self._restarts += was_restarted

    def render(
        self, scrapes: Mapping[int, str | None], states: Mapping[str, int], as_openmetrics: bool
    ) -> tuple[Iterator[bytes], str]:
        """All as one, in parts, and the content type. `scrapes` has None for a worker that did not answer.

        `states` counts workers by their state. Raises ValueError for a text that is no exposition.
        """
        now = _Picture()
        for worker, text in scrapes.items():
            if text is None:
                self._missed += 1
            else:
                self._hear(worker, text, now)
        for counted in (self._departed, *self._counted.values()):
            now.add(counted)
        shared = (*config_families(self._config_status()), *discovery_families(self._discovery()))
        for metric in (*self._own.collect(), *shared):
            now.take(metric, _values(metric), _across(metric.name))
        _make_room(now)
        return rendered([*(f.metric() for f in now.families.values()), *self._about(states)], as_openmetrics)

    def _hear(self, worker: int, text: str, now: _Picture) -> None:
        """Gauges hold for now; what only grows is kept, whichever of two scrapes that cross comes last."""
        counted = self._counted.get(worker)
        parse = parse_openmetrics if text.endswith("# EOF\n") else text_string_to_metric_families
        for metric in parse(text):
            if metric.type not in _CUMULATIVE:
                now.take(metric, _values(metric), _across(metric.name))
            elif counted is not None:
                counted.take(metric, _values(metric), Across.MAX)

    def _about(self, states: Mapping[str, int]) -> Iterable[Metric]:
        yield gauge(catalogue.WORKERS, {(state,): count for state, count in states.items()})
        yield counter(catalogue.WORKER_RESTARTS, {(): self._restarts})
        yield counter(catalogue.WORKER_SCRAPES_MISSED, {(): self._missed})


def _values(metric: Metric) -> dict[Series, float]:
    return {_series(sample): sample.value for sample in metric.samples}


def _series(sample: Sample) -> Series:
    return sample.name, tuple(sorted(sample.labels.items()))


def _at_s(exemplar: Exemplar) -> float:
    return float(exemplar.timestamp or 0.0)


def _across(name: str) -> Across:
    across = _ACROSS.get(name, Across.SUM)
    # Made of two others in the end; until then any of them will do.
    return Across.MIN if across is Across.ROOM else across


def _make_room(picture: _Picture) -> None:
    """headroom = limit - in_flight of all workers: neither a sum nor any one's own would be true."""
    limit, in_flight, headroom = (
        picture.families.get(spec.full_name)
        for spec in (catalogue.LIMIT, catalogue.IN_FLIGHT, catalogue.HEADROOM)
    )
    if limit is None or headroom is None:
        return
    taken = {labels: value for (_, labels), value in in_flight.values.items()} if in_flight else {}
    headroom.values = {
        (headroom.name, labels): max(value - taken.get(labels, 0), 0)
        for (_, labels), value in limit.values.items()
    }
