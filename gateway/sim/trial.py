"""The smallest real work there is, tried at a half-open backend that no request tries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import SUCCESS, Candidate, Outcome, Plan, PlanReason, Reason
from gateway.core.taxonomy import reason_of_status
from gateway.sim.arrivals import Arrival
from gateway.sim.attempt import Attempt

if TYPE_CHECKING:
    from gateway.sim.gateway import SimGateway

# SyntheticConfig's default.
TIMEOUT_S = 10.0


class Trial:
    """A completion of one token: an attempt like any other, for nobody's request."""

    def __init__(self, gateway: SimGateway, number: int) -> None:
        self._gateway = gateway
        self.number = number
        self.arrival = Arrival(gateway.now_s, 1, 1)

    @classmethod
    def begin(cls, gateway: SimGateway, backend_id: str, generation: int) -> None:
        """Begins one, if the fleet's one probe permit and a slot are to be had."""
        state = gateway.fleet.view.backends.get(backend_id)
        if state is None:
            return
        place = gateway.site.endpoints[backend_id].place
        seat = Candidate(
            state.backend, place.cluster, place.tier, PlanReason.PROBE, None, generation, is_probe=True
        )
        gateway.carry(cls._lease_and_try(gateway, Plan((seat,), place.tier)))

    @classmethod
    async def _lease_and_try(cls, gateway: SimGateway, plan: Plan) -> None:
        lease = await gateway.store.lease(plan)
        if lease is None:
            return
        if not gateway.fleet.view.admits(lease.candidate):
            gateway.store.release(lease)
            return
        trial = cls(gateway, -1 - len(gateway.ledger.circuits))
        Attempt(gateway, trial, lease, 0).begin(TIMEOUT_S)

    def on_first_byte(self, attempt: Attempt, status: int) -> None:
        attempt.relay()

    def on_attempt_ended(self, attempt: Attempt, reason: Reason) -> None:
        is_whole = reason is Reason.COMPLETED and attempt.status is not None
        if is_whole and attempt.status is not None:
            reason = Reason.COMPLETED if attempt.status < 400 else reason_of_status(attempt.status)
        attempt.settle(SUCCESS if reason is Reason.COMPLETED else Outcome.of(reason))
