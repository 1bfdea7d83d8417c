"""Keys keep to their rate and to their requests in flight, alone and as one of several gateways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.admission import Excess, KeyRules, KeyUse, Rate


def admitted(use: KeyUse, at_s: float, asked: int, gateways: int = 1) -> int:
    """How many of `asked` requests at one moment are taken; all of them end at once."""
    taken = 0
    for _ in range(asked):
        if use.admit(at_s, gateways) is None:
            use.finished()
            taken += 1
    return taken


def test_without_limits_everything_is_admitted() -> None:
    assert admitted(KeyUse(KeyRules("a")), 0.0, 10_000) == 10_000


def test_a_burst_of_one_period_is_admitted_then_as_much_as_refills() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(10, 1.0)))
    assert admitted(use, 100.0, 50) == 10
    assert admitted(use, 100.0, 50) == 0
    assert admitted(use, 100.3, 50) == 3
    assert admitted(use, 200.0, 50) == 10, "what was not used is not saved up"


def test_a_rate_per_minute_refills_evenly() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(6, 60.0)))
    assert admitted(use, 0.0, 9) == 6
    assert admitted(use, 9.9, 9) == 0
    assert admitted(use, 10.0, 9) == 1


def test_who_is_refused_is_told_when_it_is_worth_to_come_again() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(2, 1.0)))
    assert admitted(use, 0.0, 2) == 2
    too_much = use.admit(0.1)
    assert too_much is not None and too_much.excess is Excess.RATE
    assert too_much.retry_after_s == pytest.approx(0.4)
    assert use.admit(0.1 + too_much.retry_after_s) is None


def test_requests_in_flight_are_limited_until_they_end() -> None:
    use = KeyUse(KeyRules("a", max_in_flight=2))
    assert [use.admit(0.0), use.admit(0.0)] == [None, None]
    too_much = use.admit(0.0)
    assert too_much is not None and too_much.excess is Excess.IN_FLIGHT
    use.finished()
    assert use.admit(0.0) is None
    assert use.in_flight == 2


def test_a_request_refused_for_those_in_flight_costs_nothing_of_the_rate() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(2, 3600.0), max_in_flight=1))
    assert use.admit(0.0) is None
    for _ in range(10):
        assert use.admit(0.0) is not None
    use.finished()
    assert use.admit(0.0) is None


def test_to_ask_costs_nothing() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(1, 3600.0)))
    for _ in range(10):
        assert use.excess(0.0) is None
    assert use.admit(0.0) is None
    assert use.excess(0.0) is not None


def test_each_of_several_gateways_admits_its_part() -> None:
    rules = KeyRules("a", rate=Rate(90, 1.0), max_in_flight=7)
    uses = [KeyUse(rules) for _ in range(3)]
    assert [admitted(use, 0.0, 100, gateways=3) for use in uses] == [30, 30, 30]
    assert [admitted(use, 0.1, 100, gateways=3) for use in uses] == [3, 3, 3]
    for use in uses:
        assert use.excess(2.0, 3) is None
        assert use.admit(2.0, 3) is None and use.admit(2.0, 3) is None
        assert use.admit(2.0, 3) is not None


def test_a_part_is_never_less_than_one_request() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(1, 1.0), max_in_flight=1))
    assert admitted(use, 0.0, 5, gateways=4) == 1
    assert admitted(use, 3.9, 5, gateways=4) == 0
    assert admitted(use, 4.0, 5, gateways=4) == 1


def test_when_a_gateway_comes_the_part_of_the_others_shrinks_at_once() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(10, 1.0), max_in_flight=4))
    assert use.excess(0.0) is None
    assert admitted(use, 0.0, 50, gateways=2) == 5


def test_other_rules_hold_at_once_and_what_runs_is_still_counted() -> None:
    use = KeyUse(KeyRules("a", max_in_flight=8))
    for _ in range(3):
        assert use.admit(0.0) is None
    use.rules = KeyRules("a", max_in_flight=3, rate=Rate(1, 1.0))
    assert use.admit(0.0) is not None
    use.finished()
    assert use.admit(0.0) is None
    use.finished()
    too_much = use.admit(0.0)
    assert too_much is not None and too_much.excess is Excess.RATE


def test_a_clock_that_stands_still_refills_nothing() -> None:
    use = KeyUse(KeyRules("a", rate=Rate(1, 1.0)))
    assert admitted(use, 5.0, 1) == 1
    assert admitted(use, 5.0, 1) == admitted(use, 4.0, 1) == 0


@pytest.mark.parametrize(
    ("models", "model", "is_allowed"),
    [
        ((), "m", True),
        ((), None, True),
        (("m",), "m", True),
        (("m",), "n", False),
        (("m",), "m2", False),
        (("qwen-*",), "qwen-72b", True),
        (("qwen-*",), "a-qwen-72b", False),
        (("m",), None, False),
    ],
)
def test_which_models_may_be_asked_for(models: tuple[str, ...], model: str | None, is_allowed: bool) -> None:
    assert KeyRules("a", dict.fromkeys(models)).allows(model) is is_allowed


@given(
    count=st.integers(1, 50),
    period_s=st.sampled_from((1.0, 60.0)),
    gateways=st.integers(1, 5),
    steps_s=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60),
)
def test_no_pattern_of_arrivals_gets_more_than_the_rate_and_one_burst(
    count: int, period_s: float, gateways: int, steps_s: list[float]
) -> None:
    use = KeyUse(KeyRules("a", rate=Rate(count, period_s)))
    now_s, taken = 0.0, 0
    for step_s in steps_s:
        now_s += step_s
        taken += admitted(use, now_s, 3, gateways)
        most = max(count / gateways, 1.0) + count / period_s / gateways * now_s
        assert taken <= most + 1e-6
    assert use.in_flight == 0
