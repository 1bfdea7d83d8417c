"""The simulated gateway: the live decisions on virtual time."""

from __future__ import annotations

import pytest

from gateway.sim.arrivals import Arrival
from gateway.sim.baselines import CoolDown, Greedy, RoundRobin
from gateway.sim.figures import course_of, figures_of
from gateway.sim.ledger import Fate
from gateway.sim.world import run_baseline, run_gateway
from tests.sim.settings import THREE_TIERS, bursts, scenario_of, setting

NOBODY_WAITS = "hold: {max_wait: 0s}\n"

ONE_EACH = """
clusters:
  - {name: here, limit: 2, backends: [http://a.example:1]}
  - {name: there, limit: 2, backends: [http://b.example:1], tier: backup}
"""


def long_ones(*times_s: float) -> list[Arrival]:
    """Requests of 0.02 + 100 x 0.03 seconds each, and nothing for their input."""
    return [Arrival(at_s, 0, 100) for at_s in times_s]


def test_requests_spill_one_by_one_come_back_at_once_and_are_shed_at_the_top():
    ledger = run_gateway(setting(long_ones(0.0, 0.1, 0.2, 0.3, 0.4, 3.03), ONE_EACH))
    went = [row.endpoint.place.cluster if row.endpoint else row.why for row in ledger.rows]
    assert went == ["here", "here", "there", "there", "no_capacity", "here"]
    assert [row.why for row in ledger.rows[:4]] == [None, None, "full", "full"]
    first = ledger.rows[0]
    assert (first.ttft_s, first.ended_s) == (pytest.approx(0.05), pytest.approx(3.02))


def test_without_faults_it_is_as_good_as_the_exact_counter_and_never_flaps():
    busy = setting(bursts(3000, 4.0), NOBODY_WAITS + THREE_TIERS)
    ours = figures_of(run_gateway(busy), busy.scenario)
    greedy = figures_of(run_baseline(busy, Greedy()), busy.scenario)
    assert 0.02 < ours["off_preferred_share"] < 0.6
    assert ours["off_preferred_share"] == pytest.approx(greedy["off_preferred_share"], abs=0.002)
    assert ours["flaps"] == 0
    assert ours["circuits_opened"] == 0


def test_the_baselines_are_worse_in_their_known_ways():
    busy, calm = setting(bursts(3000, 4.0)), setting(bursts(500, 1.0))
    greedy = figures_of(run_baseline(busy, Greedy()), busy.scenario)
    cool = figures_of(run_baseline(busy, CoolDown()), busy.scenario)
    assert greedy["off_preferred_share"] < cool["off_preferred_share"]
    assert cool["flaps"] > 5
    robin = figures_of(run_baseline(calm, RoundRobin()), calm.scenario)
    assert robin["off_preferred_share"] == 0.5  # two of four backends are not preferred


def test_no_limit_is_exceeded_at_any_moment():
    ledger = run_gateway(setting(bursts(2000, 12.0)))
    peaks = {tier: max(level.peaks) for tier, level in ledger.site.occupancy.levels.items()}
    assert peaks["primary"] == 8
    assert all(level.now == 0 for level in ledger.site.occupancy.levels.values())


def test_the_course_accounts_for_every_request():
    busy = setting(bursts(500, 9.0))
    ledger = run_gateway(busy)
    assert sum(map(sum, course_of(ledger)["requests"].values())) == 500
    assert [row.number for row in ledger.rows] == list(range(500))


def test_a_crash_cuts_what_runs_and_the_circuit_sends_the_rest_elsewhere(tmp_path):
    scenario = scenario_of("faults: [{at: 10s, for: 20s, target: here, kind: crash}]", tmp_path)
    run = setting(bursts(600, 6.0), NOBODY_WAITS + THREE_TIERS, scenario)
    ledger = run_gateway(run)
    ours = figures_of(ledger, scenario)
    # Streams that had begun were cut; the others moved on, as far as the budget of retries went.
    assert ours["failures"] == {"connect_failed": ours["retries_denied"], "truncated": 5}
    assert ours["retries"] >= 5
    assert {c.backend_id for c in ledger.circuits if c.circuit == "open"} == {
        "here@a.example:1",
        "here@b.example:1",
    }
    down = [row for row in ledger.rows if 12.0 < row.arrival.at_s < 28.0]
    assert {row.endpoint.place.cluster for row in down if row.fate is Fate.SERVED} == {"there"}
    late = [row for row in ledger.rows if row.arrival.at_s > 75.0]
    assert sum(row.is_at_home for row in late) > len(late) / 2
    greedy = figures_of(run_baseline(run, Greedy()), scenario)
    assert greedy["failed"] > 10 * ours["failed"]  # it goes on sending to the dead


def test_a_hung_engine_is_left_although_its_health_page_is_green(tmp_path):
    config = ONE_EACH.replace(
        "limit: 2, backends: [http://a", "limit: 4, health: {interval: 1s}, backends: [http://a"
    )
    scenario = scenario_of("faults: [{at: 60s, for: 60s, target: here, kind: hang}]", tmp_path, config)
    ledger = run_gateway(setting(bursts(300, 1.5), config.replace("limit: 2", "limit: 40"), scenario))
    opened = [c for c in ledger.circuits if c.circuit == "open"]
    assert opened[0].trigger == "no_progress"
    assert 60.0 < opened[0].at_s < 80.0
    failures = figures_of(ledger, scenario)["failures"]
    assert set(failures) <= {"stall_timeout", "hung", "first_byte_timeout"}
    assert ledger.circuits[-1].circuit == "closed"


def test_errors_move_on_and_are_paid_from_the_budget(tmp_path):
    scenario = scenario_of("faults: [{at: 0s, for: 1h, target: here, kind: error, share: 0.1}]", tmp_path)
    run = setting(bursts(800, 3.0), NOBODY_WAITS + THREE_TIERS, scenario)
    ours = figures_of(run_gateway(run), scenario)
    assert ours["served"] + ours["failed"] == 800
    assert ours["served"] > 795
    assert ours["retries"] > 20


def test_distance_costs_a_round_trip_and_prices_are_summed(tmp_path):
    text = """
clusters:
  - {name: here, rtt: 100ms, price: {per_hour: 36, per_million_output: 1000}}
"""
    scenario = scenario_of(text, tmp_path, ONE_EACH)
    ledger = run_gateway(setting(long_ones(0.0), ONE_EACH, scenario))
    assert ledger.rows[0].ttft_s == pytest.approx(0.15)
    assert ledger.ended_s == pytest.approx(3.12)
    figures = figures_of(ledger, scenario)
    assert figures["tiers"]["primary"]["cost"] == pytest.approx(36 * 3.12 / 3600 + 100 * 1000 / 1e6, abs=1e-6)
    assert figures["tiers"]["backup"]["cost"] is None


def test_what_no_kv_cache_could_hold_is_refused_by_the_engine_and_final(tmp_path):
    scenario = scenario_of("engine: {preset: l4-24}", tmp_path, ONE_EACH)
    ledger = run_gateway(setting([Arrival(0.0, 30_000, 1), Arrival(1.0, 100, 2)], ONE_EACH, scenario))
    assert [(row.fate, row.why, row.attempts) for row in ledger.rows] == [
        (Fate.FAILED, "client_error", 1),
        (Fate.SERVED, None, 1),
    ]


def test_a_step_engine_slows_down_with_its_batch_and_survives_every_fault(tmp_path):
    faults = "".join(
        f"  - {{at: {at}s, for: 5s, target: here, kind: {kind}}}\n"
        for at, kind in ((10, "slow"), (30, "hang"), (50, "crash"), (70, "preempt"), (90, "error"))
    )
    scenario = scenario_of(f"engine: h100-80\nfaults:\n{faults}", tmp_path)
    busy = run_gateway(setting(bursts(1200, 10.0), scenario=scenario))
    assert sum(row.fate is Fate.SERVED for row in busy.rows) > 1100
    assert all(level.now == 0 for level in busy.site.occupancy.levels.values())
    calm = run_gateway(setting(bursts(30, 0.1), scenario=scenario_of("engine: h100-80", tmp_path)))
    for row in calm.rows:
        assert row.endpoint is not None
        assert row.ended_s - row.arrival.at_s == pytest.approx(row.endpoint.alone_s(0, row.arrival), rel=0.01)


def test_a_hedge_takes_over_from_a_slow_backend(tmp_path):
    config = "hedge: {after: 500ms, budget: 1}\nretry: {budget: 1}\n" + ONE_EACH
    scenario = scenario_of(
        "faults: [{at: 0s, for: 1h, target: here, kind: slow, factor: 100}]", tmp_path, config
    )
    ledger = run_gateway(setting(long_ones(0.0), config, scenario))
    assert ledger.hedges == 1
    assert ledger.rows[0].why == "hedged"
    assert ledger.rows[0].ttft_s == pytest.approx(0.5 + 0.05)
    assert all(level.now == 0 for level in ledger.site.occupancy.levels.values())


def test_the_deadline_ends_what_takes_too_long():
    config = "timeouts: {total: 2s}\n" + ONE_EACH
    ledger = run_gateway(setting(long_ones(0.0), config))
    assert (ledger.rows[0].fate, ledger.rows[0].why) == (Fate.FAILED, "total_timeout")
    assert ledger.rows[0].ended_s == pytest.approx(2.0, abs=0.11)
