"""A second attempt beside a first one that gives no byte: when it begins, and how the two end (ADR 0020).

One timer for each exchange that may be hedged: the sweep looks five times too seldom. The second attempt
takes a slot only if this gateway has one at hand. The first good byte wins; whoever fails before that leaves
the race, and the other one runs on alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway.core.model import Candidate, Outcome, Reason
from gateway.core.retries import hedge_wait_s, may_succeed_elsewhere, plan_hedge
from gateway.ports import Hedged, HedgeOutcome
from gateway.proxy.attempt import Attempt

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.plane import DataPlane

log = logging.getLogger(__name__)

_OVERTAKEN = Outcome.of(Reason.OVERTAKEN)


def hedge_of(exchange: Exchange, plane: DataPlane, first: Attempt) -> Hedge | None:
    """The race that `first` may come to; None when there is nobody to race with, or too little is known."""
    settings = exchange.settings
    if settings.hedge is None or settings.retry.attempts < 2:
        return None
    delay_s = hedge_wait_s(plane.view, first.candidate, settings.hedge.after_s, first.began_s)
    return None if delay_s is None else Hedge(exchange, plane, first, delay_s)


class Hedge:
    """The race of one exchange: a timer, then two attempts, then one.

    It knows its exchange until `end`: a ring of the two would wait for the collector.
    """

    __slots__ = ("_exchange", "_first", "_is_race", "_plane", "_second", "_timer")

    def __init__(self, exchange: Exchange, plane: DataPlane, first: Attempt, delay_s: float) -> None:
        self._plane = plane
        self._exchange: Exchange | None = exchange
        self._first = first
        self._second: Attempt | None = None
        self._is_race = False
        self._timer: asyncio.TimerHandle | None = plane.loop.call_later(delay_s, self._begin)

    def _begin(self) -> None:
        """The first attempt has had its time. Nothing happens unless all says that a second is welcome."""
        self._timer = None
        plane, exchange, first = self._plane, self._exchange, self._first
        if exchange is None or plane.is_draining:
            return
        now_s = plane.clock()
        if not plane.extra.may_hedge(now_s):
            return
        try:
            route = exchange.route
            plan = plan_hedge(route.facts, plane.view, first.candidate, now_s, route.left_s(now_s))
            lease = plane.store.lease_now(plan) if plan is not None else None
            if lease is None:
                return
            plane.extra.hedged(now_s)
            self._second = second = exchange.new_attempt(lease, now_s)
            self._is_race = True
            self._note("lost", second.candidate)  # until it is known better
            exchange.send(second)
        except Exception:
            log.exception("the hedge of exchange %s failed", exchange.record.request_id)
            exchange.on_attempt_fault(first)

    def rival_of(self, attempt: Attempt) -> Attempt | None:
        """Who runs beside it."""
        if not self._is_race:
            return None
        return self._first if attempt is self._second else self._second

    def leave(self, attempt: Attempt, reason: Reason) -> Attempt | None:
        """It failed: settled, if somebody runs beside it, who runs on alone and is returned."""
        self._cancel()
        if attempt is self._second:
            self._note("failed", attempt.candidate)
        return self._settle(self.rival_of(attempt), attempt, Outcome.of(reason))

    def win(self, attempt: Attempt) -> Attempt | None:
        """Its answer goes to the client: who runs beside it is overtaken, settled and returned."""
        self._cancel()
        head = attempt.answer_head
        if attempt is self._second and head is not None:
            self._note("failed" if may_succeed_elsewhere(head.status) else "won", attempt.candidate)
        rival = self.rival_of(attempt)
        return self._settle(rival, rival, _OVERTAKEN)

    def check(self, now_s: float) -> None:
        """Deadlines of the second attempt while it runs beside the first."""
        if self._is_race and self._second is not None:
            self._second.check(now_s)

    def end(self, outcome: Outcome) -> None:
        """The exchange has come to its end, or is not to be hedged any more."""
        self._cancel()
        if self._is_race:
            self._settle(None, self._second, outcome)
        self._exchange = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _settle(self, other: Attempt | None, leaving: Attempt | None, outcome: Outcome) -> Attempt | None:
        """One of two leaves the race, and there is none any more; `other` is passed on."""
        if self._is_race and leaving is not None:
            self._is_race = False
            leaving.settle(outcome)
        return other

    def _note(self, outcome: HedgeOutcome, candidate: Candidate) -> None:
        if self._exchange is not None:
            self._exchange.record.hedge = Hedged(candidate.cluster, outcome)

    def __repr__(self) -> str:
        stage = "waiting" if self._timer is not None else "racing" if self._is_race else "over"
        return f"<Hedge {stage}, {self._second}>"
