"""Where one request may go, until when, and what is asked before each attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Candidate, Plan, Reason, RequestFacts, Shed
from gateway.core.retries import may_move, plan_again
from gateway.core.routing import plan_route
from gateway.ports import Lease, RequestRecord, Retry
from gateway.proxy.errors import attempt_failed, shed
from gateway.proxy.spans import deadline_s

if TYPE_CHECKING:
    from gateway.proxy.headers import RequestHead
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.settings import PlaneSettings

# How often a plan may be overtaken by what happens while its request waits: circuits open, drains begin.
MAX_STALE_PLANS = 3


class Route:
    """The plans of one exchange: the first, and those after attempts that failed."""

    __slots__ = (
        "_plane",
        "_record",
        "_settings",
        "_stale_plans",
        "deadline_s",
        "facts",
        "is_own_deadline",
        "tried",
    )

    def __init__(
        self, plane: DataPlane, settings: PlaneSettings, record: RequestRecord, facts: RequestFacts
    ) -> None:
        self._settings = settings
        self._plane = plane
        self._record = record
        self.facts = facts
        self.tried: tuple[Candidate, ...] = ()
        self.deadline_s = record.started_s + settings.timeouts.total_s
        self.is_own_deadline = False  # the client's, not the gateway's
        self._stale_plans = 0

    def heed_deadline(self, head: RequestHead, now_s: float) -> None:
        """The client's own deadline counts if it is the earlier one. Raises Refusal."""
        own_s = deadline_s(head)
        if own_s is None or self._record.started_s + own_s >= self.deadline_s:
            return
        self.deadline_s = self._record.started_s + own_s
        self.is_own_deadline = True
        if now_s >= self.deadline_s:
            raise attempt_failed(Reason.CLIENT_LEFT)

    def left_s(self, now_s: float) -> float:
        """Until the deadline."""
        return self.deadline_s - now_s

    # --- plans ---------------------------------------------------------------------------------------

    def plan(self, now_s: float) -> Plan:
        """For the first attempt. Raises Refusal."""
        plan = plan_route(self.facts, self._plane.view, now_s)
        if isinstance(plan, Shed):
            raise shed(plan.reason, self.facts.model)
        return plan

    def plan_retry(self, failed: Reason, now_s: float) -> Plan | None:
        """After an attempt, the last of `tried`, that failed; None when nobody may or none can be paid."""
        plane, record = self._plane, self._record
        if not may_move(failed) or record.attempts >= self._settings.retry.attempts:
            return None
        plan = plan_again(self.facts, plane.view, self.tried, now_s, self.left_s(now_s))
        if plan is not None and not plane.extra.may_retry(now_s):
            record.denied_retry = Retry(self.tried[-1].cluster, failed)
            return None
        return plan

    def _plan_anew(self, failed: Reason | None) -> Plan | None:
        """In place of a plan that was overtaken, or after an attempt that `failed`. Raises Refusal."""
        now_s = self._plane.clock()
        if failed is not None:
            return self.plan_retry(failed, now_s)
        if not self.tried:
            return self.plan(now_s)
        return plan_again(self.facts, self._plane.view, self.tried, now_s, self.left_s(now_s))

    def take_back(self, candidate: Candidate) -> None:
        """Its attempt was begun and never sent: as if it had not been tried."""
        self.tried = tuple(tried for tried in self.tried if tried is not candidate)
        self._record.attempts -= 1
        self._stale_plans += 1

    # --- slots ---------------------------------------------------------------------------------------

    async def lease(self, plan: Plan | None, failed: Reason | None) -> Lease | None:
        """A lease for an attempt that may begin now. None when nobody may try. Raises Refusal."""
        plane = self._plane
        while self._stale_plans <= MAX_STALE_PLANS:
            if plan is None:
                plan = self._plan_anew(failed)
            lease = await plane.store.lease(plan) if plan is not None else None
            if lease is None:
                return None
            # What has changed while it waited: circuits, drains, and what others spent of the budget.
            is_paid = failed is None or plane.extra.may_retry(plane.clock())
            if is_paid and plane.view.admits(lease.candidate):
                return lease
            plane.store.release(lease)
            self._stale_plans += 1
            plan = None
        return None

    def __repr__(self) -> str:
        return f"<Route after {[candidate.backend.id for candidate in self.tried]}>"
