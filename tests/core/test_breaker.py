"""The circuit of one backend: its table, what each transition sets, and any story at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.breaker import (
    DEFAULTS,
    FIRST_SHARE,
    OWN,
    TRANSITIONS,
    Breaker,
    BreakerSettings,
    Circuit,
    IllegalTransition,
    Opening,
    Sign,
    Trigger,
    next_circuit,
)
from gateway.core.fleet import (
    AttemptFinished,
    AttemptStarted,
    ClosingShared,
    Drained,
    FirstByteSeen,
    FleetConfigured,
    OpeningShared,
    SendSyntheticProbe,
    SetLimits,
    ShareClosing,
    ShareOpening,
    Ticked,
)
from gateway.core.model import SUCCESS, Candidate, Outcome, PlanReason, Reason, RequestFacts, Verdict
from gateway.core.routing import plan_route
from tests.core.stories import (
    TIERS,
    cluster_of,
    drops,
    ends,
    fleet_of,
    fleet_with,
    order,
    plan,
    starts,
    tell,
    ticks,
    why,
)

CLOSED, OPEN, HALF_OPEN = Circuit

# --- the table ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("circuit", Circuit)
@pytest.mark.parametrize("sign", Sign)
def test_the_table_has_the_last_word_and_what_is_not_in_it_is_illegal(circuit, sign):
    if (circuit, sign) in TRANSITIONS:
        assert next_circuit(circuit, sign) is TRANSITIONS[circuit, sign]
    else:
        with pytest.raises(IllegalTransition, match=f"{sign} in a circuit that is {circuit}"):
            next_circuit(circuit, sign)


def test_only_a_probe_or_anothers_probe_closes_a_circuit_and_time_only_half_opens():
    closing = {sign for (_, sign), after in TRANSITIONS.items() if after is CLOSED}
    assert closing == {Sign.PROBE_SUCCEEDED, Sign.TOLD_CLOSED}
    assert [after for (_, sign), after in TRANSITIONS.items() if sign is Sign.WAITED] == [HALF_OPEN]


def test_every_state_is_reached_and_left():
    assert {before for before, _ in TRANSITIONS} == set(Circuit) == set(TRANSITIONS.values())


def opening(trigger: Trigger = Trigger.CONSECUTIVE, reason: Reason = Reason.RESET) -> Opening:
    return Opening(trigger, reason, 1.0, 1)


def breaker_that_is(circuit: Circuit) -> Breaker:
    breaker = Breaker()
    if circuit is not CLOSED:
        breaker.open(Sign.TRIPPED, opening(), frozenset((OWN,)), 0.0)
    if circuit is HALF_OPEN:
        breaker.try_again(Sign.WAITED, DEFAULTS, 1.0)
    return breaker


def sheet(breaker: Breaker) -> dict[str, object]:
    evidence = {
        name: getattr(breaker.evidence, name) for name in ("drops_in_a_row", "first_byte_s", "success_s")
    }
    known = {name: getattr(breaker, name) for name in Breaker.__slots__ if name != "evidence"}
    return known | evidence | {"tally": repr(breaker.evidence.tally)}


CHANGES = {
    OPEN: lambda breaker, sign: breaker.open(sign, opening(), frozenset(("x",)), 9.0),
    HALF_OPEN: lambda breaker, sign: breaker.try_again(sign, DEFAULTS, 9.0),
    CLOSED: lambda breaker, sign: breaker.close(sign, 9.0),
}


@pytest.mark.parametrize("circuit", Circuit)
@pytest.mark.parametrize("sign", Sign)
@pytest.mark.parametrize("to", Circuit)
def test_an_illegal_transition_changes_nothing(circuit, sign, to):
    breaker = breaker_that_is(circuit)
    before = sheet(breaker)
    if TRANSITIONS.get((circuit, sign)) is to:
        CHANGES[to](breaker, sign)
        assert breaker.circuit is to
    else:
        with pytest.raises(IllegalTransition):
            CHANGES[to](breaker, sign)
        assert sheet(breaker) == before


def test_each_change_of_state_is_a_new_generation():
    breaker = breaker_that_is(HALF_OPEN)
    assert breaker.generation == 2
    breaker.probe_began(2)
    breaker.probe_ignored(1.0)
    assert breaker.generation == 2, "still half-open"
    breaker.close(Sign.PROBE_SUCCEEDED, 2.0)
    assert (breaker.generation, breaker.voters) == (3, frozenset())


# --- open times and shares ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streak", "whole_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (50, 60.0), (5000, 60.0)]
)
def test_open_times_double_up_to_the_most_and_are_at_most_a_quarter_shorter(streak, whole_s):
    assert DEFAULTS.open_time_s(streak, 0) == whole_s
    assert DEFAULTS.open_time_s(streak, 2**31) == whole_s * 0.875
    assert 0.75 * whole_s < DEFAULTS.open_time_s(streak, 2**32 - 1) < 0.7501 * whole_s


def test_slow_start_goes_from_a_tenth_to_all_in_its_time():
    breaker = breaker_that_is(HALF_OPEN)
    assert breaker.share(DEFAULTS, 5.0) == FIRST_SHARE
    breaker.close(Sign.PROBE_SUCCEEDED, 10.0)
    shares = [breaker.share(DEFAULTS, at_s) for at_s in (10.0, 25.0, 40.0, 1000.0)]
    assert shares == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert breaker.share(BreakerSettings(slow_start_s=0.0), 10.0) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive": 0},
        {"min_samples": 0},
        {"ratio": 0.0},
        {"ratio": 1.1},
        {"window_s": 0.0},
        {"open_s": 0.0},
        {"open_s": 2.0, "open_max_s": 1.0},
        {"slow_start_s": -1.0},
        {"min_available": 1.5},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        BreakerSettings(**wrong)


# --- what the fleet makes of it ----------------------------------------------------------------------

PAIR = {"primary": [("a", 40), ("b", 40)]}


def test_five_drops_in_a_row_open_and_say_why():
    fleet = fleet_of(PAIR)
    assert drops(fleet, "a", 4) == []
    report, share, close_idle, limits = drops(fleet, "a", 1, Reason.BAD_RESPONSE)
    assert report == ("a", OPEN, Trigger.CONSECUTIVE, Reason.BAD_RESPONSE)
    assert isinstance(share, ShareOpening) and 0.75 <= share.open_s <= 1.0 and share.streak == 1
    assert close_idle.backend_ids == ("a",)
    assert limits == SetLimits({"a": 4, "b": 40})
    assert why(fleet) == [("b", "first_choice")]


def test_a_probe_that_was_a_stream_clears_the_penalties_too():
    """Its first byte was told before its end, and twenty samples for a median there may never have been."""
    fleet = fleet_of(PAIR)
    drops(fleet, "a", 5)
    state = fleet.view.backends["a"]
    assert state.latency.value_s(0.0) > 10.0
    ticks(fleet, until_s=1.0)
    generation = state.breaker.generation
    tell(fleet, AttemptStarted("a", generation, 700), at_s=1.0)
    tell(fleet, FirstByteSeen("a", 0.1), at_s=1.1)
    tell(fleet, AttemptFinished("a", SUCCESS, None, None, generation), at_s=1.5)
    assert state.circuit is CLOSED
    assert state.latency.value_s(1.5) <= 0.1, "not a second, which is four times what it takes"


def test_a_probe_has_a_slot_beside_streams_that_use_more_than_the_share():
    """As it has beside other gateways, whose circuits closed before: the limit is the whole fleet's."""
    fleet = fleet_of(PAIR)
    starts(fleet, "a", 20)
    drops(fleet, "a", 5)
    state = fleet.view.backends["a"]
    assert state.headroom == 0
    asked = ticks(fleet, until_s=1.0)
    assert (1.0, SetLimits({"a": 40, "b": 40})) in asked
    assert order(fleet, at_s=1.0)[0] == "a" and state.headroom == 20
    effects = fleet.apply(AttemptStarted("a", state.breaker.generation, 700), 1.0)
    assert effects == (SetLimits({"a": 4, "b": 40}),), "one probe is all"


@pytest.mark.parametrize("reason", [r for r in Reason if Outcome.of(r).verdict is Verdict.IGNORED])
def test_ignored_outcomes_neither_open_nor_forgive(reason):
    fleet = fleet_of(PAIR)
    drops(fleet, "a", 4)
    ends(fleet, "a", reason, 100)
    assert fleet.view.backends["a"].circuit is CLOSED
    drops(fleet, "a", 1)
    assert fleet.view.backends["a"].circuit is OPEN


def test_half_of_twenty_within_ten_seconds_opens_and_no_sooner():
    fleet = fleet_of(PAIR)
    for number in range(9):
        ends(fleet, "a", Reason.COMPLETED, at_s=0.1 * number)
        drops(fleet, "a", 1, at_s=0.1 * number)
    assert fleet.view.backends["a"].circuit is CLOSED, "eighteen"
    ends(fleet, "a", Reason.COMPLETED, at_s=1.0)
    report, *_ = drops(fleet, "a", 1, at_s=1.0)
    assert report.trigger is Trigger.RATIO


def test_drops_that_left_the_window_do_not_count():
    fleet = fleet_of(PAIR)
    for _ in range(9):
        ends(fleet, "a", Reason.COMPLETED)
        drops(fleet, "a", 1)
    for _ in range(9):
        ends(fleet, "a", Reason.COMPLETED, at_s=10.0)
        drops(fleet, "a", 1, at_s=10.0)
    assert fleet.view.backends["a"].circuit is CLOSED
    assert fleet.view.backends["a"].breaker.evidence.tally.counts(10.0) == (18, 9)


def test_a_late_result_of_an_older_circuit_changes_nothing():
    fleet = fleet_of(PAIR)
    tell(fleet, *[AttemptStarted("a", 0, 700)] * 20)
    drops(fleet, "a", 5)
    ticks(fleet, 1.5)
    late = AttemptFinished("a", Outcome.of(Reason.COMPLETED), 0.1, None, 0)
    tell(fleet, *[late] * 10, at_s=1.5)
    assert fleet.view.backends["a"].circuit is HALF_OPEN, "no probe"
    tell(fleet, AttemptStarted("a", 2, 700), *[late._replace(ttft_s=None)] * 5, at_s=1.5)
    assert fleet.view.backends["a"].circuit is HALF_OPEN
    dropped = AttemptFinished("a", Outcome.of(Reason.RESET), None, 0.1, 0)
    tell(fleet, *[dropped] * 5, at_s=1.5)
    assert fleet.view.backends["a"].circuit is HALF_OPEN
    tell(fleet, AttemptFinished("a", Outcome.of(Reason.COMPLETED), 0.1, None, 2), at_s=1.6)
    assert fleet.view.backends["a"].circuit is CLOSED


def test_without_a_generation_an_attempt_belongs_to_the_circuit_of_the_moment():
    """What a driver that does not carry it gets: late results count, nothing else is different."""
    fleet = fleet_of(PAIR)
    for _ in range(5):
        tell(fleet, AttemptStarted("a"), AttemptFinished("a", Outcome.of(Reason.RESET)))
    assert fleet.view.backends["a"].circuit is OPEN
    ticks(fleet, 1.5)
    tell(fleet, AttemptStarted("a"), AttemptFinished("a", Outcome.of(Reason.COMPLETED), 0.1), at_s=2.0)
    assert fleet.view.backends["a"].circuit is CLOSED


def test_a_drained_backend_is_not_probed():
    fleet = fleet_of(PAIR)
    drops(fleet, "a", 5, Reason.FIRST_BYTE_TIMEOUT)
    tell(fleet, Drained("a"))
    asked = ticks(fleet, 10.0)
    assert not any(isinstance(effect, SendSyntheticProbe) for _, effect in asked)
    assert why(fleet) == [("b", "first_choice")]


def test_a_reload_keeps_the_circuit_and_takes_over_the_settings():
    fleet = fleet_of(PAIR)
    drops(fleet, "a", 5)
    strict = BreakerSettings(consecutive=1, window_s=5.0)
    made = (cluster_of("primary", ("a", 20), ("b", 20)),)
    (limits,) = fleet.apply(FleetConfigured(made, TIERS, breaker=strict), 0.1)
    assert limits == SetLimits({"a": 2, "b": 20})
    assert why(fleet) == [("b", "first_choice")]
    report, *_ = drops(fleet, "b", 1, at_s=0.2)
    assert report.trigger is Trigger.CONSECUTIVE


def test_what_was_planned_before_a_circuit_opened_is_not_admitted_any_more():
    fleet = fleet_of(PAIR)
    old = {c.backend.id: c for c in plan(fleet).candidates}
    assert fleet.view.admits(old["a"])
    drops(fleet, "a", 5)
    assert not fleet.view.admits(old["a"]) and fleet.view.admits(old["b"])
    ticks(fleet, 1.5)
    probe = plan(fleet).candidates[0]
    assert probe.is_probe and fleet.view.admits(probe)
    tell(fleet, AttemptStarted("a", probe.generation, 700), at_s=1.5)
    assert not fleet.view.admits(probe), "somebody has taken it"
    tell(fleet, FleetConfigured((cluster_of("primary", ("a", 40)),), TIERS))
    assert not fleet.view.admits(old["b"]), "gone"


def test_panic_admits_what_it_planned_and_learns_nothing():
    fleet = fleet_of({"primary": [("a", 40)]})
    drops(fleet, "a", 5)
    (panic,) = plan(fleet).candidates
    assert panic.reason is PlanReason.PANIC and fleet.view.admits(panic)
    tell(fleet, AttemptStarted("a", panic.generation, 700))
    tell(fleet, AttemptFinished("a", Outcome.of(Reason.COMPLETED), 0.1, None, panic.generation))
    assert fleet.view.backends["a"].circuit is OPEN


def test_expected_capacity_is_what_discovery_knows_and_not_what_is_up():
    few = cluster_of("here", ("a", 10), ("b", 10))
    there = cluster_of("there", ("c", 10), tier="backup")
    assert why(fleet_with(few, there))[0][0] in ("a", "b")
    fleet = fleet_with(replace(few, expected_limit=1000), there)
    assert why(fleet)[0] == ("c", "ejected"), "2 of 100 replicas are 2 %"
    assert {id_ for id_, _ in why(fleet)[1:]} == {"a", "b"}


def test_what_is_drained_is_not_missing():
    fleet = fleet_of({"primary": [("a", 10), ("b", 10), ("c", 10)], "backup": [("d", 10)]})
    tell(fleet, Drained("a"), Drained("b"))
    assert why(fleet)[0] == ("c", "first_choice"), "an operator's doing is no outage"


# --- gateways ----------------------------------------------------------------------------------------


def test_a_new_gateway_learns_an_opening_and_tries_when_its_time_is_over():
    fleet = fleet_of(PAIR)
    tell(fleet, OpeningShared("g1", "a", Reason.HUNG, 0.0, 5))
    assert why(fleet) == [("b", "first_choice")]
    asked = [effect for _, effect in ticks(fleet, 0.5)]
    assert any(isinstance(effect, SendSyntheticProbe) for effect in asked)


def test_word_of_others_is_not_passed_on():
    fleet = fleet_of(PAIR)
    effects = fleet.apply(OpeningShared("g1", "a", Reason.RESET, 1.0, 1), 0.0)
    effects += fleet.apply(ClosingShared("g1", "a"), 0.1)
    assert not any(isinstance(effect, ShareOpening | ShareClosing) for effect in effects)
    assert fleet.view.backends["a"].circuit is CLOSED


def test_a_first_byte_does_not_contradict_a_verdict_about_what_comes_after_it():
    for reason, binds in ((Reason.STALL_TIMEOUT, True), (Reason.FIRST_BYTE_TIMEOUT, False)):
        fleet = fleet_of(PAIR)
        starts(fleet, "a")
        tell(fleet, FirstByteSeen("a", 0.1), OpeningShared("g1", "a", reason, 1.0, 1))
        assert (fleet.view.backends["a"].circuit is OPEN) is binds, reason


def test_messages_about_a_backend_nobody_knows_change_nothing():
    fleet = fleet_of(PAIR)
    assert fleet.apply(OpeningShared("g1", "gone", Reason.RESET, 1.0, 1), 0.0) == ()
    assert fleet.apply(ClosingShared("g1", "gone"), 0.0) == ()


# --- any story at all --------------------------------------------------------------------------------

GENERATIONS = st.integers(-1, 8)


class AnyStory(RuleBasedStateMachine):
    """One backend between two others; the driver asks `admits` after each wait, as the proxy does."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = fleet_of({"primary": [("a", 40), ("b", 40)], "backup": [("c", 40)]})
        self.now_s = 0.0
        self.running: list[Candidate] = []
        self.planned: list[Candidate] = []
        self.since_closed_s = float("-inf")

    @property
    def state(self):
        return self.fleet.view.backends["a"]

    def apply(self, event) -> None:
        before = self.state.circuit
        self.fleet.apply(event, self.now_s)
        if before is not CLOSED and self.state.circuit is CLOSED:
            self.since_closed_s = self.now_s

    @rule(draw=st.integers(0, 2**64 - 1), waits=st.booleans())
    def asks(self, draw, waits) -> None:
        """A request is planned; it begins at once, or waits for a slot first."""
        found = plan_route(RequestFacts(None, draw), self.fleet.view, self.now_s)
        places = [c for c in found.candidates if c.backend.id == "a"]
        assert len(places) <= 1
        for place in places:
            assert place.is_probe is (self.state.circuit is HALF_OPEN), "ejected, planned like another"
            assert self.state.circuit is not OPEN, "b and c are there: no panic"
            assert not (place.is_probe and self.state.breaker.probes), "the permit is taken, and offered"
            if waits:
                self.planned.append(place)
            else:
                self.begin(place)

    @precondition(lambda self: self.planned)
    @rule(at=st.integers(0))
    def has_waited(self, at) -> None:
        self.begin(self.planned.pop(at % len(self.planned)))

    def begin(self, place: Candidate) -> None:
        if self.fleet.view.admits(place) and self.state.headroom:
            assert place.is_probe is (self.state.circuit is HALF_OPEN) and self.state.circuit is not OPEN
            self.running.append(place)
            self.apply(AttemptStarted("a", place.generation, 700))

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0), reason=st.sampled_from(Reason))
    def finishes(self, at, reason) -> None:
        place = self.running.pop(at % len(self.running))
        is_late = place.generation != self.state.breaker.generation
        before, verdict = sheet(self.state.breaker), Outcome.of(reason).verdict
        circuit = self.state.circuit
        times = (0.1, None) if verdict is Verdict.SUCCESS else (None, 0.1)
        self.apply(AttemptFinished("a", Outcome.of(reason), *times, place.generation))
        if is_late:
            assert sheet(self.state.breaker) == before, "a late result changed something"
        elif verdict is Verdict.IGNORED:
            assert self.state.circuit is circuit
        elif place.is_probe:
            assert self.state.circuit is (CLOSED if verdict is Verdict.SUCCESS else OPEN)

    @rule(seconds=st.sampled_from((0.0, 0.5, 0.5, 1.0, 3.0, 40.0)), draw=st.integers(0, 2**64 - 1))
    def time_passes(self, seconds, draw) -> None:
        self.now_s += seconds
        circuit = self.state.circuit
        self.apply(Ticked(draw))
        assert not (circuit is not CLOSED and self.state.circuit is CLOSED), "time alone closed it"

    @precondition(lambda self: self.state.circuit is CLOSED)
    @rule(times=st.sampled_from((1, 5)), and_waits=st.booleans())
    def is_dropped(self, times, and_waits) -> None:
        for _ in range(times):
            drops(self.fleet, "a", self.state.circuit is CLOSED, at_s=self.now_s)
        if and_waits:
            self.time_passes(61.0, 0)

    @rule(voter=st.sampled_from("xyz"), reason=st.sampled_from((Reason.HUNG, Reason.RESET)))
    def is_told_open(self, voter, reason) -> None:
        had_success = self.now_s - self.state.breaker.evidence.success_s <= DEFAULTS.fresh_s
        was_closed = self.state.circuit is CLOSED
        drops_seen = self.state.breaker.evidence.tally.counts(self.now_s).marked
        self.apply(OpeningShared(voter, "a", reason, 1.0, 1))
        if was_closed and had_success and not drops_seen:
            assert self.state.circuit is CLOSED, "ejected against own evidence"
        elif was_closed and not had_success:
            assert self.state.circuit is OPEN, "no evidence, and not bound"

    @rule(voter=st.sampled_from("xyz"))
    def is_told_closed(self, voter) -> None:
        knows_better = OWN in self.state.breaker.voters
        self.apply(ClosingShared(voter, "a"))
        assert self.state.circuit is not OPEN
        assert not (knows_better and self.state.circuit is CLOSED), "own evidence gave way to hearsay"

    @invariant()
    def an_ejected_backend_has_one_probe_at_most(self) -> None:
        breaker = self.state.breaker
        current = [c for c in self.running if c.generation == breaker.generation]
        if breaker.circuit is not CLOSED:
            assert len(current) == breaker.probes <= 1
        else:
            assert breaker.probes == 0

    @invariant()
    def voters_are_there_exactly_while_it_is_not_closed(self) -> None:
        assert bool(self.state.breaker.voters) is (self.state.circuit is not CLOSED)

    @invariant()
    def the_effective_limit_is_from_one_to_the_configured_one(self) -> None:
        assert 1 <= self.state.limit <= 40
        assert self.state.limit <= 4 or self.state.circuit is CLOSED or self.state.breaker.probes == 0
        assert 0 < self.state.weight <= 1.0
        if self.state.circuit is CLOSED and self.now_s == self.since_closed_s:
            assert self.state.limit <= 4, "a burst at the moment it is back"

    @invariant()
    def what_runs_is_counted(self) -> None:
        assert self.state.in_flight == len(self.running)


TestAnyStory = AnyStory.TestCase
TestAnyStory.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
