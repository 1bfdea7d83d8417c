"""A second simulated attempt beside a first one without a byte: the twin of proxy/hedging.py (ADR 0020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Outcome, Reason
from gateway.core.retries import hedge_wait_s, plan_hedge
from gateway.sim.attempt import Attempt

if TYPE_CHECKING:
    from gateway.sim.exchange import Exchange
    from gateway.sim.gateway import SimGateway

_OVERTAKEN = Outcome.of(Reason.OVERTAKEN)


def hedge_of(exchange: Exchange, gateway: SimGateway, first: Attempt) -> Hedge | None:
    """The race that `first` may come to."""
    settings = gateway.config.hedge
    if settings is None or gateway.config.retry.attempts < 2:
        return None
    delay_s = hedge_wait_s(gateway.fleet.view, first.candidate, settings.after_s, first.began_s)
    if delay_s is None:
        return None
    hedge = Hedge(exchange, gateway, first)
    gateway.timeline.at(first.began_s + delay_s, hedge.begin)
    return hedge


class Hedge:
    """The race of one exchange."""

    __slots__ = ("_exchange", "_first", "_gateway", "_is_race", "_is_waiting", "_second")

    def __init__(self, exchange: Exchange, gateway: SimGateway, first: Attempt) -> None:
        self._exchange = exchange
        self._gateway = gateway
        self._first = first
        self._second: Attempt | None = None
        self._is_waiting, self._is_race = True, False

    def begin(self) -> None:
        """The first attempt has had its time."""
        gateway, exchange, now_s = self._gateway, self._exchange, self._gateway.now_s
        if not self._is_waiting:
            return
        self._is_waiting = False
        if not gateway.extra.may_hedge(now_s):
            return
        journey = exchange.journey
        plan = plan_hedge(
            journey.facts, gateway.fleet.view, self._first.candidate, now_s, journey.left_s(now_s)
        )
        lease = gateway.store.lease_now(plan) if plan is not None else None
        if lease is None:
            return
        gateway.extra.hedged(now_s)
        gateway.ledger.hedges += 1
        self._second = exchange.new_attempt(lease)
        self._is_race = True
        exchange.send(self._second)

    def rival_of(self, attempt: Attempt) -> Attempt | None:
        """Who runs beside it."""
        if not self._is_race:
            return None
        return self._first if attempt is self._second else self._second

    def leave(self, attempt: Attempt, reason: Reason) -> Attempt | None:
        """It failed: settled, if somebody runs beside it, who runs on alone and is returned."""
        self._is_waiting = False
        rival = self.rival_of(attempt)
        if rival is not None:
            self._is_race = False
            attempt.settle(Outcome.of(reason))
        return rival

    def win(self, attempt: Attempt) -> None:
        """Its answer goes to the client: who runs beside it is overtaken."""
        self._is_waiting = False
        rival = self.rival_of(attempt)
        if rival is not None:
            self._is_race = False
            rival.settle(_OVERTAKEN)

    def end(self, outcome: Outcome) -> None:
        self._is_waiting = False
        if self._is_race and self._second is not None:
            self._is_race = False
            self._second.settle(outcome)
