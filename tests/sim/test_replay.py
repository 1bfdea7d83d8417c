"""Live and simulated decide the same: a recorded run replayed, and the same arrivals in both."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.fleet import Drained, ReportCircuit, SetLimits, Undrained
from gateway.core.holding import Choice
from gateway.core.model import Plan, Shed
from gateway.mock_engine.faults import Fault, FaultKind
from gateway.ports import Lease
from gateway.sim.gateway import SimGateway
from gateway.sim.ledger import Fate
from gateway.sim.world import Setting, run_gateway
from tests.sim.live_run import SAME_ENGINE, run_live
from tests.sim.recording import Replay
from tests.sim.settings import bursts, scenario_of

FLEET = """
clusters:
  - {{name: here, limit: 4, backends: ['{0}', '{1}']}}
  - {{name: near, limit: 2, backends: ['{2}'], tier: backup}}
  - {{name: spot, limit: 1, backends: ['{3}'], tier: spot}}
"""
NOBODY_WAITS = "hold: {{max_wait: 0s}}\n"


def trace(count: int, rate_per_s: float):
    """At multiples of 2**-20 s."""
    return [
        a._replace(at_s=round(a.at_s * 2**20) / 2**20, model="m")
        for a in bursts(count, rate_per_s, seed=5, output_tokens=9)
    ]


async def trouble(gateway, engines) -> None:
    """An engine that fails until its circuit opens, one that hangs, and a drain."""
    at_s = asyncio.get_running_loop().time
    await asyncio.sleep(3.0 - at_s())
    engines[0].faults.replace([Fault(FaultKind.ERROR, status=500)])
    engines[1].faults.replace([Fault(FaultKind.HANG_BEFORE_HEAD, probability=0.1)])
    await asyncio.sleep(2.5)
    engines[0].faults.replace([])
    gateway.apply(Drained("near"))
    await asyncio.sleep(3.0)
    gateway.apply(Undrained("near"))


def test_a_recorded_live_run_replayed_gives_the_identical_sequence_of_decisions():
    run = run_live("timeouts: {{first_byte: 3s}}\n" + FLEET, trace(120, 8.0), trouble)
    replayed = Replay(run.config).run(run.recording)
    assert replayed == run.recording.results
    # And there was something to decide.
    plans = run.recording.of("plan_route")
    assert sum(isinstance(plan, Plan) for plan in plans) > 120
    assert {lease.candidate.tier for lease in run.recording.of("lease_now") if isinstance(lease, Lease)} == {
        "primary",
        "backup",
        "spot",
    }
    assert {Choice.HOLD, Choice.TOO_LONG} <= set(run.recording.of("choose"))
    effects = [effect for told in run.recording.of("apply") for effect in told]
    assert {e.circuit.value for e in effects if isinstance(e, ReportCircuit)} >= {"open", "closed"}
    assert len([e for e in effects if isinstance(e, SetLimits)]) > 2
    assert True in run.recording.of("may_retry")
    assert not any(isinstance(plan, Shed) for plan in plans)


def test_a_replay_without_one_of_the_events_is_another_sequence():
    run = run_live(FLEET, trace(30, 7.0))
    at = next(i for i, c in enumerate(run.recording.calls) if c.method == "apply" and i > 5)
    while type(run.recording.calls[at].args[0]).__name__ != "AttemptStarted":
        at += 1
    del run.recording.calls[at], run.recording.results[at]
    with pytest.raises(AssertionError):  # an attempt ends that has not begun
        assert Replay(run.config).run(run.recording) == run.recording.results


@pytest.mark.parametrize("hold", ["", NOBODY_WAITS])
def test_the_same_arrivals_live_and_simulated_go_the_same_ways(hold, tmp_path, monkeypatch):
    arrivals = trace(120, 8.0)
    run = run_live(hold + FLEET, arrivals)

    class SameDraws(SimGateway):
        """A draw is the gateway's own, so it is told which ones the live one had."""

        drawn = None

        def arrive(self, number, arrival) -> None:
            self.drawn = run.draws[number]
            super().arrive(number, arrival)

        def draw(self) -> int:
            drawn, self.drawn = self.drawn, None
            return super().draw() if drawn is None else drawn

    monkeypatch.setattr("gateway.sim.world.SimGateway", SameDraws)
    scenario = scenario_of(SAME_ENGINE, tmp_path)
    ledger = run_gateway(Setting(run.config, scenario, arrivals))
    simulated = [decision_of_row(row) for row in ledger.rows]
    live = [decision_of_record(record) for record in run.records]
    assert simulated == live
    # And they went all the ways there are.
    ways = {decision if isinstance(decision, str) else decision[1] for decision in live}
    assert ways >= {"primary", "backup", "spot", "no_capacity"}
    held = [record.held is not None for record in run.records]
    assert held == [row.held_s > 0 for row in ledger.rows]
    assert any(held) is (hold == "")


def decision_of_row(row):
    if row.fate is Fate.SHED:
        return row.why
    return row.endpoint.place.cluster, row.endpoint.place.tier, row.endpoint.id, row.why


def decision_of_record(record):
    if record.status != 200:
        return record.error_code
    return record.cluster, record.tier, record.backend, record.spill_reason
