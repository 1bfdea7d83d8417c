"""Requests that wait for a slot: the live driver of core/holding.py.

A slot that comes free is leased, inside the very call that frees it, for the one who is first; its coroutine
goes on in the next turn of the loop. So nobody takes a slot past the queue, and one slot wakes one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from gateway.core.constraints import Residency
from gateway.core.fleet import FleetView
from gateway.core.holding import Holding, Waiter, best_tier, waitable
from gateway.core.model import Candidate, Plan, RequestFacts, Shed
from gateway.core.routing import plan_route
from gateway.ports import Clock, Lease, StateStore, Want

Woken = asyncio.Future[Lease | None]


class LiveWaiter(Waiter):
    """`woken` gives the lease, or None when the time is over or the plan is."""

    __slots__ = ("facts", "is_wide", "woken")

    def __init__(
        self, candidates: Sequence[Candidate], until_s: float, facts: RequestFacts, *, is_wide: bool
    ) -> None:
        super().__init__(candidates, until_s)
        self.facts = facts
        self.is_wide = is_wide  # for a slot of any tier
        self.woken: Woken


class WaitingRoom:
    """All who wait in this gateway, and the one timer for the ends of their waits."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, view: FleetView, store: StateStore, clock: Clock
    ) -> None:
        self._loop = loop
        self._view = view
        self._store = store
        self._clock = clock
        self.holding = Holding(view)
        self._seen_version = view.version
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = float("inf")
        store.watch(self)

    async def wait(self, waiter: LiveWaiter) -> Lease | None:
        """A lease, or None: its time is over, or it should be planned anew. Cancelled, it leaves nothing."""
        waiter.woken = self._loop.create_future()
        self.holding.join(waiter, self._clock())
        self._store.wants_changed()
        self._set_timer(waiter.until_s)
        try:
            return await waiter.woken
        except asyncio.CancelledError:
            self.leave(waiter)
            raise

    def leave(self, waiter: LiveWaiter) -> None:
        """It is gone at once, and what it was given is the next one's. Twice is the same as once."""
        self.holding.leave(waiter, self._clock())
        if waiter.woken.done() and not waiter.woken.cancelled():
            lease = waiter.woken.result()
            if lease is not None:
                self._store.release(lease)

    def on_room(self, backend_id: str) -> None:
        """The store has slots of this backend: each is leased for whoever is first."""
        holding = self.holding
        if not holding.count:
            return
        while (found := holding.next_for(backend_id)) is not None:
            waiter, seat = found
            lease = self._store.lease_now(Plan((seat,), seat.tier))
            if lease is None:
                return
            assert isinstance(waiter, LiveWaiter)
            holding.leave(waiter, self._clock(), was_served=True)
            waiter.woken.set_result(lease)

    def wants(self) -> list[Want]:
        """For the store: those of each queue."""
        if not self.holding.count:
            return []
        standing = [Want(tuple(ids), count, since_s) for ids, count, since_s in self.holding.standing()]
        return sorted(standing, key=lambda want: want.since_s)

    def review(self) -> None:
        """To be called when the fleet may have changed: whose plan is another one now is planned anew."""
        if self._view.version == self._seen_version:
            return
        self._seen_version = self._view.version
        now_s = self._clock()
        known: dict[tuple[str | None, Residency, bool], frozenset[tuple[str, int]]] = {}
        for waiter in self.holding.everybody():
            assert isinstance(waiter, LiveWaiter)
            key = (waiter.facts.model, waiter.facts.residency, waiter.is_wide)
            if key not in known:
                known[key] = self._places_now(waiter, now_s)
            if _places(waiter.candidates) != known[key]:
                self.holding.leave(waiter, now_s)
                waiter.woken.set_result(None)
        self.holding.forget_queues(now_s)

    def _places_now(self, waiter: LiveWaiter, now_s: float) -> frozenset[tuple[str, int]]:
        plan = plan_route(waiter.facts, self._view, now_s)
        if isinstance(plan, Shed):
            return frozenset()
        return _places(waitable(plan.candidates if waiter.is_wide else best_tier(plan)[0]))

    # --- the ends of waits ---------------------------------------------------------------------------

    def _set_timer(self, due_s: float) -> None:
        """One timer, for the first end. It is not moved when that waiter is served before."""
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._loop.call_later(max(due_s - self._clock(), 0.0), self._end_waits)

    def _end_waits(self) -> None:
        self._timer = None
        for waiter in self.holding.due(self._clock()):
            assert isinstance(waiter, LiveWaiter)
            waiter.woken.set_result(None)
        if (due_s := self.holding.next_due_s) is not None:
            self._set_timer(due_s)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<WaitingRoom {self.holding!r}>"


def _places(candidates: Iterable[Candidate]) -> frozenset[tuple[str, int]]:
    return frozenset((candidate.backend.id, candidate.generation) for candidate in candidates)
