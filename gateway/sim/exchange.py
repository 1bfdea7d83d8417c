"""One simulated request: the twin of proxy/exchange.py, asking the same Journey and LeaseSearch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.core.journey import Journey
from gateway.core.leasing import Done, Lease, LeaseSearch, Release, Step, Steps, TryLease, Wait
from gateway.core.model import (
    SUCCESS,
    Candidate,
    Outcome,
    Plan,
    PlanReason,
    Reason,
    RequestFacts,
    Shed,
    ShedReason,
)
from gateway.core.taxonomy import may_succeed_elsewhere, reason_of_status
from gateway.sim.arrivals import Arrival
from gateway.sim.attempt import Attempt
from gateway.sim.door import Entry
from gateway.sim.hedging import Hedge, hedge_of
from gateway.sim.ledger import Fate, Row

if TYPE_CHECKING:
    from gateway.sim.gateway import SimGateway

_FULL = (ShedReason.NO_CAPACITY, ShedReason.QUEUE_TIMEOUT)
# What English text comes to, as engines count tokens; the trace knows no bytes.
BYTES_PER_TOKEN = 4


class Exchange:
    """From the arrival to the end of the answer; the owner of its attempts."""

    __slots__ = (
        "_attempt",
        "_attempts",
        "_entry",
        "_failed",
        "_gateway",
        "_hedge",
        "_is_false_spill",
        "_left_room",
        "_preferred_tier",
        "_search",
        "_steps",
        "_ttft_s",
        "arrival",
        "is_over",
        "journey",
        "number",
    )

    def __init__(self, gateway: SimGateway, number: int, arrival: Arrival, entry: Entry) -> None:
        self._gateway = gateway
        self._entry = entry
        self.number = number
        self.arrival = arrival
        size = arrival.input_tokens * BYTES_PER_TOKEN
        facts = RequestFacts(arrival.model, gateway.draw(), True, size, entry.residency)
        deadline_s = gateway.now_s + gateway.config.timeouts.total_s
        self.journey = Journey(
            facts, gateway.fleet.view, gateway.extra, gateway.config.retry.attempts, deadline_s
        )
        self._attempt: Attempt | None = None
        self._attempts = 0
        self._hedge: Hedge | None = None
        self._failed: Reason | None = None
        self._preferred_tier = ""
        self._ttft_s: float | None = None
        self._left_room = self._is_false_spill = False
        self._steps: Steps[None]  # of the search for a slot
        self._search: asyncio.Task[None] | None = None  # which asks the store; done, the last one
        self.is_over = False

    # --- the way to a backend ------------------------------------------------------------------------

    def start(self) -> None:
        gateway = self._gateway
        plan = self.journey.plan_first(gateway.now_s)
        if isinstance(plan, Shed):
            self._refuse(plan.reason)
            return
        self._preferred_tier = plan.preferred_tier
        lease = gateway.waiting.lease_now(plan)
        if lease is not None:
            self._try(lease, None)
        else:
            self.seek(plan, None)

    def seek(self, plan: Plan | None, failed: Reason | None) -> None:
        """A slot for the first attempt, or elsewhere after one that `failed`; else what is left to do."""
        gateway = self._gateway
        search = LeaseSearch(self.journey, gateway.waiting.holding, gateway.hold)
        self._steps = search.steps(plan, failed, gateway.now_s)
        self._go_on(next(self._steps), failed)

    def woken(self, lease: Lease | None) -> None:
        """The wait is over: with a slot, or to be planned anew."""
        if not self.is_over:
            self._go_on(self._tell(lease), None)
        elif lease is not None:
            self._gateway.store.release(lease)

    def _tell(self, lease: Lease | None) -> Step:
        return self._steps.send((lease, self._gateway.now_s))

    def _go_on(self, step: Step, failed: Reason | None) -> None:
        plan = self._carry_out(step, failed)
        if plan is not None:
            self._search = self._gateway.carry(self._ask(plan, failed))

    async def _ask(self, plan: Plan | None, failed: Reason | None) -> None:
        while plan is not None:
            lease = await self._gateway.store.lease(plan)
            plan = self._carry_out(self._tell(lease), failed)

    def _carry_out(self, step: Step, failed: Reason | None) -> Plan | None:
        """Up to the next step for which the store is asked: by this plan. None: it waits, or it is done."""
        while isinstance(step, Release):
            self._gateway.store.release(step.lease)
            step = self._tell(None)
        match step:
            case TryLease(plan):
                return plan
            case Wait(waiter):
                self._gateway.waiting.wait(waiter, self.woken)
            case Done(found):
                self._found(found, failed)
        return None

    def _found(self, found: Lease | Shed | None, failed: Reason | None) -> None:
        gateway = self._gateway
        if isinstance(found, Lease):
            self._try(found, failed)
            return
        if isinstance(found, Shed):
            self._refuse(found.reason)
            return
        if self.journey.denied is not None:
            gateway.ledger.denied += 1
        if (reason := failed or self._failed) is not None:
            self._make_do(reason)
        else:
            is_hold_over = self.journey.is_hold_over(gateway.now_s)
            self._refuse(ShedReason.QUEUE_TIMEOUT if is_hold_over else ShedReason.NO_CAPACITY)

    def _try(self, lease: Lease, failed: Reason | None) -> None:
        gateway, before = self._gateway, self._attempt
        if before is None:
            gateway.extra.exchange_began(gateway.now_s)
            self._note_choice(lease.candidate)
        elif failed is not None:
            before.settle(Outcome.of(failed))
            self._failed = failed
            gateway.extra.retried(gateway.now_s)
            gateway.ledger.retries += 1
        self._attempt = attempt = self.new_attempt(lease)
        if before is None and gateway.config.hedge is not None:
            self._hedge = hedge_of(self, gateway, attempt)
        self.send(attempt)

    def _note_choice(self, candidate: Candidate) -> None:
        if candidate.tier != self._preferred_tier:
            gateway, residency = self._gateway, self._entry.residency
            self._left_room = gateway.ledger.has_room_at_home(self.arrival.model, residency)
            if candidate.reason is PlanReason.FULL:
                self._is_false_spill = gateway.has_missed_room(self.journey.facts, self._preferred_tier)

    def new_attempt(self, lease: Lease) -> Attempt:
        self._attempts += 1
        self.journey.tried += (lease.candidate,)
        return Attempt(self._gateway, self, lease, self.journey.facts.body_bytes)

    def send(self, attempt: Attempt) -> None:
        attempt.begin(self._gateway.config.timeouts.first_byte_for_s(self.journey.facts.body_bytes))

    # --- AttemptOwner --------------------------------------------------------------------------------

    def on_first_byte(self, attempt: Attempt, status: int) -> None:
        if status >= 400 and may_succeed_elsewhere(status):
            reason = reason_of_status(status)
            if self._hedge is not None and self._hedge.rival_of(attempt) is not None:
                self.on_attempt_ended(attempt, reason)
                return
            plan = self.journey.plan_retry(reason, self._gateway.now_s)
            if plan is not None:
                attempt.hold()
                self._try_elsewhere(attempt, reason, plan)
                return
            if self.journey.denied is not None:
                self._gateway.ledger.denied += 1
        self._commit(attempt)

    def on_attempt_ended(self, attempt: Attempt, reason: Reason) -> None:
        if not attempt.is_relayed:
            self._try_elsewhere(attempt, reason)
            return
        assert attempt.status is not None
        whole = SUCCESS if attempt.status < 400 else Outcome.of(reason_of_status(attempt.status))
        self._end(whole if reason is Reason.COMPLETED else Outcome.of(reason))

    def _try_elsewhere(self, attempt: Attempt, reason: Reason, plan: Plan | None = None) -> None:
        if self._hedge is not None and (rival := self._hedge.leave(attempt, reason)) is not None:
            self._attempt = rival
            return
        if not attempt.is_held:
            attempt.settle(Outcome.of(reason))
        self.seek(plan, reason)

    def _make_do(self, reason: Reason) -> None:
        """Nobody else may try: the client gets the held answer, or an error."""
        attempt = self._attempt
        if attempt is not None and attempt.is_held:
            self._commit(attempt)
            assert attempt.status is not None
            self._end(Outcome.of(reason_of_status(attempt.status)))
        else:
            self._end(Outcome.of(reason))

    def _commit(self, attempt: Attempt) -> None:
        if self._hedge is not None:
            self._hedge.win(attempt)
        self._attempt = attempt
        if attempt.status is not None and attempt.status < 400:
            self._ttft_s = self._gateway.now_s - self.arrival.at_s
        attempt.relay()

    # --- ends ----------------------------------------------------------------------------------------

    def check_deadline(self) -> None:
        """Called once `deadline_s` has passed."""
        if self._search is not None:
            self._search.cancel()  # it leaves no slot taken
        hold = self.journey.hold
        if hold is not None and hold.waiter is not None:
            self._gateway.waiting.leave(hold.waiter)
            hold.ended(self._gateway.now_s)
        if self._attempt is None:
            self._finish(Fate.FAILED, Reason.TOTAL_TIMEOUT)
        else:
            if self._hedge is not None:
                self._hedge.end(Outcome.of(Reason.OVERTAKEN))
            self._end(Outcome.of(Reason.TOTAL_TIMEOUT))

    def _refuse(self, reason: ShedReason) -> None:
        if reason in _FULL:
            self._is_false_spill = self._gateway.has_missed_room(self.journey.facts)
        self._finish(Fate.SHED, reason)

    def _end(self, outcome: Outcome) -> None:
        attempt = self._attempt
        assert attempt is not None
        attempt.settle(outcome)
        if self._hedge is not None:
            self._hedge.end(outcome)
            self._hedge = None
        if outcome is SUCCESS:
            candidate = attempt.candidate
            self._finish(Fate.SERVED, candidate.reason if candidate.tier != self._preferred_tier else None)
        else:
            self._finish(Fate.FAILED, outcome.reason)

    def _finish(self, fate: Fate, why: str | None) -> None:
        gateway, attempt, hold = self._gateway, self._attempt, self.journey.hold
        self.is_over = True
        self._entry.leave()
        row = Row(
            self.number,
            self.arrival,
            fate,
            gateway.now_s,
            self._ttft_s,
            attempt.endpoint if attempt is not None else None,
            self._preferred_tier,
            why,
            self._attempts,
            left_room=self._left_room,
            held_s=hold.held_s if hold is not None else 0.0,
            residency=self._entry.residency,
            is_false_spill=self._is_false_spill,
        )
        self._attempt = None
        gateway.ended(row)

    def __repr__(self) -> str:
        return f"<Exchange {self.number}, {self._attempt}>"
