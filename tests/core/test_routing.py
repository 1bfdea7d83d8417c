"""Where a request should go: tiers, drains, models and their names, and what is left after a failure."""

from __future__ import annotations

from random import Random

import pytest

from gateway.core.fleet import MAX_REMEMBERED_MODELS, Drained, Undrained
from gateway.core.model import PlanReason, Shed, ShedReason
from tests.core.stories import (
    backends_of,
    cluster_of,
    configured,
    fleet_of,
    fleet_with,
    order,
    plan,
    route,
    starts,
    tell,
    why,
)

THREE = {"primary": [("a", 1)], "backup": [("b", 1)], "spot": [("c", 1)]}
WIDE = {
    "primary": [("a1", 2), ("a2", 2), ("a3", 2)],
    "backup": [("b1", 2)],
    "spot": [("c1", 2), ("c2", 2)],
}


def test_tiers_come_in_the_configured_order_and_not_in_that_of_the_clusters():
    fleet = fleet_with(
        cluster_of("last", ("c", 1), tier="spot"),
        cluster_of("first", ("a", 1), tier="primary"),
        cluster_of("middle", ("b", 1), tier="backup"),
    )
    assert order(fleet) == ["a", "b", "c"]
    assert plan(fleet).preferred_tier == "primary"
    assert [(c.cluster, c.tier) for c in plan(fleet).candidates] == [
        ("first", "primary"),
        ("middle", "backup"),
        ("last", "spot"),
    ]


def test_a_plan_names_every_open_backend_exactly_once():
    fleet = fleet_of(WIDE)
    starts(fleet, "a1", 2)
    starts(fleet, "c2", 2)
    draws = Random(1)
    for _ in range(200):
        ids = order(fleet, draw=draws.getrandbits(64))
        assert sorted(ids) == ["a1", "a2", "a3", "b1", "c1", "c2"]
        assert [id_[0] for id_ in ids] == ["a", "a", "a", "b", "c", "c"], "tiers are never mixed"


def test_two_clusters_of_a_tier_are_both_named_before_the_next_tier():
    fleet = fleet_with(
        cluster_of("x", ("x1", 1), ("x2", 1)),
        cluster_of("y", ("y1", 1)),
        cluster_of("z", ("z1", 1), tier="backup"),
    )
    draws = Random(2)
    for _ in range(50):
        ids = order(fleet, draw=draws.getrandbits(64))
        assert sorted(ids) == ["x1", "x2", "y1", "z1"]
        assert ids[-1] == "z1"
        assert ids[:3] in (["x1", "x2", "y1"], ["x2", "x1", "y1"], ["y1", "x1", "x2"], ["y1", "x2", "x1"])


def test_full_tiers_keep_their_place_and_lower_ones_say_full():
    fleet = fleet_of(WIDE)
    for id_ in ("a1", "a2", "a3"):
        starts(fleet, id_, 2)
    reasons = why(fleet)
    assert [id_[0] for id_, _ in reasons] == ["a", "a", "a", "b", "c", "c"]
    assert {reason for id_, reason in reasons if id_[0] == "a"} == {"first_choice"}
    assert {reason for id_, reason in reasons if id_[0] != "a"} == {"full"}


@pytest.mark.parametrize("name", ["primary", "a"])
def test_a_drained_tier_is_skipped_and_the_next_says_so(name):
    fleet = fleet_of(THREE)
    tell(fleet, Drained(name))
    assert why(fleet) == [("b", "drained"), ("c", "full")]
    assert plan(fleet).preferred_tier == "primary", "where it would best run does not change by a drain"
    tell(fleet, Undrained(name))
    assert why(fleet) == [("a", "first_choice"), ("b", "full"), ("c", "full")]


def test_a_drained_tier_in_the_middle_is_left_out():
    fleet = fleet_of(THREE)
    tell(fleet, Drained("backup"))
    assert why(fleet) == [("a", "first_choice"), ("c", "full")]


def test_a_tier_with_one_backend_drained_still_comes_first():
    fleet = fleet_of(WIDE)
    tell(fleet, Drained("a2"), Drained("c1"))
    assert why(fleet)[:2] in (
        [("a1", "first_choice"), ("a3", "first_choice")],
        [("a3", "first_choice"), ("a1", "first_choice")],
    )
    assert why(fleet)[2:] == [("b1", "full"), ("c2", "full")]


def test_all_drained_is_no_backend():
    fleet = fleet_of(THREE)
    tell(fleet, Drained("primary"), Drained("b"), Drained("spot"))
    assert route(fleet) == Shed(ShedReason.NO_BACKEND)
    assert not fleet.view.has_open_backend
    tell(fleet, Undrained("b"))
    assert why(fleet) == [("b", "drained")]
    assert fleet.view.has_open_backend


def test_an_unknown_model_is_not_found_even_when_all_is_drained():
    fleet = fleet_with(cluster_of("here", ("a", 1), llama=None))
    assert route(fleet, "gpt") == Shed(ShedReason.MODEL_NOT_FOUND)
    assert route(fleet, None) == Shed(ShedReason.MODEL_NOT_FOUND)
    tell(fleet, Drained("here"))
    assert route(fleet, "gpt") == Shed(ShedReason.MODEL_NOT_FOUND)
    assert route(fleet, "llama") == Shed(ShedReason.NO_BACKEND)


def test_a_model_whose_clusters_have_no_backend_at_the_moment_is_no_backend():
    fleet = fleet_with(cluster_of("here", llama=None))
    assert route(fleet, "llama") == Shed(ShedReason.NO_BACKEND)
    assert route(fleet, "gpt") == Shed(ShedReason.MODEL_NOT_FOUND)
    tell(fleet, configured(cluster_of("here", ("a", 1), llama=None)))
    assert why(fleet, "llama") == [("a", "first_choice")]


def test_no_cluster_at_all_knows_no_model():
    assert route(fleet_with(), "llama") == Shed(ShedReason.MODEL_NOT_FOUND)


def test_a_cluster_without_backends_prefers_nothing():
    fleet = fleet_with(cluster_of("empty"), cluster_of("there", ("b", 1), tier="backup"))
    assert why(fleet) == [("b", "first_choice")]
    assert plan(fleet).preferred_tier == "backup"


def test_only_clusters_that_serve_the_model_are_planned():
    fleet = fleet_with(
        cluster_of("l", ("a", 1), llama=None),
        cluster_of("q", ("b", 1), tier="backup", qwen=None),
        cluster_of("any", ("c", 1), tier="spot"),
    )
    assert order(fleet, "llama") == ["a", "c"]
    assert why(fleet, "qwen") == [("b", "first_choice"), ("c", "full")]
    assert plan(fleet, "qwen").preferred_tier == "backup"
    assert order(fleet, "gpt") == ["c"]
    assert order(fleet, None) == ["c"]


def test_a_renamed_model_carries_its_upstream_name_where_it_has_one():
    fleet = fleet_with(
        cluster_of("own", ("a", 1), llama=None),
        cluster_of("theirs", ("b", 1), tier="backup", llama="meta/llama-3"),
        cluster_of("any", ("c", 1), tier="spot"),
    )
    assert [c.upstream_model for c in plan(fleet, "llama").candidates] == [None, "meta/llama-3", None]


def test_an_exact_model_name_wins_over_a_pattern():
    models = {"llama-*": "by-pattern", "llama-3": "by-name"}
    fleet = fleet_with(cluster_of("here", ("a", 1), **models))
    exact, other = plan(fleet, "llama-3"), plan(fleet, "llama-4")
    assert (exact.candidates[0].upstream_model, exact.route_model) == ("by-name", "llama-3")
    assert (other.candidates[0].upstream_model, other.route_model) == ("by-pattern", "llama-*")


def test_the_route_model_is_a_configured_word_or_other():
    fleet = fleet_with(
        cluster_of("any", ("a", 1)), cluster_of("some", ("b", 1), tier="backup", **{"qwen-*": None})
    )
    assert plan(fleet, "qwen-7b").route_model == "qwen-*"
    assert plan(fleet, "made-up-by-a-client").route_model == "other"
    assert plan(fleet, None).route_model == "other"


def test_what_clients_ask_for_is_not_remembered_without_bound():
    fleet = fleet_of(THREE)
    for number in range(3 * MAX_REMEMBERED_MODELS):
        assert order(fleet, f"m{number}") == ["a", "b", "c"]
        assert len(fleet.view._serving) <= MAX_REMEMBERED_MODELS
    named_only = fleet_with(cluster_of("here", ("a", 1), llama=None))
    for number in range(100):
        route(named_only, f"m{number}")
    assert not named_only.view._serving, "a refused name is not remembered at all"


def test_a_plan_follows_a_new_configuration_at_once():
    fleet = fleet_of(THREE)
    assert order(fleet) == ["a", "b", "c"]
    tell(fleet, configured(cluster_of("primary", ("a", 7)), cluster_of("backup", ("n", 1), tier="backup")))
    assert order(fleet) == ["a", "n"]
    assert plan(fleet).candidates[0].backend == backends_of(("a", 7))[0]


def test_the_rest_of_a_plan_after_a_failure():
    whole = plan(fleet_of(THREE))
    a, b, c = whole.candidates
    rest = whole.after([a])
    assert [(x.backend.id, x.reason) for x in rest.candidates] == [
        ("b", PlanReason.FAILED),
        ("c", PlanReason.FAILED),
    ]
    assert (rest.preferred_tier, rest.route_model) == ("primary", "other")
    assert [x.backend.id for x in whole.after([b]).candidates] == ["a", "c"], (
        "a higher one may have room again"
    )
    assert whole.after([a, b, c]) is None
    assert [x.backend.id for x in whole.candidates] == ["a", "b", "c"], "the plan itself is a value"
    assert [x.backend.id for x in whole.after([a, c]).candidates] == ["b"]
