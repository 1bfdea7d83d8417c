"""The journey of one live request: what the core decides, with the proxy's refusals and the store's slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.holding import Choice, HoldRules, best_tier
from gateway.core.journey import Journey
from gateway.core.model import Candidate, Plan, Reason, RequestFacts, Shed
from gateway.ports import Held, HoldOutcome, Lease, RequestRecord, Retry
from gateway.proxy.errors import attempt_failed, shed
from gateway.proxy.spans import deadline_s
from gateway.proxy.waiting_room import LiveWaiter

if TYPE_CHECKING:
    from gateway.proxy.headers import RequestHead
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.settings import PlaneSettings


class Route(Journey):
    """Where one request may go, until when, and what is asked before each attempt."""

    __slots__ = (
        "_plane",
        "_record",
        "_rules",
        "_wait",
        "is_own_deadline",
    )

    def __init__(
        self, plane: DataPlane, settings: PlaneSettings, record: RequestRecord, facts: RequestFacts
    ) -> None:
        total_deadline_s = record.started_s + settings.timeouts.total_s
        super().__init__(facts, plane.view, plane.extra, settings.retry.attempts, total_deadline_s)
        self._plane = plane
        self._record = record
        self._rules = settings.hold
        self._wait: _Wait | None = None  # of those few that have thought of it
        self.is_own_deadline = False  # the client's, not the gateway's

    def heed_deadline(self, head: RequestHead, now_s: float) -> None:
        """The client's own deadline counts if it is the earlier one. Raises Refusal."""
        own_s = deadline_s(head)
        if own_s is None or self._record.started_s + own_s >= self.deadline_s:
            return
        self.deadline_s = self._record.started_s + own_s
        self.is_own_deadline = True
        if now_s >= self.deadline_s:
            raise attempt_failed(Reason.CLIENT_LEFT)

    # --- plans ---------------------------------------------------------------------------------------

    def plan(self, now_s: float) -> Plan:
        """For the first attempt. Raises Refusal."""
        return self._not_shed(self.plan_first(now_s))

    def plan_retry(self, failed: Reason, now_s: float) -> Plan | None:
        """As Journey has it; what the budget denies stands in the record."""
        plan = super().plan_retry(failed, now_s)
        if self.denied is not None:
            self._record.denied_retry = Retry(self.tried[-1].cluster, self.denied)
        return plan

    def _not_shed(self, plan: Plan | Shed) -> Plan:
        if isinstance(plan, Shed):
            self.note_passed_over(None)
            raise shed(plan.reason, self.facts.model)
        return plan

    def take_back(self, candidate: Candidate) -> None:
        super().take_back(candidate)
        self._record.attempts -= 1

    def note_passed_over(self, taken: Candidate | None) -> None:
        """At the moment of the first attempt, or when nobody may try: later nobody could tell why."""
        self._record.passed_over = self._view.passed_over(self.facts, taken)

    # --- slots ---------------------------------------------------------------------------------------

    def lease_now(self, plan: Plan) -> Lease | None:
        """A lease for the first attempt, if there is one that nobody waits for and none to wait for."""
        plane = self._plane
        if plane.holding.count:
            return None
        lease = plane.store.lease_now(plan)
        if lease is None or self._rules is None or lease.candidate.tier == plan.candidates[0].tier:
            return lease
        plane.store.release(lease)
        return None

    async def lease(self, plan: Plan | None, failed: Reason | None) -> Lease | None:
        """A lease for an attempt that may begin now. None when nobody may try. Raises Refusal."""
        lease = None
        try:
            lease = await self._lease(plan, failed)
        finally:
            self._note_hold(lease)
        return lease

    async def _lease(self, plan: Plan | None, failed: Reason | None) -> Lease | None:
        plane = self._plane
        while not self.is_overtaken:
            if plan is None:
                anew = self.plan_anew(failed, plane.clock())
                plan = self._not_shed(anew) if anew is not None else None
            if plan is None:
                return None
            if self._rules is not None and not self.tried:
                lease = await self._lease_or_hold(plan, self._rules)
            else:
                # A second attempt has waited enough: it takes what there is.
                lease = await plane.store.lease(plan)
            if lease is None:
                return None
            if self.may_begin(lease.candidate, failed, plane.clock()):
                return lease
            plane.store.release(lease)
            plan = None
        return None

    # --- waiting for a slot --------------------------------------------------------------------------

    async def _lease_or_hold(self, plan: Plan, rules: HoldRules) -> Lease | None:
        """The first attempt's: of the best tier, at once or after a wait; else what there is. Raises Refusal.

        Where a lower tier has room, the wait is for the best one; where nobody has, for any.
        """
        plane, room = self._plane, self._plane.waiting
        while True:
            best, rest = best_tier(plan)
            # Not once more where it has waited in vain. Another tier may be the best by now.
            is_vain = self.is_hold_over and self._wait is not None and best[0].tier == self._wait.tier
            if not is_vain and (lease := await self._lease_unwanted(best)) is not None:
                return lease
            offered = await self._lease_unwanted(rest)
            now_s = plane.clock()
            if self._wait is None:
                self._wait = _Wait(min(now_s + rules.max_wait_s, self.deadline_s))
            wait, is_wide = self._wait, offered is None
            wanted = plan.candidates if is_wide else best
            waiter = LiveWaiter(wanted, wait.until_s, self.facts, is_wide=is_wide)
            if self.is_hold_over or room.holding.choose(waiter, rules, now_s) is not Choice.HOLD:
                return offered
            if offered is not None:
                plane.store.release(offered)
            wait.waiter, wait.tier = waiter, best[0].tier
            lease = await room.wait(waiter)
            wait.ended(plane.clock())
            if lease is not None:
                return lease
            plan = self._not_shed(self.plan_first(plane.clock()))

    async def _lease_unwanted(self, candidates: tuple[Candidate, ...]) -> Lease | None:
        """No slot is taken past those who wait for it."""
        unwanted = self._plane.holding.unwanted(candidates)
        return await self._plane.store.lease(Plan(unwanted, "")) if unwanted else None

    @property
    def is_hold_over(self) -> bool:
        """It has waited as long as it may."""
        return self._wait is not None and self._plane.clock() >= self._wait.until_s

    def stop_waiting(self) -> None:
        """The request is gone: so is its place in the queue, at once."""
        wait = self._wait
        if wait is None:
            return
        if (waiter := wait.waiter) is not None:
            wait.ended(self._plane.clock())
            self._plane.waiting.leave(waiter)
        if wait.held_s:
            self._record.held = Held(wait.tier, wait.held_s, "left")

    def _note_hold(self, lease: Lease | None) -> None:
        """The first word counts: who has left is not served any more."""
        wait = self._wait
        if wait is None or not wait.held_s or self._record.held is not None:
            return
        outcome: HoldOutcome = "timed_out"
        if lease is not None:
            outcome = "served" if lease.candidate.tier == wait.tier else "spilled"
        self._record.held = Held(wait.tier, wait.held_s, outcome)


class _Wait:
    """All waits of one request: how long they may last and have, and the tier that the last one was for."""

    __slots__ = ("held_s", "tier", "until_s", "waiter")

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.tier = ""
        self.waiter: LiveWaiter | None = None
        self.held_s = 0.0

    def ended(self, now_s: float) -> None:
        waiter, self.waiter = self.waiter, None
        assert waiter is not None
        self.held_s += max(now_s - waiter.since_s, 0.0)
