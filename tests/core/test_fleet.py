"""What the picture makes of each event, and what it asks to be done."""

from __future__ import annotations

import pytest

from gateway.core.breaker import NO_GENERATION
from gateway.core.fleet import (
    DEFAULT_RETRY_AFTER_S,
    FOREVER_S,
    MAX_RETRY_AFTER_S,
    MIN_RETRY_AFTER_S,
    AttemptFinished,
    AttemptStarted,
    CloseIdleConnections,
    Drained,
    FirstByteSeen,
    Fleet,
    SetLimits,
    Ticked,
    TunnelOpened,
    Undrained,
    UnknownName,
)
from gateway.core.latency import INITIAL_S
from gateway.core.model import SUCCESS, Outcome, Reason, Shed, ShedReason
from tests.core.stories import (
    answers,
    cluster_of,
    configured,
    finishes,
    fleet_of,
    fleet_with,
    order,
    route,
    starts,
    tell,
)

TWO = {"primary": [("a", 2), ("b", 3)], "backup": [("c", 4)]}


def in_flight(fleet: Fleet) -> dict[str, int]:
    return {id_: state.in_flight for id_, state in fleet.view.backends.items()}


# --- attempts ----------------------------------------------------------------------------------------


def test_attempts_are_counted_from_start_to_finish():
    fleet = fleet_of(TWO)
    starts(fleet, "a", 2)
    starts(fleet, "b")
    assert in_flight(fleet) == {"a": 2, "b": 1, "c": 0}
    primary = fleet.view.clusters["primary"]
    assert (primary.in_flight, primary.limit, fleet.view.backends["b"].headroom) == (3, 5, 2)
    finishes(fleet, "a")
    finishes(fleet, "b")
    assert in_flight(fleet) == {"a": 1, "b": 0, "c": 0}


def test_headroom_is_never_negative():
    fleet = fleet_of(TWO)
    starts(fleet, "a", 5)
    assert fleet.view.backends["a"].headroom == 0


@pytest.mark.parametrize("reason", Reason)
def test_an_attempt_gives_its_slot_back_however_it_ended(reason):
    fleet = fleet_of(TWO)
    assert fleet.apply(AttemptStarted("a"), 0.0) == ()
    effects = fleet.apply(AttemptFinished("a", Outcome.of(reason)), 1.0)
    assert effects == (
        (SetLimits({"a": 2, "b": 3, "c": 4}, {"a": 1}),) if reason is Reason.BACKEND_FULL else ()
    )
    assert in_flight(fleet)["a"] == 0


def test_finishing_more_often_than_started_is_a_mistake_and_changes_nothing():
    fleet = fleet_of(TWO)
    with pytest.raises(AssertionError, match="more often"):
        finishes(fleet, "a")
    assert in_flight(fleet) == {"a": 0, "b": 0, "c": 0}


def test_only_a_told_first_byte_teaches_latency():
    fleet = fleet_of(TWO)
    backend = fleet.view.backends["a"]
    tell(fleet, AttemptStarted("a"), AttemptFinished("a", Outcome.of(Reason.CLIENT_ERROR)))
    assert backend.latency.value_s(0.0) == INITIAL_S
    answers(fleet, "a", ttft_s=0.3)
    assert backend.latency.value_s(0.0) == 0.3
    tell(fleet, AttemptStarted("a"), FirstByteSeen("a", 0.7))
    assert (backend.latency.value_s(0.0), backend.in_flight) == (0.7, 1), "at its first byte, not at its end"
    tell(fleet, AttemptFinished("a", SUCCESS))
    assert (backend.latency.value_s(0.0), backend.in_flight) == (0.7, 0)


def test_a_tunnel_is_judged_when_it_opens_and_stays_in_flight_until_its_end():
    fleet = fleet_of(TWO)
    state = fleet.view.backends["a"]
    tell(fleet, AttemptStarted("a", 0, 0))
    assert state.silence.waiting == 1
    tell(fleet, TunnelOpened("a", 0.2, 0))
    assert (state.in_flight, state.silence.waiting, state.latency.answered_s) == (1, 0, 0.2)
    seen = repr(state.breaker.evidence)
    tell(fleet, AttemptFinished("a", SUCCESS, generation=NO_GENERATION))
    assert state.in_flight == 0
    assert repr(state.breaker.evidence) == seen, "its end said something"
    tell(fleet, TunnelOpened("gone", 1.0, 0))


def test_events_of_a_backend_nobody_knows_change_nothing():
    fleet = fleet_of(TWO)
    tell(fleet, FirstByteSeen("gone", 1.0), AttemptFinished("gone", SUCCESS))
    assert in_flight(fleet) == {"a": 0, "b": 0, "c": 0}


# --- drains ------------------------------------------------------------------------------------------


def test_a_drain_for_a_time_ends_by_the_tick_after_it():
    fleet = fleet_of(TWO)
    tell(fleet, Drained("primary", until_s=60.0))
    tell(fleet, Ticked(), at_s=59.9)
    assert order(fleet) == ["c"]
    tell(fleet, Ticked(), at_s=60.0)
    assert sorted(order(fleet)) == ["a", "b", "c"]
    assert fleet.view.clusters["primary"].drained_until_s is None


def test_a_drain_without_end_outlasts_every_tick():
    fleet = fleet_of(TWO)
    tell(fleet, Drained("a"))
    tell(fleet, Ticked(), at_s=1e9)
    assert fleet.view.backends["a"].drained_until_s == FOREVER_S
    assert order(fleet) == ["b", "c"]


def test_a_second_drain_replaces_the_first():
    fleet = fleet_of(TWO)
    tell(fleet, Drained("a", until_s=10.0), Drained("a", until_s=100.0))
    tell(fleet, Ticked(), at_s=50.0)
    assert order(fleet) == ["b", "c"]
    tell(fleet, Drained("a", until_s=51.0))
    tell(fleet, Ticked(), at_s=51.0)
    assert sorted(order(fleet)) == ["a", "b", "c"]


def test_a_backend_is_open_only_when_neither_it_nor_its_cluster_is_drained():
    fleet = fleet_of(TWO)
    tell(fleet, Drained("primary"), Drained("a"), Undrained("primary"))
    assert order(fleet) == ["b", "c"]
    tell(fleet, Drained("primary"), Undrained("a"))
    assert order(fleet) == ["c"]
    tell(fleet, Undrained("primary"))
    assert sorted(order(fleet)) == ["a", "b", "c"]


def test_what_runs_on_a_drained_backend_finishes():
    fleet = fleet_of(TWO)
    starts(fleet, "a", 2)
    tell(fleet, Drained("a"))
    assert in_flight(fleet)["a"] == 2
    finishes(fleet, "a", 2)
    assert in_flight(fleet)["a"] == 0


def test_a_drain_closes_the_idle_connections_of_all_it_covers():
    fleet = fleet_of(TWO)
    assert fleet.apply(Drained("a"), 0.0) == (CloseIdleConnections(("a",)),)
    assert fleet.apply(Drained("primary"), 0.0) == (CloseIdleConnections(("a", "b")),)
    assert fleet.apply(Undrained("primary"), 0.0) == ()
    assert fleet.apply(Ticked(), 0.0) == ()


@pytest.mark.parametrize("event", [Drained("nobody", 9.0), Undrained("nobody")])
def test_an_unknown_name_changes_nothing(event):
    fleet = fleet_of(TWO)
    tell(fleet, Drained("a"))
    with pytest.raises(UnknownName, match="nobody"):
        fleet.apply(event, 0.0)
    assert order(fleet) == ["b", "c"]


# --- a new configuration -----------------------------------------------------------------------------


def test_limits_are_set_for_every_backend():
    fleet = Fleet()
    event = configured(cluster_of("one", ("a", 2), ("b", 3)), cluster_of("two", ("c", 4), tier="spot"))
    assert fleet.apply(event, 0.0) == (SetLimits({"a": 2, "b": 3, "c": 4}),)


def test_the_limits_told_do_not_change_with_the_fleet():
    fleet = Fleet()
    (told,) = fleet.apply(configured(cluster_of("one", ("a", 2))), 0.0)
    fleet.apply(configured(cluster_of("one", ("a", 9))), 0.0)
    assert told.limits == {"a": 2}


def test_a_removed_backend_loses_its_limit_and_its_idle_connections():
    fleet = fleet_of(TWO)
    effects = fleet.apply(configured(cluster_of("primary", ("b", 3), ("n", 1))), 0.0)
    assert effects == (SetLimits({"b": 3, "n": 1}), CloseIdleConnections(("a", "c")))


def test_a_kept_backend_keeps_what_runs_and_what_is_known_of_it():
    fleet = fleet_of(TWO)
    answers(fleet, "a", ttft_s=0.5)
    starts(fleet, "a", 2)
    tell(fleet, configured(cluster_of("primary", ("a", 9, 3.0), ("n", 1))))
    kept = fleet.view.backends["a"]
    assert (kept.in_flight, kept.limit, kept.backend.weight) == (2, 9, 3.0)
    assert kept.latency.value_s(0.0) == 0.5
    assert in_flight(fleet) == {"a": 2, "n": 0}
    finishes(fleet, "a", 2)
    assert in_flight(fleet) == {"a": 0, "n": 0}


@pytest.mark.parametrize("name", ["a", "primary"])
def test_a_drain_outlasts_a_new_configuration(name):
    fleet = fleet_of(TWO)
    tell(fleet, Drained(name, until_s=60.0))
    open_before = order(fleet)
    tell(
        fleet,
        configured(
            cluster_of("primary", ("a", 8), ("b", 8), weight=2.0),
            cluster_of("backup", ("c", 8), tier="backup"),
        ),
        at_s=1.0,
    )
    assert order(fleet) == open_before
    tell(fleet, Ticked(), at_s=59.0)
    assert order(fleet) == open_before
    tell(fleet, Ticked(), at_s=60.0)
    assert sorted(order(fleet)) == ["a", "b", "c"]


def test_a_drained_cluster_stays_drained_when_all_its_backends_are_replaced():
    fleet = fleet_of(TWO)
    tell(fleet, Drained("primary"))
    tell(fleet, configured(cluster_of("primary", ("x", 1), ("y", 1))))
    assert route(fleet) == Shed(ShedReason.NO_BACKEND)


def leaving(fleet):
    return [id_ for id_ in fleet._states if id_ not in fleet.view.backends]


def test_a_removed_backend_finishes_its_work_and_is_forgotten():
    fleet = fleet_of(TWO)
    answers(fleet, "a", ttft_s=0.5)
    starts(fleet, "a", 2)
    tell(fleet, configured(cluster_of("primary", ("b", 3))))
    assert order(fleet) == ["b"]
    finishes(fleet, "a")
    assert leaving(fleet) == ["a"], "one attempt is still under way"
    finishes(fleet, "a")
    assert not leaving(fleet)
    tell(fleet, configured(cluster_of("primary", ("a", 2))))
    back = fleet.view.backends["a"]
    assert (back.in_flight, back.latency.value_s(0.0)) == (0, INITIAL_S), "a stranger"


def test_a_backend_that_comes_back_while_its_work_still_runs_is_the_same_one():
    fleet = fleet_of(TWO)
    tell(fleet, Drained("a"))
    starts(fleet, "a", 2)
    tell(fleet, configured(cluster_of("primary", ("b", 3))))
    tell(fleet, configured(cluster_of("primary", ("b", 3))))
    tell(fleet, configured(cluster_of("primary", ("a", 1), ("b", 3))))
    assert in_flight(fleet) == {"a": 2, "b": 0}
    assert order(fleet) == ["b"], "and still drained"
    finishes(fleet, "a", 2)
    assert in_flight(fleet) == {"a": 0, "b": 0}


def test_an_attempt_that_begins_as_its_backend_leaves_is_counted_too():
    """A lease given just before the removal: the backend may come back before the attempt ends."""
    fleet = fleet_of(TWO)
    tell(fleet, configured(cluster_of("primary", ("b", 3))))
    starts(fleet, "a")
    tell(fleet, configured(cluster_of("primary", ("a", 2), ("b", 3))))
    assert in_flight(fleet) == {"a": 1, "b": 0}
    starts(fleet, "a")
    finishes(fleet, "a", 2)
    assert in_flight(fleet) == {"a": 0, "b": 0}
    assert not leaving(fleet)


def test_an_unknown_cluster_policy_is_refused_and_changes_nothing():
    fleet = fleet_of(TWO)
    with pytest.raises(KeyError):
        fleet.apply(configured(cluster_of("primary", ("n", 1)), policy="by_luck"), 0.0)
    assert sorted(order(fleet)) == ["a", "b", "c"]
    assert fleet.view.tiers == ("primary", "backup", "spot")


# --- when to come back -------------------------------------------------------------------------------


def frees_every(fleet: Fleet, backend_id: str, gap_s: float, from_s: float = 0.0) -> None:
    """Four attempts under way since `from_s` end one after the other."""
    starts(fleet, backend_id, 4, at_s=from_s)
    for number in range(4):
        finishes(fleet, backend_id, at_s=from_s + gap_s * (number + 1))


def test_before_anything_has_ended_a_second():
    fleet = fleet_of(TWO)
    assert fleet.view.retry_after_s(None) == DEFAULT_RETRY_AFTER_S
    assert fleet.view.retry_after_s("nobody knows") == DEFAULT_RETRY_AFTER_S


def test_the_shortest_gap_among_the_open_backends_of_the_model():
    fleet = fleet_with(
        cluster_of("l", ("a", 4), ("b", 4), llama=None), cluster_of("q", ("c", 4), tier="backup", qwen=None)
    )
    frees_every(fleet, "a", 4.0)
    frees_every(fleet, "b", 2.0)
    frees_every(fleet, "c", 8.0)
    assert fleet.view.retry_after_s("llama") == pytest.approx(2.0)
    assert fleet.view.retry_after_s("qwen") == pytest.approx(8.0)
    tell(fleet, Drained("b"))
    assert fleet.view.retry_after_s("llama") == pytest.approx(4.0), (
        "no slot of a drained one comes free for it"
    )
    tell(fleet, Drained("a"))
    assert fleet.view.retry_after_s("llama") == DEFAULT_RETRY_AFTER_S


@pytest.mark.parametrize(("gap_s", "told_s"), [(0.001, MIN_RETRY_AFTER_S), (500.0, MAX_RETRY_AFTER_S)])
def test_what_a_client_is_told_stays_within_bounds(gap_s, told_s):
    fleet = fleet_of({"primary": [("a", 4)]})
    frees_every(fleet, "a", gap_s)
    assert fleet.view.retry_after_s(None) == told_s


def test_a_quiet_night_is_no_gap():
    """Slots come free as fast as work ends: how long nobody asked says nothing about that."""
    fleet = fleet_of({"primary": [("a", 4)]})
    frees_every(fleet, "a", 0.5)
    frees_every(fleet, "a", 0.5, from_s=8 * 3600.0)
    assert fleet.view.retry_after_s(None) == pytest.approx(0.5)


def test_a_backend_of_one_slot_tells_how_long_its_work_takes():
    fleet = fleet_of({"primary": [("a", 1)]})
    for minute in range(10):
        starts(fleet, "a", at_s=60.0 * minute)
        finishes(fleet, "a", at_s=60.0 * minute + 3.0)
    assert fleet.view.retry_after_s(None) == pytest.approx(3.0)


# --- lines for the operator --------------------------------------------------------------------------


def test_the_picture_reads_as_occupancy():
    fleet = fleet_of(TWO)
    starts(fleet, "a", 2)
    tell(fleet, Drained("backup"), Drained("b"))
    assert repr(fleet.view.clusters["primary"]) == "<primary 2/5>"
    assert repr(fleet.view.clusters["backup"]) == "<backup 0/4, drained>"
    assert [repr(state) for state in fleet.view.backends.values()] == [
        "<a 2/2>",
        "<b 0/3, drained>",
        "<c 0/4>",
    ]
