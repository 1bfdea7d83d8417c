"""A half-open circuit is tried with one completion of one token, and only its answer closes the circuit."""

from __future__ import annotations

import pytest

from gateway.config.fleet import clusters_of
from gateway.core.breaker import BreakerSettings, Circuit
from gateway.core.fleet import AttemptFinished, AttemptStarted, FleetConfigured, SendSyntheticProbe, Ticked
from gateway.core.model import Candidate, Outcome, Plan, PlanReason, Reason
from gateway.health.targets import targets_of
from tests.health.asking import Asked, config_of
from tests.proxy.dialogue import HANG, ScriptedBackend, reply

GOOD = reply(b'{"choices":[{"text":"t0"}]}')
MODELS = reply(b'{"object":"list","data":[{"id":"its-own"}]}')


class Trial:
    """A backend whose circuit hung attempts have opened; time goes on when it is told to."""

    def __init__(self, asked: Asked, backend: ScriptedBackend) -> None:
        self.asked, self.backend = asked, backend
        config = config_of(backend)
        settings = BreakerSettings(consecutive=1, slow_start_s=0)
        asked.apply(FleetConfigured(clusters_of(config), config.tiers, "weight", settings))
        asked.checks.follow(targets_of(config))
        self.state = asked.state(backend)
        asked.apply(AttemptStarted(self.state.id))
        asked.apply(AttemptFinished(self.state.id, Outcome.of(Reason.FIRST_BYTE_TIMEOUT), elapsed_s=1.0))
        assert self.state.circuit is Circuit.OPEN

    def send(self) -> SendSyntheticProbe:
        """What the core asks for when the open time is over."""
        opened_until_s = self.state.breaker.until_s
        effects = self.asked.fleet.apply(Ticked(), opened_until_s)
        (wanted,) = [effect for effect in effects if isinstance(effect, SendSyntheticProbe)]
        self.asked.checks.try_half_open(wanted.backend_id, wanted.generation)
        return wanted


@pytest.fixture
async def trial(asked, start_backend):
    backend = await start_backend()
    backend.default = [GOOD]
    return Trial(asked, backend)


async def test_a_good_answer_closes_the_circuit(trial):
    trial.backend.will(MODELS)
    trial.send()
    await trial.asked.until(lambda: trial.state.circuit is Circuit.CLOSED)
    assert [request.target for request in trial.backend.requests] == ["/v1/models", "/v1/completions"]
    assert trial.state.in_flight == trial.asked.store.leases_held(trial.state.id) == 0


async def test_a_bad_answer_opens_it_again_for_longer(trial):
    trial.backend.default = [reply(status="500 Internal Server Error")]
    trial.send()
    await trial.asked.until(lambda: trial.state.circuit is Circuit.OPEN)
    assert trial.state.breaker.opening.streak == 2
    assert trial.asked.store.leases_held(trial.state.id) == 0


async def test_while_somebody_else_tries_nothing_is_sent(trial):
    wanted = trial.asked.fleet.apply(Ticked(), trial.state.breaker.until_s)
    (probe,) = [effect for effect in wanted if isinstance(effect, SendSyntheticProbe)]
    seat = Candidate(
        trial.state.backend, "here", "primary", PlanReason.PROBE, generation=probe.generation, is_probe=True
    )
    lease = trial.asked.store.lease_now(Plan((seat,), "primary"))
    trial.asked.checks.try_half_open(probe.backend_id, probe.generation)
    await trial.asked.until(lambda: not trial.asked.checks._trials)
    assert trial.backend.requests == []
    trial.asked.store.release(lease)


async def test_ended_while_it_waits_it_holds_nothing(trial):
    trial.backend.default = [HANG]
    trial.send()
    await trial.asked.until(lambda: trial.backend.requests)
    assert trial.asked.store.leases_held(trial.state.id) == 1
    await trial.asked.checks.stop()
    assert trial.state.in_flight == trial.asked.store.leases_held(trial.state.id) == 0
    assert trial.state.circuit is Circuit.HALF_OPEN, "that says nothing about the backend"
