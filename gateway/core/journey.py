"""Where one request may go, attempt by attempt: the decisions between its arrival and its last try.

The live gateway and the simulator each carry requests in their own way; both ask here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Candidate, Outcome, Plan, Reason, RequestFacts, Shed
from gateway.core.retries import ExtraAttempts, plan_again
from gateway.core.routing import plan_route
from gateway.core.taxonomy import may_move, reason_of_status

if TYPE_CHECKING:
    from gateway.core.holding import Hold
    from gateway.core.view import FleetView

# How often a plan may be overtaken by what happens while its request waits: circuits open, drains begin.
MAX_STALE_PLANS = 3


class Journey:
    """The plans of one exchange: the first, and those after attempts that failed.

    `tried` is kept by the driver: one entry for each attempt that begins, hedges too. `denied`: the last
    `plan_retry` found a place for another attempt after one that failed so, and that it can't be paid.
    `hold`: of those few that have thought of waiting for a slot.
    """

    __slots__ = (
        "_extra",
        "_max_attempts",
        "_stale_plans",
        "_view",
        "deadline_s",
        "denied",
        "facts",
        "hold",
        "tried",
    )

    def __init__(
        self,
        facts: RequestFacts,
        view: FleetView,
        extra: ExtraAttempts,
        max_attempts: int,
        deadline_s: float,
    ) -> None:
        self.facts = facts
        self._view = view
        self._extra = extra
        self._max_attempts = max_attempts
        self.deadline_s = deadline_s
        self.tried: tuple[Candidate, ...] = ()
        self.denied: Reason | None = None
        self.hold: Hold | None = None
        self._stale_plans = 0

    def left_s(self, now_s: float) -> float:
        """Until the deadline."""
        return self.deadline_s - now_s

    def plan_first(self, now_s: float) -> Plan | Shed:
        return plan_route(self.facts, self._view, now_s)

    def plan_retry(self, failed: Reason, now_s: float) -> Plan | None:
        """After an attempt, the last of `tried`, that failed; None when nobody may or none can be paid."""
        self.denied = None
        if not may_move(failed) or len(self.tried) >= self._max_attempts:
            return None
        plan = plan_again(self.facts, self._view, self.tried, now_s, self.left_s(now_s))
        if plan is not None and not self._extra.may_retry(now_s):
            self.denied = failed
            return None
        return plan

    def plan_anew(self, failed: Reason | None, now_s: float) -> Plan | Shed | None:
        """In place of a plan that was overtaken, or after an attempt that `failed`."""
        if failed is not None:
            return self.plan_retry(failed, now_s)
        if not self.tried:
            return self.plan_first(now_s)
        return plan_again(self.facts, self._view, self.tried, now_s, self.left_s(now_s))

    def may_begin(self, candidate: Candidate, failed: Reason | None, now_s: float) -> bool:
        """Whether an attempt for which there is a slot now may begin; if not, its plan is stale.

        What may have changed while it waited: circuits, drains, and what others spent of the budget.
        """
        is_paid = failed is None or self._extra.may_retry(now_s)
        if is_paid and self._view.admits(candidate):
            return True
        self._stale_plans += 1
        return False

    @property
    def is_overtaken(self) -> bool:
        """Its plans have been stale too often to make another."""
        return self._stale_plans > MAX_STALE_PLANS

    def is_hold_over(self, now_s: float) -> bool:
        """It has waited as long as it may."""
        return self.hold is not None and self.hold.is_over(now_s)

    def take_back(self, candidate: Candidate) -> None:
        """Its attempt was begun and never sent: as if it had not been tried."""
        self.tried = tuple(tried for tried in self.tried if tried is not candidate)
        self._stale_plans += 1

    def __repr__(self) -> str:
        return f"<Journey after {[candidate.backend.id for candidate in self.tried]}>"


def waited_in_vain_s(
    outcome: Outcome, status: int | None, began_s: float, answered_s: float | None, now_s: float
) -> float | None:
    """How long an attempt that began at `began_s` brought no good byte, for AttemptFinished.elapsed_s.

    `status` is that of its answer's head, `answered_s` when its first body byte came. None for an error
    answer that was whole: then the outcome says that it was answered.
    """
    if status is not None and answered_s is not None and outcome.reason is reason_of_status(status):
        return None
    return (now_s if answered_s is None else answered_s) - began_s
