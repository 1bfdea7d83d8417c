"""What /api/v1/fleet says of a backend's health: the state, the reason, and the age of each number."""

from __future__ import annotations

from gateway.admin.fleet_page import fleet_page
from gateway.core.fleet import Fleet
from gateway.core.health import EngineMetricsSeen, EngineReading, ProbeReported, SyntheticProbeReported
from gateway.core.health import read_agent_words as words
from gateway.core.model import Backend, Cluster, HealthRules, Outcome, Reason
from tests.core.stories import fleet_with, starts, tell

RULES = HealthRules(rise=1, fall=2, stale_after_s=5.0, has_synthetic=True)


def asked_fleet() -> Fleet:
    backends = tuple(Backend(id_, f"http://{id_}", 8, 1.0, RULES) for id_ in ("a", "b"))
    return fleet_with(Cluster("here", "primary", backends))


def shown(fleet: Fleet, at_s: float):
    (cluster,) = fleet_page(fleet.view, at_s)["tiers"][0]["clusters"]  # type: ignore[index]
    return cluster["capacity"], cluster["backends"][0]["health"]


def test_before_anything_is_known() -> None:
    capacity, health = shown(asked_fleet(), 0.0)
    assert capacity == {"ready": 2, "expected": 2, "share": 1.0}
    assert health == {"open": True, "probe": None, "synthetic": None, "advice": None, "engine": None}


def test_each_number_has_its_age() -> None:
    fleet = asked_fleet()
    starts(fleet, "a")
    tell(fleet, ProbeReported("a", True, "completed", words("50% maxconn:4")), at_s=10.0)
    tell(fleet, ProbeReported("a", False, "status_503"), at_s=11.0)
    tell(fleet, ProbeReported("a", False, "reset"), at_s=12.0)
    tell(fleet, SyntheticProbeReported("a", Outcome.of(Reason.COMPLETED)), at_s=12.5)
    tell(fleet, EngineMetricsSeen("a", EngineReading(5, 2, 0.25, 9.0)), at_s=9.1)
    capacity, health = shown(fleet, 14.0)
    assert capacity == {"ready": 1, "expected": 2, "share": 0.5}
    assert health == {
        "open": False,
        "probe": {
            "state": "down",
            "passed": False,
            "reason": "reset",
            "run": 2,
            "age_s": 2.0,
            "state_age_s": 2.0,
        },
        "synthetic": {
            "state": "up",
            "passed": True,
            "reason": "completed",
            "run": 1,
            "age_s": 1.5,
            "state_age_s": 1.5,
        },
        "advice": {"drained": False, "weight_share": 0.5, "max_in_flight": 4, "age_s": 4.0},
        "engine": {
            "running": 5,
            "waiting": 2,
            "kv_cache_used_share": 0.25,
            "others": 6,
            "age_s": 5.0,
            "stale": False,
        },
    }
    _, health = shown(fleet, 14.1)
    assert (health["engine"]["others"], health["engine"]["stale"]) == (0, True)
