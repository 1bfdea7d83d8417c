"""Holding in virtual time: the core that the live gateway uses, over a trace."""

from __future__ import annotations

import pytest

from gateway.sim.arrivals import Arrival
from gateway.sim.baselines import Greedy
from gateway.sim.figures import figures_of
from gateway.sim.ledger import Fate
from gateway.sim.world import run_baseline, run_gateway
from tests.sim.settings import THREE_TIERS, bursts, scenario_of, setting

PRIMARY_OF_TWO = """
hold: {max_wait: 500ms}
clusters:
  - {name: here, limit: 2, backends: [http://a.example:1]}
  - {name: there, limit: 2, backends: [http://b.example:1], tier: backup}
"""


def answers(*times_s: float, tokens: int = 10) -> list[Arrival]:
    """Requests of 0.02 + 0.03 x `tokens` seconds each."""
    return [Arrival(at_s, 0, tokens) for at_s in times_s]


def test_it_waits_for_the_slot_that_is_about_to_come_free():
    # Two make the pace known (0.32 s each); then two long ones, and one that comes 0.2 s before their end.
    warm, long_ones = answers(0.0, 0.1), answers(1.0, 1.05, tokens=50)
    ledger = run_gateway(setting([*warm, *long_ones, *answers(2.32)], PRIMARY_OF_TWO))
    last = ledger.rows[-1]
    assert (last.why, last.endpoint.place.cluster) == (None, "here")
    assert last.held_s == pytest.approx(0.2)
    assert last.ttft_s == pytest.approx(0.2 + 0.05)


def test_who_has_waited_in_vain_spills_half_a_second_later():
    warm, long_ones = answers(0.0, 0.1), answers(1.0, 1.05, tokens=100)
    ledger = run_gateway(setting([*warm, *long_ones, *answers(1.2)], PRIMARY_OF_TWO))
    last = ledger.rows[-1]
    assert (last.why, last.held_s) == ("full", pytest.approx(0.5))
    assert figures_of(ledger, setting(warm).scenario)["flaps"] == 0


def test_where_all_are_full_it_waits_for_any_and_is_told_the_difference():
    warm = answers(0.0, 0.1)
    filling = answers(1.0, 1.01, 1.02, 1.03, tokens=100)
    for seconds, why in ((1.7, "queue_timeout"), (60.0, None)):
        ledger = run_gateway(setting([*warm, *filling, *answers(seconds)], PRIMARY_OF_TWO))
        assert ledger.rows[-1].why == why
    ledger = run_gateway(setting([*filling, *answers(1.7)], PRIMARY_OF_TWO))
    assert ledger.rows[-1].why == "no_capacity", "no pace is known: it is refused at once"


def test_less_spills_than_with_any_rule_that_does_not_wait_and_it_never_flaps():
    busy = setting(bursts(3000, 4.0))
    ledger = run_gateway(busy)
    ours = figures_of(ledger, busy.scenario)
    greedy = figures_of(run_baseline(busy, Greedy()), busy.scenario)
    assert ours["off_preferred_share"] < 0.75 * greedy["off_preferred_share"]
    assert (ours["flaps"], ours["served"]) == (0, 3000)
    assert max(row.held_s for row in ledger.rows) <= 0.5 + 1e-9
    assert max(ledger.site.occupancy.levels["primary"].peaks) == 8
    assert all(level.now == 0 for level in ledger.site.occupancy.levels.values())


def test_a_surge_spills_at_once():
    surge = setting(bursts(6000, 40.0, output_tokens=15))
    ledger = run_gateway(surge)
    late = [row for row in ledger.rows if row.arrival.at_s > 30.0]
    assert sum(row.held_s > 0 for row in late) < 0.1 * len(late)
    early = [row for row in ledger.rows if row.arrival.at_s < 10.0]
    assert sum(row.held_s > 0 for row in early) > 0.3 * len(early)


def test_a_tier_that_dies_sends_its_queue_on(tmp_path):
    config = THREE_TIERS.replace("clusters:", "hold: {max_wait: 60s}\nclusters:")
    scenario = scenario_of("faults: [{at: 20s, for: 5m, target: here, kind: crash}]", tmp_path, config)
    ledger = run_gateway(setting(bursts(400, 6.0), config, scenario))
    waiting = [row for row in ledger.rows if row.held_s > 0 and row.arrival.at_s < 20.0 < row.ended_s]
    assert waiting, "somebody was waiting when it died"
    assert max(row.arrival.at_s + row.held_s for row in waiting) < 25.0
    assert all(row.fate is not Fate.SHED for row in ledger.rows)


def test_the_same_seed_gives_the_same_waits():
    busy = setting(bursts(500, 5.0))
    first, second = (run_gateway(busy).rows for _ in range(2))
    assert [row.held_s for row in first] == [row.held_s for row in second]
