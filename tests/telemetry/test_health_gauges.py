"""Health as gauges, from a fleet that was told."""

from __future__ import annotations

from gateway.core.fleet import Drained, Fleet
from gateway.core.health import EngineMetricsSeen, EngineReading, ProbeReported, SyntheticProbeReported
from gateway.core.health import read_agent_words as words
from gateway.core.model import Backend, Cluster, HealthRules, Outcome, Reason
from gateway.telemetry.health_gauges import health_gauges
from tests.core.stories import fleet_with, tell

RULES = HealthRules(rise=1, fall=1, stale_after_s=5.0, has_synthetic=True)


def asked_fleet() -> Fleet:
    backends = (Backend("a", "http://a", 8, 1.0, RULES), Backend("b", "http://b", 8, 1.0, RULES))
    return fleet_with(
        Cluster("here", "primary", backends),
        Cluster("plain", "spot", (Backend("c", "http://c", 8),)),
    )


def gauges(fleet: Fleet, at_s: float) -> dict[str, dict[tuple[str, ...], float]]:
    return {spec.name: values for spec, values in health_gauges(fleet.view, at_s)}


def test_nothing_is_shown_of_what_is_not_known() -> None:
    shown = gauges(asked_fleet(), 0.0)
    assert shown.pop("cluster_ready_share") == {("here",): 1.0, ("plain",): 1.0}
    assert not any(shown.values())


def test_states_and_ages() -> None:
    fleet = asked_fleet()
    tell(fleet, ProbeReported("a", True, "completed", words("25%")), at_s=1.0)
    tell(fleet, ProbeReported("b", False, "reset"), at_s=2.0)
    tell(fleet, SyntheticProbeReported("a", Outcome.of(Reason.STALL_TIMEOUT)), at_s=3.0)
    shown = gauges(fleet, 4.0)
    assert shown["health_up"] == {
        ("here", "a", "health"): 1.0,
        ("here", "a", "synthetic"): 0.0,
        ("here", "b", "health"): 0.0,
    }
    assert shown["health_age_seconds"] == {
        ("here", "a", "health"): 3.0,
        ("here", "a", "synthetic"): 1.0,
        ("here", "b", "health"): 2.0,
    }
    assert shown["health_weight_share"] == {("here", "a"): 0.25, ("here", "b"): 1.0}
    assert shown["cluster_ready_share"] == {("here",): 0.0, ("plain",): 1.0}


def test_a_drain_by_its_own_word_is_no_weight_and_one_by_hand_is_no_capacity() -> None:
    fleet = asked_fleet()
    tell(fleet, ProbeReported("a", True, "completed", words("drain")), Drained("plain"))
    shown = gauges(fleet, 0.0)
    assert shown["health_weight_share"] == {("here", "a"): 0.0}
    assert shown["cluster_ready_share"] == {("here",): 0.5, ("plain",): 0.0}


def test_a_stale_reading_shows_only_its_age() -> None:
    fleet = asked_fleet()
    tell(fleet, EngineMetricsSeen("a", EngineReading(3, 2, None, 10.0)), at_s=10.0)
    tell(fleet, EngineMetricsSeen("b", EngineReading(1, 0, 0.5, 13.0)), at_s=13.0)
    shown = gauges(fleet, 15.0)
    assert shown["engine_running"] == {("here", "a"): 3, ("here", "b"): 1}
    assert shown["engine_waiting"] == {("here", "a"): 2, ("here", "b"): 0}
    assert shown["engine_kv_cache_used_share"] == {("here", "b"): 0.5}
    shown = gauges(fleet, 16.0)
    assert shown["engine_running"] == {("here", "b"): 1}
    assert shown["engine_reading_age_seconds"] == {("here", "a"): 6.0, ("here", "b"): 3.0}
