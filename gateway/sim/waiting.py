"""Simulated requests that wait for a slot: the twin of proxy/waiting_room.py, over the same Holding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.core.holding import Holding, Waiter
from gateway.core.leasing import may_take_at_once
from gateway.core.model import Plan
from gateway.ports import Lease, Want

if TYPE_CHECKING:
    from gateway.sim.gateway import SimGateway


class SimWaitingRoom:
    """All who wait in one simulated gateway. Whom it wakes goes on at the same instant, but not inside it."""

    def __init__(self, gateway: SimGateway) -> None:
        self._gateway = gateway
        self.holding = Holding(gateway.fleet.view)
        gateway.store.watch(self)

    def lease_now(self, plan: Plan) -> Lease | None:
        """As Route.lease_now has it."""
        gateway = self._gateway
        if self.holding.count:
            return None
        lease = gateway.store.lease_now(plan)
        if lease is None or may_take_at_once(lease.candidate, plan, gateway.hold):
            return lease
        gateway.store.release(lease)
        return None

    def wait(self, waiter: Waiter, woken: Callable[[Lease | None], None]) -> None:
        """For one that has joined: `woken` is called once, with its lease or to be planned anew."""
        waiter.woken = woken
        self._gateway.store.wants_changed()
        self._gateway.timeline.at(waiter.until_s, self._end_wait, waiter)

    def on_room(self, backend_id: str) -> None:
        """A slot has come free: it is leased for whoever is first."""
        holding, gateway = self.holding, self._gateway
        if not holding.count:
            return
        while (found := holding.next_for(backend_id)) is not None:
            waiter, seat = found
            lease = gateway.store.lease_now(Plan((seat,), seat.tier))
            if lease is None:
                return
            holding.leave(waiter, gateway.now_s, was_served=True)
            self._wake(waiter, lease)

    def wants(self) -> tuple[Want, ...]:
        """For the store: those of each queue."""
        return tuple(Want(*queue) for queue in self.holding.standing())

    def review(self) -> None:
        """Whose plan is another one since the fleet has changed is planned anew."""
        for waiter in self.holding.stale(self._gateway.now_s):
            self._wake(waiter, None)

    def leave(self, waiter: Waiter) -> None:
        self.holding.leave(waiter, self._gateway.now_s)

    def _end_wait(self, waiter: Waiter) -> None:
        # Those that are due at the same instant have timers of their own.
        if self.holding.leave(waiter, self._gateway.now_s):
            self._wake(waiter, None)

    def _wake(self, waiter: Waiter, lease: Lease | None) -> None:
        self._gateway.timeline.at(self._gateway.now_s, waiter.woken, lease)
