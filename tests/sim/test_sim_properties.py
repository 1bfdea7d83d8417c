"""Whatever goes wrong in a scenario: every request ends once, every slot comes back, no limit is exceeded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sim.baselines import BASELINES
from gateway.sim.ledger import Fate, Ledger
from gateway.sim.occupancy import MAX_BUCKETS, Occupancy
from gateway.sim.scenario import EngineConfig, FaultConfig, Scenario, SimClusterConfig
from gateway.sim.world import Setting, run_baseline, run_gateway
from tests.sim.settings import bursts, setting

CONFIG = """
timeouts: {first_byte: 3s, stall: 2s, total: 20s}
hedge: {after: 300ms, budget: 0.2}
clusters:
  - {name: here, limit: 3, health: {interval: 1s}, backends: [http://a.example:1, http://b.example:1]}
  - {name: there, limit: 4, backends: [http://c.example:1], tier: backup}
"""
TARGETS = ("here", "there", "here@a.example:1", "there@c.example:1")

faults = st.lists(
    st.builds(
        FaultConfig,
        at_s=st.floats(0, 40),
        for_s=st.floats(0, 30),
        target=st.sampled_from(TARGETS),
        kind=st.sampled_from(["crash", "preempt", "hang", "error", "slow"]),
        share=st.floats(0.1, 1.0),
        status=st.sampled_from([400, 429, 500, 501, 503]),
        factor=st.floats(0.5, 50),
    ),
    max_size=5,
)
scenarios = st.builds(
    Scenario,
    engine=st.sampled_from([EngineConfig(), EngineConfig(sigma=0.8), EngineConfig(preset="l4-24")]),
    clusters=st.sampled_from([(), (SimClusterConfig(name="there", rtt_s=0.2, cold_start_s=5.0),)]),
    faults=faults.map(tuple),
)


def check(run: Setting, ledger: Ledger) -> None:
    assert [row.number for row in ledger.rows] == list(range(len(run.arrivals)))
    for row in ledger.rows:
        assert row.ended_s >= row.arrival.at_s
        if row.fate is Fate.SERVED:
            assert row.ttft_s is not None
            assert 0 <= row.ttft_s <= row.ended_s - row.arrival.at_s + 1e-9
    limits = {"primary": 6, "backup": 4}
    for tier, level in ledger.site.occupancy.levels.items():
        assert level.now == 0
        assert max(level.peaks, default=0) <= limits.get(tier, 0)
    assert all(endpoint.in_flight == 0 for endpoint in ledger.site.endpoints.values())


@given(scenarios, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_request_ends_once_and_every_slot_comes_back(scenario, seed):
    run = setting(bursts(120, 3.0, seed=seed), CONFIG, scenario, seed)
    ledger = run_gateway(run)
    check(run, ledger)
    assert max(row.ended_s - row.arrival.at_s for row in ledger.rows) <= 20.2  # the total deadline
    assert all(row.attempts <= 3 for row in ledger.rows)
    check(run, run_baseline(run, BASELINES[seed % len(BASELINES)]()))


@given(st.lists(st.tuples(st.sampled_from([1, -1]), st.floats(0.0, 400.0)), max_size=40))
def test_a_run_of_any_length_has_a_bounded_number_of_buckets_and_loses_nothing(steps) -> None:
    fine, coarse = Occupancy(["t"], 4000.0), Occupancy(["t"], 0.01)
    now_s = used = 0.0
    for by, wait_s in steps:
        now_s += wait_s
        by = by if used + by >= 0 else 1
        used += by
        fine.change("t", by, now_s)
        coarse.change("t", by, now_s)
    for occupancy in (fine, coarse):
        occupancy.close(now_s)
    one, many = fine.levels["t"], coarse.levels["t"]
    assert len(many.area) == len(many.peaks) <= MAX_BUCKETS
    assert coarse.bucket_s * len(many.area) >= now_s
    assert sum(many.area) == pytest.approx(sum(one.area))
    assert max(many.peaks, default=0) == max(one.peaks, default=0)
