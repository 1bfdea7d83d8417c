"""Simulated requests that wait for a slot: the twin of proxy/waiting_room.py, over the same Holding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gateway.core.holding import Choice, Holding, Waiter, best_tier, waitable
from gateway.core.model import Candidate, Plan, Shed
from gateway.core.routing import plan_route
from gateway.ports import Lease, Want

if TYPE_CHECKING:
    from gateway.sim.exchange import Exchange
    from gateway.sim.gateway import SimGateway


class SimWaiter(Waiter):
    """`exchange.woken` is called once for each wait."""

    __slots__ = ("exchange", "is_wide")

    def __init__(
        self, candidates: Sequence[Candidate], until_s: float, exchange: Exchange, *, is_wide: bool
    ) -> None:
        super().__init__(candidates, until_s)
        self.exchange = exchange
        self.is_wide = is_wide


class SimWaitingRoom:
    """All who wait in one simulated gateway. Whom it wakes goes on at the same instant, but not inside it."""

    def __init__(self, gateway: SimGateway) -> None:
        self._gateway = gateway
        self.holding = Holding(gateway.fleet.view)
        self._seen_version = 0
        gateway.store.watch(self)

    def lease_now(self, plan: Plan) -> Lease | None:
        """As Route.lease_now has it."""
        gateway = self._gateway
        if self.holding.count:
            return None
        lease = gateway.store.lease_now(plan)
        if lease is None or gateway.hold is None or lease.candidate.tier == plan.candidates[0].tier:
            return lease
        gateway.store.release(lease)
        return None

    async def lease_or_wait(self, exchange: Exchange, plan: Plan) -> Lease | None:
        """As Route._lease_or_hold has it. None: nobody has room, or `exchange.is_waiting`."""
        gateway, rules = self._gateway, self._gateway.hold
        assert rules is not None
        best, rest = best_tier(plan)
        is_vain = exchange.is_hold_over and best[0].tier == exchange.hold_tier
        if not is_vain and (lease := await self._lease_unwanted(best)) is not None:
            return lease
        offered = await self._lease_unwanted(rest)
        now_s = gateway.now_s
        if exchange.hold_until_s is None:
            exchange.hold_until_s = min(now_s + rules.max_wait_s, exchange.journey.deadline_s)
        is_wide = offered is None
        wanted = plan.candidates if is_wide else best
        waiter = SimWaiter(wanted, exchange.hold_until_s, exchange, is_wide=is_wide)
        if exchange.is_hold_over or self.holding.choose(waiter, rules, now_s) is not Choice.HOLD:
            return offered
        if offered is not None:
            gateway.store.release(offered)
        exchange.waiter, exchange.hold_tier = waiter, best[0].tier
        self.holding.join(waiter, now_s)
        gateway.store.wants_changed()
        gateway.timeline.at(waiter.until_s, self._end_wait, waiter)
        return None

    async def _lease_unwanted(self, candidates: tuple[Candidate, ...]) -> Lease | None:
        unwanted = self.holding.unwanted(candidates)
        return await self._gateway.store.lease(Plan(unwanted, "")) if unwanted else None

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
        standing = [Want(tuple(sorted(ids)), n, since_s) for ids, n, since_s in self.holding.standing()]
        return tuple(sorted(standing, key=lambda want: want.since_s))

    def review(self) -> None:
        """Whose plan is another one since the fleet has changed is planned anew."""
        view, now_s = self._gateway.fleet.view, self._gateway.now_s
        if view.version == self._seen_version:
            return
        self._seen_version = view.version
        for waiter in self.holding.everybody():
            assert isinstance(waiter, SimWaiter)
            plan = plan_route(waiter.exchange.journey.facts, view, now_s)
            wanted: Sequence[Candidate] = ()
            if not isinstance(plan, Shed):
                wanted = plan.candidates if waiter.is_wide else best_tier(plan)[0]
            if _places(waiter.candidates) != _places(waitable(wanted)):
                self.holding.leave(waiter, now_s)
                self._wake(waiter, None)
        self.holding.forget_queues(now_s)

    def leave(self, waiter: SimWaiter) -> None:
        self.holding.leave(waiter, self._gateway.now_s)

    def _end_wait(self, waiter: SimWaiter) -> None:
        # Those that are due at the same instant have timers of their own.
        if self.holding.leave(waiter, self._gateway.now_s):
            self._wake(waiter, None)

    def _wake(self, waiter: Waiter, lease: Lease | None) -> None:
        assert isinstance(waiter, SimWaiter)
        gateway = self._gateway
        gateway.timeline.at(gateway.now_s, waiter.exchange.woken, lease)


def _places(candidates: Iterable[Candidate]) -> frozenset[tuple[str, int]]:
    return frozenset((candidate.backend.id, candidate.generation) for candidate in candidates)
