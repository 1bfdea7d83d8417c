"""Several simulated gateways, with the live store between them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sim.arrivals import Arrival
from gateway.sim.figures import figures_of
from gateway.sim.fleet_figures import degraded_course, fleet_figures_of, fullest_backend
from gateway.sim.ledger import Fate, Ledger
from gateway.sim.scenario import FaultConfig, OutageConfig, Scenario, StoreConfig
from gateway.sim.world import run_gateway
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


def with_outages(*outages: OutageConfig, gateways: int = 3) -> Scenario:
    return Scenario(gateways=gateways, store=StoreConfig(outages=outages))


def peaks(ledger: Ledger) -> dict[str, tuple[int, int]]:
    """Most in flight, and limit."""
    return {
        id_: (backend["peak"], backend["limit"])
        for id_, backend in fleet_figures_of(ledger)["backends"].items()
    }


@given(
    st.integers(1, 6),
    st.sampled_from(["random", "round_robin"]),
    st.sampled_from([0.0, 0.0005, 0.02]),
    st.floats(4.0, 40.0),
    st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_no_limit_is_exceeded_while_the_store_is_well(gateways, spread, rtt_s, rate_per_s, seed):
    scenario = Scenario(gateways=gateways, spread=spread, store=StoreConfig(rtt_s=rtt_s))
    ledger = run_gateway(setting(bursts(200, rate_per_s, seed), scenario=scenario, seed=seed))
    assert [row.number for row in ledger.rows] == list(range(200))
    assert all(peak <= limit for peak, limit in peaks(ledger).values())
    assert all(endpoint.in_flight == 0 for endpoint in ledger.site.endpoints.values())
    assert fleet_figures_of(ledger)["degraded_s"] == 0


@pytest.mark.parametrize("hold", ["", "hold: {max_wait: 0s}\n"])
def test_one_gateway_decides_the_same_with_leases_as_with_a_store_of_its_own(hold):
    arrivals = bursts(1000, 4.0)
    alone = setting(arrivals, hold + THREE_TIERS)
    leased = setting(arrivals, hold + THREE_TIERS, Scenario(store=StoreConfig()))
    shares = [figures_of(run_gateway(run), run.scenario)["off_preferred_share"] for run in (alone, leased)]
    assert 0.02 < shares[0] < 0.6
    assert shares[1] == pytest.approx(shares[0], abs=0.01)


def test_a_spill_means_that_the_whole_fleet_had_no_slot():
    alone, fleet = setting(bursts(1500, 4.0)), setting(bursts(1500, 4.0), scenario=Scenario(gateways=3))
    ledger = run_gateway(fleet)
    ours = figures_of(ledger, fleet.scenario)
    one = figures_of(run_gateway(alone), alone.scenario)
    # Each predicts waits by its own pace, so fewer wait: some more spill than with one gateway.
    assert one["off_preferred_share"] <= ours["off_preferred_share"] < 1.5 * one["off_preferred_share"]
    told = fleet_figures_of(ledger)
    assert told["false_spills"] <= 0.02 * ours["spills"]["full"]
    assert fullest_backend(told)[1] == 4
    assert told["exchanges"] > 1500


def test_a_slot_freed_at_one_gateway_is_leased_for_who_waits_at_another():
    # By turns. Four make the pace known in both gateways; the first then runs both long answers, and the
    # second waits for the one that ends at 8.02.
    warm = answers(0.0, 0.1, 1.0, 1.1)
    long_ones = [Arrival(5.0, 0, 100), Arrival(5.01, 0, 0), Arrival(5.02, 0, 110)]
    scenario = Scenario(gateways=2, spread="round_robin")
    ledger = run_gateway(setting([*warm, *long_ones, *answers(7.9)], PRIMARY_OF_TWO, scenario))
    last = ledger.rows[-1]
    assert (last.why, last.endpoint.place.cluster) == (None, "here")
    begun_s = last.arrival.at_s + last.ttft_s - 0.05
    assert begun_s == pytest.approx(8.0205, abs=0.003)
    assert peaks(ledger)["here@a.example:1"] == (2, 2)


def test_who_is_cut_off_goes_on_with_a_share_of_each_limit():
    """All at once under overload: limit + (gateways - 1) at most, and some of it is left unused."""
    outage = OutageConfig(at_s=20.0, for_s=30.0)
    busy = setting(bursts(1300, 20.0), scenario=with_outages(outage))
    ledger = run_gateway(busy)
    told = fleet_figures_of(ledger)
    assert all(peak <= limit + 2 for peak, limit in peaks(ledger).values())
    # It is found out within a tick and a deadline, and ends with the first try after the end.
    assert told["degraded_s"] == pytest.approx(90.0, abs=6.0)
    assert told["false_spills"] > 0
    course = degraded_course(ledger)
    assert max(course) == pytest.approx(3.0)
    assert (course[10], course[-1]) == (0.0, 0.0)
    ends = [row for row in ledger.rows if 21.0 < row.arrival.at_s < 49.0]
    assert sum(row.fate is Fate.SERVED for row in ends) > 0.9 * len(ends), "requests keep flowing"


def test_one_alone_that_is_cut_off_costs_one_share_more_at_most():
    outage = OutageConfig(at_s=20.0, for_s=30.0, gateways=(2,))
    ledger = run_gateway(setting(bursts(1300, 20.0), scenario=with_outages(outage)))
    assert fleet_figures_of(ledger)["degraded_s"] == pytest.approx(30.0, abs=2.0)
    for peak, limit in peaks(ledger).values():
        assert peak <= limit + max(limit // 3, 1)


@pytest.mark.parametrize("for_s", [0.0, 5.0])
def test_a_store_that_forgets_is_told_anew_and_every_slot_comes_back(for_s):
    outage = OutageConfig(at_s=20.0, for_s=for_s, forgets=True)
    ledger = run_gateway(setting(bursts(900, 20.0), scenario=with_outages(outage)))
    told = fleet_figures_of(ledger)
    # Without an outage nobody is cut off, and the limit holds; else as for any outage.
    above = 2 if for_s else 0
    assert all(peak <= limit + above for peak, limit in peaks(ledger).values())
    assert told["degraded_s"] == pytest.approx(3 * for_s, abs=5.0 if for_s else 0.0)
    assert sum(row.fate is Fate.SERVED for row in ledger.rows) > 870
    assert all(endpoint.in_flight == 0 for endpoint in ledger.site.endpoints.values())


def test_a_circuit_that_opens_at_one_gateway_is_known_to_all(tmp_path):
    scenario = scenario_of("gateways: 3\nfaults: [{at: 10s, for: 20s, target: here, kind: crash}]", tmp_path)
    run = setting(bursts(600, 6.0), scenario=scenario)
    ledger = run_gateway(run)
    opened = [c for c in ledger.circuits if c.circuit == "open" and c.backend_id == "here@a.example:1"]
    first = opened[0]
    assert first.trigger == "consecutive"
    others = [c for c in opened if c.gateway != first.gateway and c.at_s < first.at_s + 0.1]
    assert {c.gateway for c in others} == {1, 2, 3} - {first.gateway}
    assert all(c.trigger == "told" for c in others)
    assert figures_of(ledger, scenario)["circuits_opened"] == sum(
        c.circuit == "open" and c.trigger != "told" for c in ledger.circuits
    )
    assert any(row.is_at_home for row in ledger.rows if row.arrival.at_s > 75.0), "a probe was leased"


def test_a_request_whose_time_is_over_while_the_store_is_asked_leaves_no_slot():
    config = "timeouts: {total: 1s}\nhold: {max_wait: 0s}\n" + THREE_TIERS
    far = Scenario(gateways=2, store=StoreConfig(rtt_s=0.09))
    ledger = run_gateway(setting(bursts(400, 30.0, output_tokens=20), config, far))
    assert max(row.ended_s - row.arrival.at_s for row in ledger.rows) <= 1.2
    assert all(endpoint.in_flight == 0 for endpoint in ledger.site.endpoints.values())


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    scenario = with_outages(OutageConfig(at_s=20.0, for_s=10.0))
    runs = [run_gateway(setting(bursts(600, 9.0), scenario=scenario, seed=seed)).rows for seed in (1, 1, 2)]
    decisions = [[(row.fate, row.ended_s, row.why, row.held_s) for row in rows] for rows in runs]
    assert decisions[0] == decisions[1] != decisions[2]


outages = st.lists(
    st.builds(
        OutageConfig,
        at_s=st.floats(0, 40),
        for_s=st.sampled_from([0.0, 0.03, 1.0, 20.0]),
        gateways=st.sampled_from([(), (1,), (2, 3)]),
        forgets=st.booleans(),
    ),
    max_size=3,
).map(tuple)
faults = st.lists(
    st.builds(
        FaultConfig,
        at_s=st.floats(0, 40),
        for_s=st.floats(0, 30),
        target=st.sampled_from(["here", "there", "here@a.example:1"]),
        kind=st.sampled_from(["crash", "preempt", "hang", "error", "slow"]),
    ),
    max_size=3,
).map(tuple)


@given(outages, faults, st.booleans(), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_whatever_goes_wrong_every_request_ends_once_and_every_slot_comes_back(outages, faults, hedges, seed):
    config = f"timeouts: {{first_byte: 3s, stall: 2s, total: 20s}}\n{THREE_TIERS}"
    if hedges:
        config = "hedge: {after: 300ms, budget: 0.2}\n" + config
    scenario = Scenario(gateways=3, store=StoreConfig(outages=outages), faults=faults)
    ledger = run_gateway(setting(bursts(120, 3.0, seed), config, scenario, seed))
    assert [row.number for row in ledger.rows] == list(range(120))
    assert max(row.ended_s - row.arrival.at_s for row in ledger.rows) <= 20.2
    assert all(endpoint.in_flight == 0 for endpoint in ledger.site.endpoints.values())
