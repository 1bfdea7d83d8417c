"""What a gateway under test tells its fleet, and tells of it."""

from __future__ import annotations

from gateway.core.breaker import Circuit
from gateway.core.fleet import AttemptFinished, AttemptStarted
from gateway.core.model import Outcome, Reason


def listen(gateway) -> list:
    """What the fleet is told from now on."""
    told = []
    apply = gateway.plane.apply

    def apply_and_note(event) -> None:
        told.append(event)
        apply(event)

    gateway.plane.apply = apply_and_note
    return told


def ends(told) -> list[AttemptFinished]:
    return [event for event in told if isinstance(event, AttemptFinished)]


def circuit_of(gateway, backend) -> Circuit:
    (state,) = [s for s in gateway.plane.view.backends.values() if str(backend.port) in s.id]
    return state.circuit


def trip(gateway, backend_id: str) -> None:
    """Five drops in a row, as the fleet hears of them."""
    for _ in range(5):
        gateway.gateway.apply(AttemptStarted(backend_id))
        gateway.gateway.apply(AttemptFinished(backend_id, Outcome.of(Reason.RESET)))
