"""The journey of one live request: what the core decides, with the proxy's refusals and the store's slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.journey import Journey
from gateway.core.model import Candidate, Plan, Reason, RequestFacts, Shed
from gateway.ports import Lease, RequestRecord, Retry
from gateway.proxy.errors import attempt_failed, shed
from gateway.proxy.spans import deadline_s

if TYPE_CHECKING:
    from gateway.proxy.headers import RequestHead
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.settings import PlaneSettings


class Route(Journey):
    """Where one request may go, until when, and what is asked before each attempt."""

    __slots__ = ("_plane", "_record", "is_own_deadline")

    def __init__(
        self, plane: DataPlane, settings: PlaneSettings, record: RequestRecord, facts: RequestFacts
    ) -> None:
        total_deadline_s = record.started_s + settings.timeouts.total_s
        super().__init__(facts, plane.view, plane.extra, settings.retry.attempts, total_deadline_s)
        self._plane = plane
        self._record = record
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
        self._record.passed_over = self._view.passed_over(self.facts.model, taken)

    # --- slots ---------------------------------------------------------------------------------------

    async def lease(self, plan: Plan | None, failed: Reason | None) -> Lease | None:
        """A lease for an attempt that may begin now. None when nobody may try. Raises Refusal."""
        plane = self._plane
        while not self.is_overtaken:
            if plan is None:
                anew = self.plan_anew(failed, plane.clock())
                plan = self._not_shed(anew) if anew is not None else None
            lease = await plane.store.lease(plan) if plan is not None else None
            if lease is None:
                return None
            if self.may_begin(lease.candidate, failed, plane.clock()):
                return lease
            plane.store.release(lease)
            plan = None
        return None
