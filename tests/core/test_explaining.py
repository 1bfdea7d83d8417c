"""What explain says is what plan_route does, and everybody who is left out is left out for a true reason."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from gateway.core.breaker import Circuit
from gateway.core.constraints import match_model
from gateway.core.explaining import Absence, Explanation, even_draws, explain, explain_by_chance, passed_over
from gateway.core.fleet import Drained, Fleet, FleetConfigured, FleetView, Ticked
from gateway.core.health import ProbeReported
from gateway.core.model import Backend, Cluster, HealthRules, Plan, Reason, RequestFacts, Shed, ShedReason
from gateway.core.routing import plan_route
from tests.core.stories import TIERS, cluster_of, configured, drops, fleet_of, fleet_with, plan, starts, tell
from tests.core.test_properties import MODELS, Gateway

TRUE: dict[Absence, object] = {
    Absence.MODEL: lambda s, c, model: match_model(c.cluster.models, model) is None,
    Absence.DRAINED: lambda s, c, model: s.is_drained or c.drained_until_s is not None,
    Absence.UNHEALTHY: lambda s, c, model: s.health.is_down,
    Absence.EJECTED: lambda s, c, model: s.circuit is not Circuit.CLOSED,
}


def judge(found: Explanation, view: FleetView, now_s: float) -> None:
    """Every backend once, the plan as it is and in its order, the others with a reason that holds."""
    decision = plan_route(found.facts, view, now_s)
    assert found.decision == decision
    candidates = decision.candidates if isinstance(decision, Plan) else ()
    assert tuple(standing.candidate for standing in found.standings) == candidates
    assert [standing.place for standing in found.standings] == list(range(1, len(candidates) + 1))
    planned = [candidate.backend.id for candidate in candidates]
    assert sorted(planned + [a.backend_id for a in found.absents if a.backend_id]) == sorted(view.backends)
    for absent in found.absents:
        state, cluster = view.backends[absent.backend_id], view.clusters[absent.cluster]
        assert TRUE[absent.reason](state, cluster, found.facts.model), absent
        assert absent.words
    roomy = [s for s in found.standings if s.has_room]
    assert found.taken == (roomy[0] if roomy else None)


class Explained(Gateway):
    """The whole machine of test_properties.py, asked in every state that it comes to."""

    @rule(model=st.sampled_from((*MODELS, "mistral")), draw=st.integers(0, 2**64 - 1))
    def ask(self, model, draw) -> None:
        view = self.fleet.view
        found = explain(RequestFacts(model, draw), view, self.now_s)
        judge(found, view, self.now_s)
        by_chance = explain_by_chance(RequestFacts(model, draw), view, self.now_s)
        judge(by_chance, view, self.now_s)
        if by_chance.taken is not None:
            assert sum(s.chance for s in by_chance.standings) == pytest.approx(1.0)
            assert by_chance.taken.chance == max(s.chance for s in by_chance.standings) > 0
        assert by_chance.refusal == found.refusal, "the draw decides whether it is refused"


TestExplained = Explained.TestCase
TestExplained.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


def ask(fleet: Fleet, model: str | None = None, at_s: float = 0.0) -> Explanation:
    return explain_by_chance(RequestFacts(model, 0), fleet.view, at_s)


def chances(fleet: Fleet, model: str | None = None) -> dict[str, float]:
    return {s.candidate.backend.id: s.chance for s in ask(fleet, model).standings}


def reasons(found: Explanation) -> dict[str, tuple[Absence, str]]:
    return {absent.backend_id: (absent.reason, absent.words) for absent in found.absents}


def test_chances_follow_the_weights() -> None:
    fleet = fleet_with(
        cluster_of("big", ("a", 4), weight=3.0),
        cluster_of("small", ("b", 4)),
        cluster_of("last", ("c", 4), tier="spot"),
    )
    assert chances(fleet) == pytest.approx({"a": 0.75, "b": 0.25, "c": 0.0}, abs=0.01)


def test_chances_follow_the_load_of_the_backends() -> None:
    fleet = fleet_of({"primary": [("a", 4), ("b", 4), ("c", 4)]})
    assert chances(fleet) == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=0.03)
    starts(fleet, "a", 2)
    assert chances(fleet) == pytest.approx({"a": 0.0, "b": 0.5, "c": 0.5}, abs=0.03)


def test_who_is_full_keeps_a_place_and_gets_no_request() -> None:
    fleet = fleet_of({"primary": [("a", 1)], "backup": [("b", 1)]})
    starts(fleet, "a")
    found = ask(fleet)
    assert found.taken is not None and found.taken.candidate.backend.id == "b"
    assert [(s.candidate.backend.id, s.in_flight, s.has_room) for s in found.standings] == [
        ("a", 1, False),
        ("b", 0, True),
    ]
    starts(fleet, "b")
    assert ask(fleet).refusal is ShedReason.NO_CAPACITY


def test_every_absence_says_why() -> None:
    probed = Backend("sick", "http://x", 4, health=HealthRules(rise=1, fall=1))
    fleet = fleet_with(
        cluster_of("other", ("o", 4), qwen=None),
        cluster_of("off", ("d", 4), tier="backup"),
        Cluster("mixed", "primary", (probed, Backend("bad", "http://y", 4), Backend("good", "http://z", 8))),
        Cluster("bare", "spot", ()),
    )
    tell(fleet, Drained("off", 90.0), ProbeReported("sick", False, "status_503"))
    drops(fleet, "bad", 5, Reason.CONNECT_FAILED)
    found = ask(fleet, "llama")
    assert [s.candidate.backend.id for s in found.standings] == ["good"]
    assert reasons(found) == {
        "o": (Absence.MODEL, "serves only qwen"),
        "d": (Absence.DRAINED, "its cluster is drained for 90 s more"),
        "sick": (Absence.UNHEALTHY, "it fails its probes: 1 in a row, the last by status_503"),
        "bad": (Absence.EJECTED, "its circuit is open by consecutive: connect_failed; half-open in 1.0 s"),
        "": (Absence.EMPTY, "has no backend at the moment"),
    }


def test_a_model_that_nobody_serves_and_one_that_nobody_can() -> None:
    fleet = fleet_with(cluster_of("a", ("a", 4), llama=None))
    assert ask(fleet, "qwen").refusal is ShedReason.MODEL_NOT_FOUND
    tell(fleet, Drained("a"))
    assert ask(fleet, "llama").refusal is ShedReason.NO_BACKEND
    assert reasons(ask(fleet, "llama"))["a"] == (Absence.DRAINED, "its cluster is drained until undrained")


def test_what_is_left_of_a_cluster_that_is_down_stands_behind() -> None:
    fleet = fleet_of({"primary": [("a", 4), ("b", 4), ("c", 4)], "backup": [("d", 4)]})
    drops(fleet, "a", 5)
    drops(fleet, "b", 5)
    assert [(s.candidate.backend.id, s.is_behind) for s in ask(fleet).standings] == [
        ("d", False),
        ("c", True),
    ]


def test_draws_are_even_in_each_part() -> None:
    draws = list(even_draws(200))
    tenths = [(draw >> 40) * 10 >> 24 for draw in draws]
    assert all(18 <= tenths.count(tenth) <= 22 for tenth in range(10))
    for count in (2, 3, 7):
        for shift in (0, 20):
            seen = [(draw >> shift & 0xFFFFF) % count for draw in draws]
            assert all(abs(seen.count(one) - 200 / count) <= 3 for one in range(count))


# --- passed_over -------------------------------------------------------------------------------------------


def over(fleet: Fleet, taken_id: str | None, model: str | None = None) -> str:
    found = plan_route(RequestFacts(model, 0), fleet.view, 0.0)
    candidates = found.candidates if isinstance(found, Plan) else ()
    taken = next((c for c in candidates if c.backend.id == taken_id), None)
    return fleet.view.passed_over(RequestFacts(model, 0), taken)


def test_the_tiers_above_say_why_they_did_not_serve() -> None:
    fleet = fleet_of(
        {"primary": [("a", 1), ("b", 1), ("c", 1), ("d", 1)], "backup": [("e", 1)], "spot": [("f", 1)]}
    )
    drops(fleet, "a", 5)
    tell(fleet, Drained("backup"))
    assert over(fleet, "f") == "primary: 3 full, 1 ejected; backup: 1 drained"
    assert over(fleet, "b") == ""


def test_a_refusal_says_it_of_all_tiers_and_of_no_other_model() -> None:
    fleet = fleet_with(
        cluster_of("x", ("a", 1), llama=None), cluster_of("y", ("b", 1), tier="spot", qwen=None)
    )
    assert over(fleet, None, "llama") == "primary: 1 full"
    tell(fleet, Drained("a"))
    assert isinstance(plan_route(RequestFacts("llama", 0), fleet.view, 0.0), Shed)
    assert over(fleet, None, "llama") == "primary: 1 drained", "remembered from before the drain"
    assert over(fleet, None, "mistral") == ""


def test_a_cluster_that_is_down_is_passed_over_until_all_others_are_full() -> None:
    fleet = fleet_of({"primary": [("a", 4), ("b", 4), ("c", 4)], "backup": [("d", 4)]})
    drops(fleet, "a", 5)
    drops(fleet, "b", 5)
    assert over(fleet, "d") == "primary: 2 ejected, 1 down"
    assert over(fleet, None) == "primary: 2 ejected, 1 full; backup: 1 full"
    assert (
        passed_over(fleet.view, RequestFacts(None, 0), plan(fleet).candidates[0])
        == "primary: 2 ejected, 1 down"
    )


def test_a_probe_below_a_cluster_that_is_down_found_it_down_not_full() -> None:
    fleet = fleet_of({"primary": [("a", 4), ("b", 4), ("c", 4)], "backup": [("d", 4)]})
    for backend_id in ("a", "b", "d"):
        drops(fleet, backend_id, 5)
    tell(fleet, Ticked(), at_s=1.5)
    probe = next(c for c in plan(fleet, at_s=1.5).candidates if c.backend.id == "d")
    assert probe.is_probe and fleet.view.clusters["backup"].is_down
    assert fleet.view.passed_over(RequestFacts(None, 0), probe) == "primary: 2 ejected, 1 down"


def test_a_cluster_without_backends_is_named_too() -> None:
    fleet = fleet_with(Cluster("bare", "primary", ()), cluster_of("b", ("b", 1), tier="backup"))
    assert over(fleet, "b") == "primary: 1 empty"


def test_remembering_is_forgotten_with_time_and_bounded() -> None:
    fleet = Fleet()
    tell(fleet, FleetConfigured((cluster_of("x", ("a", 1)),), TIERS), Drained("a", 5.0))
    assert over(fleet, None) == "primary: 1 drained"
    tell(fleet, Ticked(), at_s=6.0)
    assert over(fleet, None) == "primary: 1 full"
    tell(fleet, configured(cluster_of("x", ("a", 1), ("b", 1))))
    assert over(fleet, None) == "primary: 2 full"
    for number in range(3000):
        fleet.view.passed_over(RequestFacts(f"m{number}", 0), None)
    assert len(fleet.view._passed_over) <= 1024
