"""How a request comes to a lease: which slots it asks for, in what order, and when it waits for one.

- The first attempt goes to the best tier, at once or after a wait; else to where there is room.
- Where a lower tier has room, the wait is for the best one; where nobody has, for any.
- Nobody takes a slot past those who wait for it, nor waits once more for a tier for which it waited in vain.
- A second attempt has waited enough: it takes what there is.
- A slot is of no use when the fleet has changed meanwhile: it goes back, and the plan is made anew.

Pure: a search names its steps one after the other; a driver carries each out and sends what came of it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeVar

from gateway.core.holding import Choice, Hold, Holding, HoldRules, Waiter, best_tier, wanted
from gateway.core.journey import Journey
from gateway.core.model import Candidate, Plan, Reason, Shed


class Lease:
    """The right to one in-flight slot of `candidate.backend`: acquired once, released once."""

    __slots__ = ("candidate", "is_released")

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.is_released = False

    def __repr__(self) -> str:
        return f"<Lease {self.candidate.backend.id}{' released' if self.is_released else ''}>"


class TryLease(NamedTuple):
    """The store is to be asked: answered by a lease, or None."""

    plan: Plan


class Release(NamedTuple):
    """Answered by None."""

    lease: Lease


class Wait(NamedTuple):
    """It has joined the queue. Answered once it has left that: by its lease, or None to look again."""

    waiter: Waiter


class Done(NamedTuple):
    """The last step: here is the lease, the reason to refuse the request, or None when nobody may try."""

    found: Lease | Shed | None


Step = TryLease | Release | Wait | Done
Told = tuple[Lease | None, float]  # what came of a step, and the time after it
T = TypeVar("T")
Steps = Generator[Step, Told, T]


def may_take_at_once(candidate: Candidate, plan: Plan, rules: HoldRules | None) -> bool:
    """Where nobody waits: whether the first slot that `plan` gives is good enough to go without a search."""
    return rules is None or candidate.tier == plan.candidates[0].tier


class LeaseSearch:
    """For the first attempt of `journey`, or for the next one. `rules` None: nobody waits."""

    __slots__ = ("_holding", "_journey", "_now_s", "_rules")

    def __init__(self, journey: Journey, holding: Holding, rules: HoldRules | None) -> None:
        self._journey = journey
        self._holding = holding
        self._rules = rules
        self._now_s = 0.0

    def steps(self, plan: Plan | None, failed: Reason | None, now_s: float) -> Steps[None]:
        """By `plan`, or a new one; after an attempt that `failed`, if one did. The last step is Done."""
        self._now_s = now_s
        yield Done((yield from self._search(plan, failed)))

    def _search(self, plan: Plan | None, failed: Reason | None) -> Steps[Lease | Shed | None]:
        journey = self._journey
        while not journey.is_overtaken:
            anew = plan if plan is not None else journey.plan_anew(failed, self._now_s)
            if not isinstance(anew, Plan):
                return anew
            if self._rules is not None and not journey.tried:
                found = yield from self._take_or_hold(anew, self._rules)
            else:
                found, self._now_s = yield TryLease(anew)
            if not isinstance(found, Lease):
                return found
            if journey.may_begin(found.candidate, failed, self._now_s):
                return found
            _, self._now_s = yield Release(found)
            plan = None
        return None

    def _take_or_hold(self, plan: Plan | Shed, rules: HoldRules) -> Steps[Lease | Shed | None]:
        journey, holding = self._journey, self._holding
        while isinstance(plan, Plan):
            best, rest = best_tier(plan)
            tier, hold = best[0].tier, journey.hold
            # Another tier may be the best by now.
            is_vain = hold is not None and hold.is_over(self._now_s) and tier == hold.tier
            if not is_vain and (lease := (yield from self._take(best))) is not None:
                return lease
            offered = yield from self._take(rest)
            if hold is None:
                hold = journey.hold = Hold(min(self._now_s + rules.max_wait_s, journey.deadline_s))
            is_wide = offered is None
            waiter = Waiter(journey.facts, wanted(plan, is_wide=is_wide), hold.until_s, is_wide=is_wide)
            if hold.is_over(self._now_s) or holding.choose(waiter, rules, self._now_s) is not Choice.HOLD:
                return offered
            if offered is not None:
                _, self._now_s = yield Release(offered)
            holding.join(waiter, self._now_s)
            hold.began(waiter, tier)
            lease, self._now_s = yield Wait(waiter)
            hold.ended(self._now_s)
            if lease is not None:
                return lease
            plan = journey.plan_first(self._now_s)
        return plan

    def _take(self, candidates: tuple[Candidate, ...]) -> Steps[Lease | None]:
        """A slot that nobody waits for."""
        lease = None
        if unwanted := self._holding.unwanted(candidates):
            lease, self._now_s = yield TryLease(Plan(unwanted, ""))
        return lease
