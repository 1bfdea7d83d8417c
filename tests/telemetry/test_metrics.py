"""Records in, a scrape out: read back with Prometheus's own parsers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.core.fleet import AttemptFinished, AttemptStarted, Fleet, FleetConfigured, ReportCircuit, Ticked
from gateway.core.model import Backend, Cluster, Outcome, Reason
from gateway.ports import ExchangeTrace, Hedged, Held, RequestRecord, Retry
from gateway.telemetry import metrics as metrics_module
from gateway.telemetry.catalogue import CATALOGUE, metrics_reference
from gateway.telemetry.exposition import Exposition, GaugeSources
from gateway.telemetry.families import SAMPLES_PER_PART
from gateway.telemetry.metrics import Metrics

Record = Callable[..., RequestRecord]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
HERE = "here@10.0.0.1:8000"


class Scrape:
    """One scrape; `value(name, **labels)` is a sample of it."""

    def __init__(self, body: str, parse: Callable[[str], Iterable[object]] = parse_text) -> None:
        self.families = list(parse(body))
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples  # type: ignore[attr-defined]
        }

    def value(self, name: str, **labels: str) -> float | None:
        renamed = {label.rstrip("_"): value for label, value in labels.items()}
        return self.samples.get((f"spillway_{name}", frozenset(renamed.items())))

    def series(self, name: str) -> int:
        return sum(1 for found, _ in self.samples if found == f"spillway_{name}")


class Watched:
    """Metrics over a fleet of one cluster with two backends."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        second = Backend("here@10.0.0.2:8000", "http://10.0.0.2:8000", 8)
        backends = (Backend(HERE, "http://10.0.0.1:8000", 4), second)
        self.fleet.apply(FleetConfigured((Cluster("here", "primary", backends),), ("primary", "spot")), 0.0)
        self.metrics = Metrics(lambda: 1_700_000_000.5)
        self.now_s = 0.0
        sources = GaugeSources(
            view=self.fleet.view,
            clock=lambda: self.now_s,
            leases_held=lambda backend_id: 3 if backend_id == HERE else 0,
            downstream_connections=lambda: 17,
            buffered_bytes=lambda: 4096,
            access_log_dropped=lambda: 5,
        )
        self.exposition = Exposition(self.metrics, sources)

    def scrape(self) -> Scrape:
        parts, content_type = self.exposition.render()
        assert content_type.startswith("text/plain; version=0.0.4")
        return Scrape(b"".join(parts).decode())


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_request_is_counted_with_its_place_and_outcome(watched: Watched, record: Record) -> None:
    watched.metrics.record(record())
    watched.metrics.record(record())
    watched.metrics.record(record(status=502, outcome=Outcome.of(Reason.RESET)))
    scrape = watched.scrape()
    place = {"route_model": "llama-*", "cluster": "here", "tier": "primary"}
    assert scrape.value("requests_total", outcome="success", code="200", **place) == 2
    assert scrape.value("requests_total", outcome="dropped", code="502", **place) == 1


def test_two_reasons_of_one_verdict_share_a_series(watched: Watched, record: Record) -> None:
    for reason in (Reason.RESET, Reason.TRUNCATED):
        watched.metrics.record(record(status=502, outcome=Outcome.of(reason)))
    scrape = watched.scrape()
    assert scrape.series("requests_total") == 1
    assert set(scrape.samples.values()) >= {2.0}


def test_a_client_that_left_before_any_answer_has_no_code(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(status=0, outcome=Outcome.of(Reason.CLIENT_LEFT)))
    place = {"route_model": "llama-*", "cluster": "here", "tier": "primary"}
    assert watched.scrape().value("requests_total", outcome="ignored", code="none", **place) == 1


def test_a_recorded_trace_stands_beside_its_bucket(watched: Watched, record: Record) -> None:
    for trace_id, is_sampled, ttft_s in (
        (1, True, 0.04),
        (2, True, 0.045),
        (3, False, 0.04),
        (4, True, 99.0),
    ):
        trace = ExchangeTrace(trace_id, 1, None, is_sampled)
        watched.metrics.record(record(trace=trace, ttft_s=ttft_s))
    watched.metrics.record(record(trace=ExchangeTrace(5, 1, None, True), ttft_s=None, duration_s=700.0))
    text = b"".join(watched.exposition.render(as_openmetrics=True)[0]).decode()
    found = {
        (sample.name, sample.labels["le"]): (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for family in parse_openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert found == {
        ("spillway_ttft_seconds_bucket", "0.05"): (f"{2:032x}", 0.045),  # the last one
        ("spillway_ttft_seconds_bucket", "+Inf"): (f"{4:032x}", 99.0),
        ("spillway_duration_seconds_bucket", "0.5"): (f"{4:032x}", 0.3),
        ("spillway_duration_seconds_bucket", "+Inf"): (f"{5:032x}", 700.0),
    }
    assert "trace_id" not in b"".join(watched.exposition.render()[0]).decode()


def test_timings_fall_into_inclusive_buckets(watched: Watched, record: Record) -> None:
    for ttft_s in (0.01, 0.0100001, 59.0, 61.0):
        watched.metrics.record(record(ttft_s=ttft_s))
    scrape = watched.scrape()
    bucket = {"cluster": "here", "tier": "primary"}
    assert scrape.value("ttft_seconds_bucket", le="0.01", **bucket) == 1
    assert scrape.value("ttft_seconds_bucket", le="0.02", **bucket) == 2
    assert scrape.value("ttft_seconds_bucket", le="60.0", **bucket) == 3
    assert scrape.value("ttft_seconds_bucket", le="+Inf", **bucket) == 4
    assert scrape.value("ttft_seconds_count", **bucket) == 4
    assert scrape.value("ttft_seconds_sum", **bucket) == pytest.approx(120.0200001)


def test_each_histogram_gets_its_own_time(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(ttft_s=0.04, duration_s=0.3, overhead_s=0.00015))
    scrape = watched.scrape()
    for name, below, above in (("ttft", 0.02, 0.05), ("duration", 0.25, 0.5), ("overhead", 0.0001, 0.0002)):
        place = {"cluster": "here", "tier": "primary"}
        assert scrape.value(f"{name}_seconds_bucket", le=repr(below), **place) == 0, name
        assert scrape.value(f"{name}_seconds_bucket", le=repr(above), **place) == 1, name


def test_an_hour_of_a_tunnel_is_no_duration_of_a_request(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(status=101, duration_s=3600.0))
    scrape = watched.scrape()
    place = {"cluster": "here", "tier": "primary"}
    assert scrape.value("tunnel_seconds_sum", **place) == 3600.0
    assert scrape.value("tunnel_seconds_count", **place) == 1
    assert scrape.value("duration_seconds_count", **place) is None


def test_a_request_without_a_first_byte_has_no_ttft(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(ttft_s=None, status=504))
    scrape = watched.scrape()
    assert scrape.series("ttft_seconds_count") == 0
    assert scrape.value("duration_seconds_count", cluster="here", tier="primary") == 1


def test_a_spill_names_both_tiers_and_the_reason(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(tier="spot", cluster="cheap", spill_reason="full"))
    watched.metrics.record(record())
    scrape = watched.scrape()
    assert scrape.value("spills_total", from_="primary", to="spot", reason="full") == 1
    assert scrape.series("spills_total") == 1


def test_a_refused_request_is_shed_not_spilled(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(status=429, error_code="no_capacity", cluster="", tier="", ttft_s=None))
    watched.metrics.record(record(status=404, error_code="model_not_found", cluster="", tier="", ttft_s=None))
    scrape = watched.scrape()
    assert scrape.value("sheds_total", reason="no_capacity") == 1
    assert scrape.series("sheds_total") == 1
    assert scrape.series("spills_total") == 0


def test_retries_name_the_cluster_that_failed(watched: Watched, record: Record) -> None:
    failed = (Retry("here", Reason.CONNECT_FAILED), Retry("there", Reason.BACKEND_FULL))
    watched.metrics.record(record(attempts=3, cluster="cheap", retries=failed))
    scrape = watched.scrape()
    assert scrape.value("retries_total", cluster="here", reason="connect_failed") == 1
    assert scrape.value("retries_total", cluster="there", reason="backend_full") == 1


def test_a_retry_that_the_budget_denied_is_counted(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(denied_retry=Retry("here", Reason.RESET)))
    scrape = watched.scrape()
    assert scrape.value("retries_denied_total", cluster="here", reason="reset") == 1
    assert scrape.series("retries_total") == 0


def test_hedges_are_counted_by_what_became_of_them(watched: Watched, record: Record) -> None:
    for cluster, outcome, times in (("here", "won", 3), ("here", "lost", 2), ("there", "failed", 1)):
        for _ in range(times):
            watched.metrics.record(record(attempts=2, hedge=Hedged(cluster, outcome)))
    scrape = watched.scrape()
    assert scrape.value("hedges_total", cluster="here", outcome="won") == 3
    assert scrape.value("hedges_total", cluster="here", outcome="lost") == 2
    assert scrape.value("hedges_total", cluster="there", outcome="failed") == 1


def test_waits_are_told_by_the_tier_that_was_wanted_and_their_end(watched: Watched, record: Record) -> None:
    for seconds, outcome in ((0.02, "served"), (0.3, "served"), (0.5, "spilled")):
        watched.metrics.record(record(held=Held("primary", seconds, outcome)))
    refused = record(held=Held("primary", 0.5, "timed_out"), error_code="queue_timeout", status=429)
    watched.metrics.record(refused)
    scrape = watched.scrape()
    served = {"tier": "primary", "outcome": "served"}
    assert scrape.value("hold_seconds_count", **served) == 2
    assert scrape.value("hold_seconds_bucket", le="0.025", **served) == 1
    assert scrape.value("hold_seconds_sum", **served) == pytest.approx(0.32)
    assert scrape.value("hold_seconds_count", tier="primary", outcome="timed_out") == 1
    assert scrape.value("sheds_total", reason="queue_timeout") == 1
    assert scrape.value("waiting") == 0


def test_a_circuit_shows_its_state_and_its_openings(watched: Watched) -> None:
    here = {"cluster": "here", "backend": HERE}
    assert watched.scrape().value("breaker_state", **here) == 0
    for _ in range(5):
        watched.fleet.apply(AttemptStarted(HERE), 1.0)
        effects = watched.fleet.apply(AttemptFinished(HERE, Outcome.of(Reason.RESET)), 1.0)
    assert any(isinstance(effect, ReportCircuit) for effect in effects)
    watched.metrics.record_opening("here", HERE, Reason.RESET)
    scrape = watched.scrape()
    assert scrape.value("breaker_state", **here) == 2
    assert scrape.value("breaker_opened_total", reason="reset", **here) == 1
    watched.fleet.apply(Ticked(), 3.0)
    assert watched.scrape().value("breaker_state", **here) == 1


def test_gauges_are_read_when_scraped(watched: Watched) -> None:
    for _ in range(3):
        watched.fleet.apply(AttemptStarted(HERE), 1.0)
    scrape = watched.scrape()
    here = {"cluster": "here", "backend": HERE}
    read = {name: scrape.value(name, **here) for name in ("in_flight", "limit", "headroom", "leases_held")}
    assert read == {"in_flight": 3, "limit": 4, "headroom": 1, "leases_held": 3}
    watched.fleet.apply(AttemptStarted(HERE), 1.0)
    assert watched.scrape().value("headroom", **here) == 0
    assert scrape.value("downstream_connections") == 17
    assert scrape.value("buffered_bytes") == 4096
    assert scrape.value("access_log_dropped_total") == 5


def test_the_process_shows_itself(watched: Watched) -> None:
    assert ("process_resident_memory_bytes", frozenset()) in watched.scrape().samples


def test_series_are_bounded_whatever_the_labels(
    watched: Watched, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 10)
    for number in range(50):
        name = f"c{number}"
        changed = {"cluster": name, "tier": f"t{number}", "spill_reason": name}
        watched.metrics.record(record(**changed, retries=(Retry(name, Reason.RESET),)))
    scrape = watched.scrape()
    for metric in ("requests_total", "spills_total", "retries_total", "duration_seconds_count"):
        assert scrape.series(metric) == 11, metric
    assert scrape.value("retries_total", cluster="other", reason="other") == 40
    counted = [value for (name, _), value in scrape.samples.items() if name == "spillway_requests_total"]
    assert sum(counted) == 50


def test_a_backend_cannot_make_series_with_odd_statuses(watched: Watched, record: Record) -> None:
    for status in (-1, 7, 600, 999, 70_000):
        watched.metrics.record(record(status=status))
    scrape = watched.scrape()
    assert scrape.series("requests_total") == 1
    assert {value for (name, _), value in scrape.samples.items() if name == "spillway_requests_total"} == {5}


def test_what_is_asked_of_the_model_is_no_label(watched: Watched, record: Record) -> None:
    for number in range(20):
        watched.metrics.record(record(model=f"client-{number}", request_id=f"id-{number}", path=f"/{number}"))
    assert watched.scrape().series("requests_total") == 1
    assert b"client-" not in b"".join(watched.exposition.render()[0])


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_the_parts_of_a_large_scrape_are_the_whole(
    watched: Watched, record: Record, as_openmetrics: bool
) -> None:
    """Rendered in parts it reads as the encoder alone would have written it."""
    for number in range(3 * SAMPLES_PER_PART + 1):
        watched.metrics.record(record(route_model=f"m{number}", cluster=f"c{number % 7}"))
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0" if as_openmetrics else "")
    parts, _ = watched.exposition.render(as_openmetrics)
    *lines, last = b"".join(parts).splitlines()
    assert (last == b"# EOF") is as_openmetrics

    def stable(shown: list[bytes]) -> list[bytes]:
        return [line for line in shown if b" process_" not in line and not line.startswith(b"process_")]

    assert stable([*lines, last]) == stable(encode(watched.exposition).splitlines())


def test_openmetrics_is_rendered_for_its_own_parser(watched: Watched, record: Record) -> None:
    watched.metrics.record(record(retries=(Retry("here", Reason.RESET),)))
    parts, content_type = watched.exposition.render(as_openmetrics=True)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    scrape = Scrape(b"".join(parts).decode(), parse_openmetrics)
    assert scrape.value("retries_total", cluster="here", reason="reset") == 1


def test_the_catalogue_is_exactly_what_is_exposed(watched: Watched, record: Record) -> None:
    failed = record(
        tier="spot", spill_reason="full", error_code="no_capacity", retries=(Retry("here", Reason.RESET),)
    )
    watched.metrics.record(failed)
    shown = {family.name: family for family in watched.scrape().families}  # type: ignore[attr-defined]
    for spec in CATALOGUE:
        family = shown.pop(spec.full_name.removesuffix("_total"))
        assert family.type == spec.kind, spec.name  # type: ignore[attr-defined]
        for sample in family.samples:  # type: ignore[attr-defined]
            assert set(sample.labels) - {"le"} == set(spec.labels), spec.name
    assert all(name.startswith("process_") for name in shown)


def test_the_reference_names_every_metric() -> None:
    reference = metrics_reference()
    for spec in CATALOGUE:
        assert f"| `{spec.full_name}` | {spec.kind} |" in reference
