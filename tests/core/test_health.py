"""Probes, agent words and engine metrics, as stories about a fleet with time as an argument."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.fleet import AttemptFinished, Drained, Fleet, SetLimits
from gateway.core.health import (
    AGENT_DOWN,
    NO_ADVICE,
    TRANSITIONS,
    Advice,
    BackendHealth,
    Capacity,
    EngineMetricsSeen,
    EngineReading,
    ProbeReported,
    ProbeState,
    Run,
    SyntheticProbeReported,
    read_agent_words,
)
from gateway.core.model import Backend, Cluster, HealthRules, Outcome, Reason, Shed, ShedReason
from tests.core.stories import answers, configured, fleet_with, order, plan, route, starts, tell, why

RULES = HealthRules(rise=2, fall=3, stale_after_s=10.0, has_synthetic=True)


def probed(name: str, *members: tuple[str, int], rules: HealthRules | None = RULES, tier: str = "primary"):
    backends = tuple(Backend(id_, f"http://{id_}", limit, 1.0, rules) for id_, limit in members)
    return Cluster(name, tier, backends)


def two_tiers(rules: HealthRules | None = RULES) -> Fleet:
    return fleet_with(probed("here", ("a", 4), rules=rules), probed("there", ("b", 4), tier="backup"))


def passes(fleet: Fleet, backend_id: str, times: int = 1, words: str = "", at_s: float = 0.0) -> None:
    tell(fleet, *[ProbeReported(backend_id, True, "completed", read_agent_words(words))] * times, at_s=at_s)


def fails(fleet: Fleet, backend_id: str, times: int = 1, at_s: float = 0.0) -> None:
    tell(fleet, *[ProbeReported(backend_id, False, "status_503")] * times, at_s=at_s)


def completes(fleet: Fleet, backend_id: str, reason: Reason, times: int = 1, at_s: float = 0.0) -> None:
    tell(fleet, *[SyntheticProbeReported(backend_id, Outcome.of(reason))] * times, at_s=at_s)


def reads(
    fleet: Fleet,
    backend_id: str,
    running: int,
    waiting: int = 0,
    at_s: float = 0.0,
    told_s: float | None = None,
) -> None:
    reading = EngineReading(running, waiting, 0.5, at_s)
    tell(fleet, EngineMetricsSeen(backend_id, reading), at_s=at_s if told_s is None else told_s)


# --- rise and fall -----------------------------------------------------------------------------------


def test_the_table_is_complete_and_a_run_decides_alone() -> None:
    assert set(TRANSITIONS) == set(product(ProbeState, Run))
    assert {TRANSITIONS[state, Run.ROSE] for state in ProbeState} == {ProbeState.UP}
    assert {TRANSITIONS[state, Run.FELL] for state in ProbeState} == {ProbeState.DOWN}


def test_a_backend_nobody_has_probed_yet_gets_work() -> None:
    fleet = two_tiers()
    assert order(fleet) == ["a", "b"]
    fails(fleet, "a", times=2)
    assert order(fleet) == ["a", "b"], "two failures are not yet three"


def test_fall_failures_in_a_row_take_it_out_and_rise_passes_bring_it_back() -> None:
    fleet = two_tiers()
    fails(fleet, "a", times=2)
    passes(fleet, "a")
    fails(fleet, "a", times=2)
    assert order(fleet) == ["a", "b"], "a pass between them begins the count anew"
    fails(fleet, "a")
    assert why(fleet) == [("b", "unhealthy")]
    passes(fleet, "a")
    assert order(fleet) == ["b"]
    fails(fleet, "a")
    passes(fleet, "a")
    assert order(fleet) == ["b"]
    passes(fleet, "a")
    assert why(fleet) == [("a", "first_choice"), ("b", "full")]


def test_what_runs_on_an_unhealthy_backend_may_finish() -> None:
    fleet = two_tiers()
    starts(fleet, "a", times=2)
    fails(fleet, "a", times=3)
    tell(fleet, AttemptFinished("a", Outcome.of(Reason.COMPLETED)))
    assert fleet.view.backends["a"].in_flight == 1


def test_when_all_are_down_the_last_tier_is_tried_all_the_same() -> None:
    """A health path that is wrong everywhere must not end the service; the breaker sees for itself."""
    fleet = two_tiers()
    for backend_id in ("a", "b"):
        fails(fleet, backend_id, times=3)
    assert why(fleet) == [("b", "panic")]
    assert not fleet.view.has_open_backend


def test_a_drain_by_hand_is_called_a_drain_though_probes_fail_too() -> None:
    fleet = two_tiers()
    tell(fleet, Drained("a"))
    fails(fleet, "a", times=3)
    assert why(fleet) == [("b", "drained")]
    fleet = two_tiers()
    tell(fleet, Drained("here"))
    fails(fleet, "a", times=3)
    assert why(fleet) == [("b", "drained")]


def test_a_backend_without_rules_is_never_taken_out() -> None:
    fleet = two_tiers(rules=None)
    fails(fleet, "a", times=9)
    completes(fleet, "a", Reason.RESET, times=9)
    passes(fleet, "a", words="drain maxconn:1")
    reads(fleet, "a", running=9)
    state = fleet.view.backends["a"]
    assert (state.limit, state.health.is_open, state.health.reading) == (4, True, None)


def test_the_watch_tells_since_when_and_why() -> None:
    fleet = two_tiers()
    fails(fleet, "a", times=3, at_s=5.0)
    fails(fleet, "a", at_s=9.0)
    watch = fleet.view.backends["a"].health.probe
    assert (watch.state, watch.reason, watch.run, watch.at_s, watch.since_s) == (
        "down",
        "status_503",
        4,
        9.0,
        5.0,
    )
    assert repr(watch) == "<down, 4 x status_503>"


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_the_state_is_that_of_the_last_run_that_was_long_enough(results, rise, fall) -> None:
    health = BackendHealth(HealthRules(rise=rise, fall=fall))
    for passed in results:
        health.tell(ProbeReported("a", passed, ""), 0, 0.0)
    expected, run, before = ProbeState.UNKNOWN, 0, None
    for passed in results:
        run = run + 1 if passed == before else 1
        before = passed
        if run >= (rise if passed else fall):
            expected = ProbeState.UP if passed else ProbeState.DOWN
    assert health.probe.state is expected
    assert health.is_open is (expected is not ProbeState.DOWN)


# --- synthetic completions ---------------------------------------------------------------------------


def test_a_hung_engine_is_taken_out_though_its_health_is_green() -> None:
    fleet = two_tiers()
    for _ in range(3):
        passes(fleet, "a")
        completes(fleet, "a", Reason.FIRST_BYTE_TIMEOUT)
    assert why(fleet) == [("b", "unhealthy")]
    passes(fleet, "a", times=9)
    assert order(fleet) == ["b"], "a green probe does not answer for completions"
    completes(fleet, "a", Reason.COMPLETED, times=2)
    assert order(fleet) == ["a", "b"]


@pytest.mark.parametrize("reason", [Reason.BACKEND_FULL, Reason.CLIENT_ERROR, Reason.SHUTDOWN])
def test_an_outcome_that_is_ignored_moves_nothing(reason: Reason) -> None:
    fleet = two_tiers()
    completes(fleet, "a", Reason.RESET, times=2)
    completes(fleet, "a", reason, times=9)
    assert order(fleet) == ["a", "b"]
    completes(fleet, "a", Reason.RESET)
    assert order(fleet) == ["b"]
    completes(fleet, "a", reason, times=9)
    assert order(fleet) == ["b"]


# --- reconfiguration ---------------------------------------------------------------------------------


def test_health_is_kept_through_a_reload_and_forgotten_with_its_rules() -> None:
    fleet = two_tiers()
    fails(fleet, "a", times=3)
    tell(fleet, configured(probed("here", ("a", 4)), probed("there", ("b", 4), tier="backup")))
    assert order(fleet) == ["b"]
    tell(fleet, configured(probed("here", ("a", 4), rules=None), probed("there", ("b", 4), tier="backup")))
    assert order(fleet) == ["a", "b"]


def test_a_kind_of_probe_that_the_configuration_dropped_no_longer_holds_a_backend_down() -> None:
    fleet = two_tiers()
    fails(fleet, "a", times=3)
    passes(fleet, "b", words="drain")
    completes(fleet, "b", Reason.RESET, times=3)
    neither = HealthRules(has_probe=False, has_synthetic=False)
    tell(fleet, configured(probed("here", ("a", 4), ("b", 4), rules=neither)))
    assert sorted(order(fleet)) == ["a", "b"]
    fails(fleet, "a", times=9)
    completes(fleet, "a", Reason.RESET, times=9)
    assert sorted(order(fleet)) == ["a", "b"], "results that were still on their way"


def test_a_result_of_a_backend_that_has_left_is_dropped() -> None:
    fleet = two_tiers()
    tell(fleet, configured(probed("here", ("a", 4))))
    fails(fleet, "b", times=3)
    passes(fleet, "nobody", words="maxconn:1")
    assert order(fleet) == ["a"]


# --- agent words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", NO_ADVICE),
        ("OK", NO_ADVICE),
        ("ready", NO_ADVICE),
        ("drain", Advice(is_drained=True)),
        ("maint\n", Advice(is_drained=True)),
        ("75%", Advice(weight_share=0.75)),
        ("0%", Advice(weight_share=0.0)),
        ("250%", Advice(weight_share=1.0)),
        ("maxconn:30", Advice(max_in_flight=30)),
        ("MaxConn:30, 50%\tDRAIN\r\n", Advice(True, 0.5, 30)),
        ("drain ready", NO_ADVICE),
        ("ready drain", Advice(is_drained=True)),
        ("down", Advice(is_down=True)),
        ("fail#disk", Advice(is_down=True)),
        ("stopped # drain 5%", Advice(is_down=True)),
        ("down up", NO_ADVICE),
        ("up 50% weather:fine draining maxconn: 7 %", Advice(weight_share=0.5)),
        ("fine\ndrain", NO_ADVICE),
        ("\r\ndrain", Advice(is_drained=True)),
        ('{"status": "drain"}', NO_ADVICE),
        ("<html>drain</html>", NO_ADVICE),
        ("maxconn:-1 maxconn:9999999999 -5% 7.5% \u0663%", NO_ADVICE),
        ("drain " + "x" * 300, NO_ADVICE),
    ],
)
def test_words(body: str, expected: Advice) -> None:
    assert read_agent_words(body) == expected


@given(st.text())
def test_no_text_makes_advice_that_asks_for_more(body: str) -> None:
    advice = read_agent_words(body)
    assert 0.0 <= advice.weight_share <= 1.0
    assert advice.max_in_flight is None or advice.max_in_flight >= 0


def test_a_backend_that_comes_back_only_to_drain_is_tried_by_nobody_not_even_in_panic() -> None:
    fleet = fleet_with(probed("here", ("a", 4)))
    fails(fleet, "a", times=3)
    assert why(fleet) == [("a", "panic")]
    passes(fleet, "a", words="drain")
    assert route(fleet) == Shed(ShedReason.NO_BACKEND)


def test_a_drained_backend_gets_no_new_work_until_it_no_longer_says_so() -> None:
    fleet = two_tiers()
    passes(fleet, "a", words="drain")
    assert why(fleet) == [("b", "drained")]
    fails(fleet, "a")
    assert order(fleet) == ["b"], "a failed probe says nothing about the drain"
    passes(fleet, "a")
    assert order(fleet) == ["a", "b"]


@pytest.mark.parametrize("words", ["maint", "0%", "maxconn:0"])
def test_no_weight_and_no_slots_are_a_drain(words: str) -> None:
    fleet = two_tiers()
    passes(fleet, "a", words=words)
    assert why(fleet) == [("b", "drained")]
    passes(fleet, "a", words="ready")
    assert order(fleet) == ["a", "b"]


def test_down_is_a_failed_probe() -> None:
    fleet = two_tiers()
    passes(fleet, "a", times=2, words="down")
    assert order(fleet) == ["a", "b"]
    passes(fleet, "a", words="down")
    assert why(fleet) == [("b", "unhealthy")]
    assert fleet.view.backends["a"].health.probe.reason == AGENT_DOWN


def test_an_advised_limit_caps_the_configured_one_and_the_store_is_told_of_all() -> None:
    fleet = two_tiers()
    advice = read_agent_words("maxconn:2")
    effects = fleet.apply(ProbeReported("a", True, "completed", advice), 0.0)
    assert effects == (SetLimits({"a": 2, "b": 4}),)
    assert fleet.apply(ProbeReported("a", True, "completed", advice), 0.0) == (), "nothing new to tell"
    assert fleet.view.backends["a"].headroom == 2
    (limits,) = fleet.apply(configured(probed("here", ("a", 9)), probed("there", ("b", 4))), 0.0)
    assert limits == SetLimits({"a": 2, "b": 4}), "a reload does not lift it"
    passes(fleet, "a", words="maxconn:500")
    assert fleet.view.backends["a"].limit == 9, "never above the configured one"


def test_an_advised_weight_multiplies_the_configured_one() -> None:
    fleet = fleet_with(probed("here", ("a", 4), ("b", 4)))
    a = fleet.view.backends["a"]
    full = a.cost(0.0)
    passes(fleet, "a", words="25%")
    assert a.cost(0.0) == pytest.approx(4 * full)
    assert {order(fleet, draw=draw)[0] for draw in range(8)} == {"b"}
    passes(fleet, "a", words="100%")
    assert a.cost(0.0) == full


# --- engine metrics ----------------------------------------------------------------------------------


def test_what_others_run_on_an_engine_makes_it_dearer_while_the_reading_is_fresh() -> None:
    fleet = fleet_with(probed("here", ("a", 99), ("b", 99)))
    starts(fleet, "a")
    starts(fleet, "b", times=2)
    assert {order(fleet, draw=draw)[0] for draw in range(8)} == {"a"}
    reads(fleet, "a", running=5, waiting=4, at_s=100.0)
    assert fleet.view.backends["a"].health.others(100.0) == 8, "nine, one of them ours"
    assert {order(fleet, draw=draw, at_s=110.0)[0] for draw in range(8)} == {"b"}
    assert {order(fleet, draw=draw, at_s=110.1)[0] for draw in range(8)} == {"a"}, "stale: counts for nothing"


def test_a_reading_never_makes_less_of_what_we_know() -> None:
    fleet = two_tiers()
    starts(fleet, "a", times=3)
    cost = fleet.view.backends["a"].cost(0.0)
    reads(fleet, "a", running=0)
    assert fleet.view.backends["a"].cost(0.0) == cost
    assert fleet.view.backends["a"].in_flight == 3


def test_a_full_engine_stays_in_the_plan() -> None:
    fleet = two_tiers()
    reads(fleet, "a", running=1000, waiting=1000)
    assert order(fleet) == ["a", "b"]
    assert fleet.view.backends["a"].limit == 4


def test_age_is_that_of_the_reading_not_of_the_telling_and_an_older_one_is_dropped() -> None:
    fleet = two_tiers()
    reads(fleet, "a", running=7, at_s=50.0, told_s=59.0)
    health = fleet.view.backends["a"].health
    assert health.others(60.0) == 7
    assert health.others(60.5) == 0
    assert health.fresh_reading(60.5) is None
    reads(fleet, "a", running=1, at_s=49.0, told_s=60.0)
    assert health.reading is not None
    assert health.reading.running == 7


# --- expected capacity -------------------------------------------------------------------------------


def test_two_of_a_hundred_are_two_percent() -> None:
    fleet = fleet_with(probed("here", *((f"b{number}", 4) for number in range(100))))
    cluster = fleet.view.clusters["here"]
    assert cluster.capacity == Capacity(100, 100)
    for number in range(2, 100):
        fails(fleet, f"b{number}", times=3)
    assert cluster.capacity == Capacity(2, 100)
    assert cluster.capacity.share == 0.02
    tell(fleet, Drained("here"))
    assert cluster.capacity.share == 0.0
    assert Capacity(0, 0).share == 0.0


def test_latency_and_health_are_apart() -> None:
    """A green probe neither heals nor hides what attempts have told."""
    fleet = two_tiers()
    answers(fleet, "a", ttft_s=3.0)
    passes(fleet, "a", times=9)
    assert fleet.view.backends["a"].latency.value_s(0.0) == 3.0


def test_a_cluster_of_which_nothing_is_there_is_missed_if_something_is_expected() -> None:
    there = probed("there", ("b", 4), tier="backup")
    nobody = fleet_with(probed("here"), there)
    assert (plan(nobody).preferred_tier, why(nobody)) == ("backup", [("b", "first_choice")])
    lost = fleet_with(replace(probed("here"), expected_limit=8, expected_backends=2), there)
    assert (plan(lost).preferred_tier, why(lost)) == ("primary", [("b", "ejected")])
    assert lost.view.clusters["here"].capacity == Capacity(0, 2)
