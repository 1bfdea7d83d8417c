"""Requests that wait for a slot: the live driver of core/holding.py.

A slot that comes free is leased, inside the very call that frees it, for the one who is first; its coroutine
goes on in the next turn of the loop. So nobody takes a slot past the queue, and one slot wakes one request.
"""

from __future__ import annotations

import asyncio

from gateway.core.fleet import FleetView
from gateway.core.holding import Holding, Waiter
from gateway.core.model import Plan
from gateway.ports import Clock, Lease, StateStore, Want


class WaitingRoom:
    """All who wait in this gateway, and the one timer for the ends of their waits."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, view: FleetView, store: StateStore, clock: Clock
    ) -> None:
        self._loop = loop
        self._store = store
        self._clock = clock
        self.holding = Holding(view)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = float("inf")
        store.watch(self)

    async def wait(self, waiter: Waiter) -> Lease | None:
        """For one that has joined. None: its time is over, or its plan is. Cancelled, it leaves nothing."""
        woken: asyncio.Future[Lease | None] = self._loop.create_future()
        waiter.woken = woken
        self._store.wants_changed()
        self._set_timer(waiter.until_s)
        try:
            return await woken
        except asyncio.CancelledError:
            self.leave(waiter)
            raise

    def leave(self, waiter: Waiter) -> None:
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
            holding.leave(waiter, self._clock(), was_served=True)
            waiter.woken.set_result(lease)

    def wants(self) -> list[Want]:
        """For the store: those of each queue."""
        return [Want(*queue) for queue in self.holding.standing()] if self.holding.count else []

    def review(self) -> None:
        """To be called when the fleet may have changed: whose plan is another one now is planned anew."""
        for waiter in self.holding.stale(self._clock()):
            waiter.woken.set_result(None)

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
            waiter.woken.set_result(None)
        if (due_s := self.holding.next_due_s) is not None:
            self._set_timer(due_s)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<WaitingRoom {self.holding!r}>"
