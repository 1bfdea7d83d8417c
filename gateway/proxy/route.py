"""The journey of one live request: what the core decides, with the proxy's refusals and the store's slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gateway.core.journey import Journey
from gateway.core.leasing import Done, LeaseSearch, Release, TryLease, Wait, may_take_at_once
from gateway.core.model import Candidate, Plan, Reason, RequestFacts, Shed
from gateway.ports import Held, HoldOutcome, Lease, RequestRecord, Retry
from gateway.proxy.errors import attempt_failed, shed
from gateway.proxy.spans import deadline_s

if TYPE_CHECKING:
    from gateway.proxy.headers import RequestHead
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.settings import PlaneSettings

T = TypeVar("T")


class Route(Journey):
    """Where one request may go, until when, and what is asked before each attempt."""

    __slots__ = (
        "_plane",
        "_record",
        "_rules",
        "is_own_deadline",
    )

    def __init__(
        self, plane: DataPlane, settings: PlaneSettings, record: RequestRecord, facts: RequestFacts
    ) -> None:
        total_deadline_s = record.started_s + settings.timeouts.total_s
        # By name: `super()` makes an object for it.
        Journey.__init__(self, facts, plane.view, plane.extra, settings.retry.attempts, total_deadline_s)
        self._plane = plane
        self._record = record
        self._rules = settings.hold
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
        found = self.plan_first(now_s)
        return found if isinstance(found, Plan) else self._not_shed(found)

    def plan_retry(self, failed: Reason, now_s: float) -> Plan | None:
        """As Journey has it; what the budget denies stands in the record."""
        plan = super().plan_retry(failed, now_s)
        if self.denied is not None:
            self._record.denied_retry = Retry(self.tried[-1].cluster, self.denied)
        return plan

    def _not_shed(self, found: T | Shed) -> T:
        if isinstance(found, Shed):
            self.note_passed_over(None)
            raise shed(found.reason, self.facts.model)
        return found

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
        if lease is None or may_take_at_once(lease.candidate, plan, self._rules):
            return lease
        plane.store.release(lease)
        return None

    async def lease(self, plan: Plan | None, failed: Reason | None) -> Lease | None:
        """A lease for an attempt that may begin now. None when nobody may try. Raises Refusal."""
        lease = None
        try:
            lease = self._not_shed(await self._search(plan, failed))
        finally:
            self._note_hold(lease)
        return lease

    async def _search(self, plan: Plan | None, failed: Reason | None) -> Lease | Shed | None:
        plane, store = self._plane, self._plane.store
        steps = LeaseSearch(self, plane.holding, self._rules).steps(plan, failed, plane.clock())
        step = next(steps)
        while not isinstance(step, Done):
            lease = None
            match step:
                case TryLease():
                    lease = await store.lease(step.plan)
                case Wait():
                    lease = await plane.waiting.wait(step.waiter)
                case Release():
                    store.release(step.lease)
            step = steps.send((lease, plane.clock()))
        return step.found

    def stop_waiting(self) -> None:
        """The request is gone: so is its place in the queue, at once."""
        hold = self.hold
        if hold is None:
            return
        if (waiter := hold.waiter) is not None:
            hold.ended(self._plane.clock())
            self._plane.waiting.leave(waiter)
        if hold.held_s:
            self._record.held = Held(hold.tier, hold.held_s, "left")

    def _note_hold(self, lease: Lease | None) -> None:
        """The first word counts: who has left is not served any more."""
        hold = self.hold
        if hold is None or not hold.held_s or self._record.held is not None:
            return
        outcome: HoldOutcome = "timed_out"
        if lease is not None:
            outcome = "served" if lease.candidate.tier == hold.tier else "spilled"
        self._record.held = Held(hold.tier, hold.held_s, outcome)
