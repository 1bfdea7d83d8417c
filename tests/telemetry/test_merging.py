"""The texts of several workers in, one text out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.core.fleet import AttemptStarted, Fleet, FleetConfigured
from gateway.core.model import Backend, Cluster
from gateway.ports import ExchangeTrace, RequestRecord
from gateway.telemetry.catalogue import CATALOGUE, WORKERS_CATALOGUE, Across
from gateway.telemetry.exposition import Exposition, GaugeSources
from gateway.telemetry.merging import WorkerMetrics
from gateway.telemetry.metrics import Metrics

Samples = dict[str, float]


def merged(
    metrics: WorkerMetrics, scrapes: dict[int, str | None], states: dict[str, int] | None = None
) -> Samples:
    """Every sample of the merged text, written as `name{label=value,...}`."""
    parts, content_type = metrics.render(scrapes, states or {}, as_openmetrics=False)
    assert content_type.startswith("text/plain")
    return samples(b"".join(parts).decode())


def samples(text: str, parse: Callable[[str], Iterable[object]] = parse_text) -> Samples:
    found: Samples = {}
    for family in parse(text):
        for sample in family.samples:  # type: ignore[attr-defined]
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, "a series is there twice"
            found[key] = sample.value
    return found


def known(*workers: int) -> WorkerMetrics:
    metrics = WorkerMetrics()
    for worker in workers:
        metrics.joined(worker)
    return metrics


def sheds(count: int) -> str:
    return (
        "# HELP spillway_sheds_total Refused.\n# TYPE spillway_sheds_total counter\n"
        f'spillway_sheds_total{{reason="no_capacity"}} {count}\n'
    )


def occupancy(in_flight: int, limit: int = 8, backend: str = "b") -> str:
    values = {"in_flight": in_flight, "limit": limit, "headroom": limit - in_flight, "leases_held": in_flight}
    return "".join(
        f"# HELP spillway_{name} x\n# TYPE spillway_{name} gauge\n"
        f'spillway_{name}{{backend="{backend}",cluster="c"}} {value}\n'
        for name, value in values.items()
    )


def ttft(*counts: int) -> str:
    lines = "".join(
        f'spillway_ttft_seconds_bucket{{cluster="c",le="{le}",tier="t"}} {count}\n'
        for le, count in zip(("0.01", "1.0", "+Inf"), counts, strict=True)
    )
    return (
        "# HELP spillway_ttft_seconds x\n# TYPE spillway_ttft_seconds histogram\n"
        f'{lines}spillway_ttft_seconds_count{{cluster="c",tier="t"}} {counts[-1]}\n'
        f'spillway_ttft_seconds_sum{{cluster="c",tier="t"}} {counts[-1] / 2}\n'
    )


SHEDS = "spillway_sheds_total{reason=no_capacity}"
B = "{backend=b,cluster=c}"


def test_counters_and_histograms_are_added_series_by_series() -> None:
    other = sheds(4).replace("no_capacity", "no_backend")
    found = merged(known(1, 2), {1: sheds(3) + ttft(1, 2, 3), 2: other + ttft(0, 5, 6)})
    assert found[SHEDS] == 3
    assert found["spillway_sheds_total{reason=no_backend}"] == 4
    buckets = [
        found[f"spillway_ttft_seconds_bucket{{cluster=c,le={le},tier=t}}"] for le in ("0.01", "1.0", "+Inf")
    ]
    assert buckets == [1, 7, 9]
    assert found["spillway_ttft_seconds_count{cluster=c,tier=t}"] == 9
    assert found["spillway_ttft_seconds_sum{cluster=c,tier=t}"] == 4.5


def test_occupancy_is_added_but_the_limit_is_one_and_headroom_is_what_is_left() -> None:
    found = merged(known(1, 2, 3), {1: occupancy(3), 2: occupancy(4), 3: occupancy(0)})
    assert [found[f"spillway_{name}{B}"] for name in ("in_flight", "leases_held", "limit", "headroom")] == [
        7,
        7,
        8,
        1,
    ]


def test_headroom_is_never_below_nothing_and_stands_for_each_backend_alone() -> None:
    found = merged(known(1, 2), {1: occupancy(7) + "", 2: occupancy(6)})
    assert found[f"spillway_headroom{B}"] == 0
    one, two = occupancy(1), occupancy(2, limit=4, backend="d")
    found = merged(known(1, 2), {1: one, 2: two})
    assert found[f"spillway_headroom{B}"] == 7
    assert found["spillway_headroom{backend=d,cluster=c}"] == 2


def test_one_that_does_not_answer_is_left_out_of_the_gauges_and_its_counters_stand_still() -> None:
    metrics = known(1, 2)
    merged(metrics, {1: sheds(3) + occupancy(3), 2: sheds(5) + occupancy(4)})
    found = merged(metrics, {1: sheds(4) + occupancy(2), 2: None})
    assert found[SHEDS] == 9
    assert (found[f"spillway_in_flight{B}"], found[f"spillway_headroom{B}"]) == (2, 6)
    assert found["spillway_worker_scrapes_missed_total"] == 1
    assert merged(metrics, {1: sheds(4), 2: sheds(5)})["spillway_worker_scrapes_missed_total"] == 1


def test_what_a_dead_worker_had_counted_stays_and_its_successor_adds_to_it() -> None:
    metrics = known(1, 2)
    merged(metrics, {1: sheds(3) + ttft(1, 1, 1), 2: sheds(5) + occupancy(4)})
    metrics.departed(1)
    found = merged(metrics, {2: sheds(5) + occupancy(4)})
    assert found[SHEDS] == 8
    assert found["spillway_ttft_seconds_count{cluster=c,tier=t}"] == 1
    assert found["spillway_worker_restarts_total"] == 1
    metrics.joined(3)
    assert merged(metrics, {2: sheds(5), 3: sheds(1)})[SHEDS] == 9
    metrics.departed(3)
    assert merged(metrics, {2: sheds(6)})[SHEDS] == 10


def test_a_scrape_of_one_that_died_meanwhile_is_not_counted_again_and_again() -> None:
    metrics = known(1, 2)
    merged(metrics, {1: sheds(3), 2: sheds(5)})
    metrics.departed(1)
    assert merged(metrics, {1: sheds(3), 2: sheds(5)})[SHEDS] == 8
    assert merged(metrics, {2: sheds(5)})[SHEDS] == 8


def test_of_two_scrapes_that_cross_the_older_does_not_turn_counters_back() -> None:
    metrics = known(1)
    merged(metrics, {1: sheds(7)})
    assert merged(metrics, {1: sheds(6)})[SHEDS] == 7


def test_a_worker_that_ended_because_it_was_told_to_is_no_restart() -> None:
    metrics = known(1)
    metrics.departed(1, was_restarted=False)
    assert merged(metrics, {})["spillway_worker_restarts_total"] == 0


def test_workers_are_counted_by_state() -> None:
    found = merged(known(1), {}, {"ready": 3, "starting": 1})
    assert (found["spillway_workers{state=ready}"], found["spillway_workers{state=starting}"]) == (3, 1)


def test_process_metrics_take_the_sum_or_the_tightest() -> None:
    def process(rss: int, start: int, open_fds: int) -> str:
        return (
            f"# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {rss}e12\n"
            f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {start}\n"
            f"# TYPE process_open_fds gauge\nprocess_open_fds {open_fds}\n"
        )

    found = merged(known(1, 2), {1: process(1, 70, 900_000), 2: process(2, 80, 800_000)})
    own = merged(known(), {})["process_resident_memory_bytes"]
    assert found["process_resident_memory_bytes"] == pytest.approx(3e12 + own, rel=1e-3)
    assert found["process_start_time_seconds"] == 70
    assert found["process_open_fds"] == 900_000


def test_a_text_that_is_no_exposition_is_an_error() -> None:
    with pytest.raises(ValueError):
        merged(known(1), {1: "# TYPE a-b counter\nwhat is this\n"})


class Worker:
    """What a real worker shows."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        backends = (Backend("here@a:1", "http://a:1", 4), Backend("here@b:1", "http://b:1", 8))
        self.fleet.apply(FleetConfigured((Cluster("here", "primary", backends),), ("primary",)), 0.0)
        self.metrics = Metrics(lambda: 1_700_000_000.5)
        self._exposition = Exposition(
            self.metrics, GaugeSources(self.fleet.view, clock=lambda: 0.0, leases_held=lambda _: 1)
        )

    def text(self, as_openmetrics: bool = False) -> str:
        return b"".join(self._exposition.render(as_openmetrics)[0]).decode()


def two_workers(record: Callable[..., RequestRecord]) -> list[Worker]:
    workers = [Worker(), Worker()]
    for count, worker in enumerate(workers, start=2):
        for _ in range(count):
            worker.metrics.record(record())
            worker.fleet.apply(AttemptStarted("here@a:1"), 1.0)
    return workers


def test_every_sum_of_real_texts_is_the_sum(record: Callable[..., RequestRecord]) -> None:
    texts = [worker.text() for worker in two_workers(record)]
    found = merged(known(0, 1), dict(enumerate(texts)))
    one, two = map(samples, texts)
    assert set(one) == set(two)
    summed = {spec.full_name for spec in CATALOGUE if spec.across is Across.SUM}
    compared = 0
    for key in one:
        if any(key.startswith(name) for name in summed):
            assert found[key] == pytest.approx(one[key] + two[key]), key
            compared += 1
    assert compared > 40
    here = "{backend=here@a:1,cluster=here}"
    assert (found[f"spillway_limit{here}"], found[f"spillway_headroom{here}"]) == (4, 0)


def test_the_whole_catalogue_is_there_in_the_same_form(record: Callable[..., RequestRecord]) -> None:
    texts = dict(enumerate(worker.text() for worker in two_workers(record)))
    parts, _ = known(0, 1).render(texts, {"ready": 2}, as_openmetrics=False)
    shown = {family.name: family for family in parse_text(b"".join(parts).decode())}
    for spec in (*CATALOGUE, *WORKERS_CATALOGUE):
        family = shown.pop(spec.full_name.removesuffix("_total"))
        assert (family.type, family.documentation) == (spec.kind, spec.meaning), spec.name
    assert all(name.startswith("process_") for name in shown)


def test_openmetrics_is_rendered_for_its_own_parser(record: Callable[..., RequestRecord]) -> None:
    texts = dict(enumerate(worker.text() for worker in two_workers(record)))
    parts, content_type = known(0, 1).render(texts, {"ready": 2}, as_openmetrics=True)
    assert content_type.startswith("application/openmetrics-text")
    found = samples(b"".join(parts).decode(), parse_openmetrics)
    assert found["spillway_workers{state=ready}"] == 2
    assert found["spillway_ttft_seconds_count{cluster=here,tier=primary}"] == 5


def test_the_latest_exemplar_of_all_workers_is_shown(record: Callable[..., RequestRecord]) -> None:
    workers = known(0, 1)
    one, two = Worker(), Worker()
    for number, worker in enumerate((one, two), start=1):
        worker.metrics._wall_clock = lambda number=number: 1000.0 * number
        worker.metrics.record(record(trace=ExchangeTrace(number, 1, None, True)))
    for texts in ({0: two.text(True), 1: one.text(True)}, {0: two.text(True), 1: None}):
        parts, _ = workers.render(texts, {}, as_openmetrics=True)
        shown = b"".join(parts).decode()
        assert f'{{trace_id="{2:032x}"}} 0.04 2000.000000000\n' in shown
        assert f"{1:032x}" not in shown
        assert shown.count("# {trace_id") == 2


def test_workers_that_speak_openmetrics_are_counted_alike(record: Callable[..., RequestRecord]) -> None:
    workers = two_workers(record)
    plain = merged(known(0, 1), dict(enumerate(worker.text() for worker in workers)))
    other = merged(known(0, 1), dict(enumerate(worker.text(True) for worker in workers)))
    unsteady = ("process_",)
    assert {k: v for k, v in plain.items() if not k.startswith(unsteady)} == {
        k: v for k, v in other.items() if not k.startswith(unsteady)
    }


def test_only_gauges_are_anything_but_sums() -> None:
    """A counter or a histogram that were not added would go backwards when a worker ends."""
    for spec in CATALOGUE:
        assert spec.kind == "gauge" or spec.across is Across.SUM, spec.name
