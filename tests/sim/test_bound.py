"""The clairvoyant bound against trying everything."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from gateway.sim.baselines import BASELINES
from gateway.sim.bound import bound_of, dropped
from gateway.sim.world import run_baseline
from tests.sim.settings import bursts, setting

spans = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 8)).map(lambda pair: (float(pair[0]), float(sum(pair)))),
    max_size=9,
).map(sorted)


def fits(kept: tuple[tuple[float, float], ...], slots: int) -> bool:
    return all(sum(b <= begin < e for b, e in kept) <= slots for begin, _ in kept)


def fewest_dropped(all_spans: list[tuple[float, float]], slots: int) -> int:
    for count in range(len(all_spans) + 1):
        if any(fits(kept, slots) for kept in combinations(all_spans, len(all_spans) - count)):
            return count
    raise AssertionError


@given(spans, st.integers(1, 3))
def test_nobody_who_knows_all_does_better(all_spans, slots):
    assert dropped(all_spans, slots) == fewest_dropped(all_spans, slots)


def test_a_slot_that_comes_free_is_there_for_who_arrives_then():
    assert dropped([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], 1) == 0
    assert dropped([(0.0, 10.0), (1.0, 2.0), (2.0, 3.0)], 1) == 1  # the long one goes, not the two short ones


def test_no_policy_that_refuses_to_wait_is_better_than_the_bound():
    busy = setting(bursts(600, 9.0))
    for make_policy in BASELINES:
        ledger = run_baseline(busy, make_policy())
        away = sum(not row.is_at_home for row in ledger.rows)
        assert 0 < bound_of(ledger.rows, ledger.site) <= away


def test_a_model_that_nobody_serves_is_lost_to_the_bound_too():
    config = "clusters: [{name: a, limit: 1, backends: [http://a.example:1], models: [m]}]"
    arrivals = [a._replace(model="m" if n % 2 else "other") for n, a in enumerate(bursts(20, 0.01))]
    ledger = run_baseline(setting(arrivals, config), BASELINES[2]())
    assert bound_of(ledger.rows, ledger.site) == 10
