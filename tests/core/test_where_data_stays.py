"""Requests that are kept to some residencies: a hard filter, whoever else is full, drained or ejected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.constraints import narrowed, residency_in
from gateway.core.explaining import Absence, explain
from gateway.core.fleet import Drained, Fleet
from gateway.core.model import Cluster, Plan, RequestFacts, Shed, ShedReason
from gateway.core.retries import plan_again
from gateway.core.routing import plan_route
from tests.core.stories import cluster_of, configured, drops, fleet_with, tell

EU, US = frozenset({"eu"}), frozenset({"us"})
NOWHERE: frozenset[str] = frozenset()


def at(cluster: Cluster, *labels: str) -> Cluster:
    return replace(cluster, residency=frozenset(labels))


FLEET = (
    at(cluster_of("here", ("us1", 1)), "us"),
    at(cluster_of("there", ("eu1", 1), ("eu2", 1), tier="backup"), "eu", "ch"),
    cluster_of("anywhere", ("x", 1), tier="spot"),
)


def served(fleet: Fleet, residency: frozenset[str] | None, model: str | None = None) -> object:
    """Ids in a plan, in order of the names; else why there is none."""
    found = plan_route(RequestFacts(model, 0, residency=residency), fleet.view, 0.0)
    return found.reason if isinstance(found, Shed) else sorted(c.backend.id for c in found.candidates)


def test_only_clusters_with_one_of_the_labels_are_in_the_plan() -> None:
    fleet = fleet_with(*FLEET)
    assert served(fleet, None) == ["eu1", "eu2", "us1", "x"]
    assert served(fleet, EU) == ["eu1", "eu2"]
    assert served(fleet, EU | US) == ["eu1", "eu2", "us1"]
    assert served(fleet, frozenset({"ch"})) == ["eu1", "eu2"]
    assert served(fleet, NOWHERE) is ShedReason.RESIDENCY_UNAVAILABLE


def test_a_model_that_is_nowhere_is_not_found_and_one_that_is_elsewhere_is_unavailable() -> None:
    fleet = fleet_with(
        at(cluster_of("here", ("a", 1), llama=None), "us"), at(cluster_of("e", ("b", 1), q=None), "eu")
    )
    assert served(fleet, EU, "llama") is ShedReason.RESIDENCY_UNAVAILABLE
    assert served(fleet, EU, "mistral") is ShedReason.MODEL_NOT_FOUND
    assert served(fleet, US, "llama") == ["a"]


def test_no_drain_no_panic_and_no_second_attempt_leads_elsewhere() -> None:
    fleet = fleet_with(*FLEET)
    facts = RequestFacts(None, 0, residency=EU)
    plan = plan_route(facts, fleet.view, 0.0)
    assert isinstance(plan, Plan)
    again = plan_again(facts, fleet.view, plan.candidates[:1], 0.0, 60.0)
    assert again is not None and [c.cluster for c in again.candidates] == ["there"]
    assert plan_again(facts, fleet.view, plan.candidates, 0.0, 60.0) is None
    for backend_id in ("eu1", "eu2"):
        drops(fleet, backend_id, 5)
    assert served(fleet, EU) == ["eu1", "eu2"], "in panic, and only there"
    tell(fleet, Drained("there"))
    assert served(fleet, EU) is ShedReason.NO_BACKEND


def test_where_a_cluster_is_may_change() -> None:
    fleet = fleet_with(*FLEET)
    assert served(fleet, US) == ["us1"]
    tell(fleet, configured(at(FLEET[0], "eu"), *FLEET[1:]))
    assert served(fleet, US) is ShedReason.RESIDENCY_UNAVAILABLE
    assert served(fleet, EU) == ["eu1", "eu2", "us1"]
    assert fleet.view.residencies == {"eu", "ch"}


def test_it_is_explained() -> None:
    fleet = fleet_with(*FLEET)
    found = explain(RequestFacts(None, 0, residency=EU), fleet.view, 0.0)
    reasons = {absent.backend_id: (absent.reason, absent.words) for absent in found.absents}
    assert reasons == {
        "us1": (Absence.RESIDENCY, "is in us"),
        "x": (Absence.RESIDENCY, "is in no residency"),
    }
    facts = RequestFacts(None, 0, residency=US | EU)
    taken = next(c for c in plan_route(facts, fleet.view, 0.0).candidates if c.cluster == "there")
    assert fleet.view.passed_over(facts, taken) == "primary: 1 full"
    assert fleet.view.passed_over(facts._replace(residency=EU), taken) == ""


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [
        (None, None, None),
        (None, EU, EU),
        (EU, None, EU),
        (EU | US, EU, EU),
        (EU, EU | US, EU),
        (EU, US, NOWHERE),
    ],
)
def test_a_wish_narrows_and_never_widens(own, wanted, expected) -> None:
    assert narrowed(own, wanted) == expected


@pytest.mark.parametrize(
    ("text", "labels"), [("eu", {"eu"}), (" EU , ch,", {"eu", "ch"}), ("", set()), (" , ", set())]
)
def test_labels_of_the_header(text, labels) -> None:
    assert residency_in(text) == labels
