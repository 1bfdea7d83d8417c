"""Hold before spilling: who may wait for a slot, for how long, and who gets the next one that comes free.

A request whose best tier is full may wait there for a moment instead of going to the next tier. Rules:
- it waits only while a slot is likely to come free for it in time, by the pace at which slots have come free;
- while more come than are served, and somebody has been waiting all the time, nobody begins to wait;
- who waits is served by the earliest end of the wait, then by arrival; nobody takes a slot past them;
- each waiter ends exactly once: `leave` or `next_for` and `served`, or `due`.

Pure: a driver gives it the facts and the time, leases the slots, and wakes those whom it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from heapq import heappop, heappush
from itertools import count
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.core.constraints import Residency
from gateway.core.model import Candidate, Plan, RequestFacts, Shed
from gateway.core.routing import plan_route
from gateway.core.windows import Tally

if TYPE_CHECKING:
    from gateway.core.view import FleetView

# A queue that stands for so long is no burst; when nobody wanted to join it for so long the surge is over.
SURGE_S, CALM_S = 10.0, 2.0
# What chance may do, in standard deviations of a Poisson count: how far it may be on the side of a waiter,
# and how many more may come than are served before that is a surge. Measured: ADR 0032.
SIGMAS = 3.0
# Queues without anybody are remembered for their surge, and forgotten after this.
FORGET_S = 60.0


class HoldRules(NamedTuple):
    """`max_wait_s` for one request, and how many may wait in one queue."""

    max_wait_s: float = 0.5
    max_waiting: int = 1000


class Choice(StrEnum):
    """Hold, or why not: then the request spills, or is shed where nobody else has room."""

    HOLD = "hold"
    NO_PACE = "no_pace"  # nothing has ever come free here: nobody knows when something will
    TOO_LONG = "too_long"
    SURGE = "surge"
    CROWDED = "crowded"


class Waiter:
    """A request that waits for a slot at one of `candidates` until `until_s` at most.

    `is_wide`: for one of any tier. `woken` is its driver's, to wake it with.
    """

    __slots__ = ("candidates", "facts", "is_waiting", "is_wide", "order", "since_s", "until_s", "woken")

    def __init__(
        self, facts: RequestFacts, candidates: Sequence[Candidate], until_s: float, *, is_wide: bool = False
    ) -> None:
        self.facts = facts
        # Nobody waits to be a probe: whoever comes while the permit is free takes it.
        self.candidates = tuple(candidate for candidate in candidates if not candidate.is_probe)
        self.until_s = until_s
        self.is_wide = is_wide
        self.woken: Any = None
        self.since_s = 0.0
        self.order = 0
        self.is_waiting = False

    def __repr__(self) -> str:
        ids = ", ".join(candidate.backend.id for candidate in self.candidates)
        return f"<Waiter {self.order} for {ids} until {self.until_s:.3f}>"


class Hold:
    """All waits of one request: until when they may last, how long they have, and the last one.

    `tier` is the best one then, whatever others the wait was for. `waiter`: while it lasts.
    """

    __slots__ = ("held_s", "tier", "until_s", "waiter")

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.held_s = 0.0
        self.tier = ""
        self.waiter: Waiter | None = None

    def is_over(self, now_s: float) -> bool:
        return now_s >= self.until_s

    def began(self, waiter: Waiter, tier: str) -> None:
        self.waiter, self.tier = waiter, tier

    def ended(self, now_s: float) -> None:
        waiter, self.waiter = self.waiter, None
        assert waiter is not None
        self.held_s += max(now_s - waiter.since_s, 0.0)


def best_tier(plan: Plan) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """The candidates of the tier that comes first, and all others."""
    candidates = plan.candidates
    tier = candidates[0].tier
    size = next((at for at, other in enumerate(candidates) if other.tier != tier), len(candidates))
    return candidates[:size], candidates[size:]


def wanted(plan: Plan, *, is_wide: bool) -> tuple[Candidate, ...]:
    """For whose slots a request with this plan waits."""
    return plan.candidates if is_wide else best_tier(plan)[0]


def predicted_wait_s(ahead: int, per_s: float) -> float:
    """How long until slots may well have come free for `ahead` others and one more, at `per_s` a second.

    The shortest time t in which that is within SIGMAS of what is expected, n = m + SIGMAS x sqrt(m) with
    m = per_s x t. The mean, n / per_s, would refuse half of those who would have been served in time.
    """
    if per_s <= 0:
        return float("inf")
    wanted = ahead + 1
    root = (sqrt(SIGMAS * SIGMAS + 4 * wanted) - SIGMAS) / 2
    return root * root / per_s


class _Queue:
    """Those who wait for the same backends: of one model and tier."""

    __slots__ = ("_heap", "_is_surge", "_served", "_standing_since_s", "_wanted", "count", "ids", "wanted_s")

    def __init__(self, ids: frozenset[str]) -> None:
        self.ids = ids
        self.count = 0
        self._heap: list[tuple[float, int, Waiter]] = []
        self._standing_since_s: float | None = None
        self._is_surge = False
        self._wanted = Tally(SURGE_S)
        self._served = Tally(SURGE_S)
        self.wanted_s = float("-inf")  # when somebody found it full last

    def is_surge(self, now_s: float) -> bool:
        """Somebody wants to wait: is it more than a burst?"""
        if self._is_surge and now_s - self.wanted_s > CALM_S:
            self._is_surge = False
        self.wanted_s = now_s
        self._wanted.add(now_s)
        since_s = self._standing_since_s
        if not self._is_surge and since_s is not None and now_s - since_s >= SURGE_S:
            served = self._served.counts(now_s).total
            came = self._wanted.counts(now_s).total
            self._is_surge = came > served + SIGMAS * sqrt(max(served, 1))
        return self._is_surge

    def join(self, waiter: Waiter, now_s: float) -> None:
        if self._standing_since_s is None:
            self._standing_since_s = now_s
        self.count += 1
        heappush(self._heap, (waiter.until_s, waiter.order, waiter))

    def left(self, *, was_served: bool, now_s: float) -> None:
        self.count -= 1
        if was_served:
            self._served.add(now_s)
        if self.count == 0:
            self._standing_since_s = None
            self._heap.clear()

    def first(self) -> Waiter | None:
        """Who ends first of those that still wait."""
        heap = self._heap
        while heap and not (heap[0][2].is_waiting and heap[0][2].order == heap[0][1]):
            heappop(heap)
        return heap[0][2] if heap else None

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for _, order, waiter in self._heap if waiter.is_waiting and waiter.order == order)


class Holding:
    """All who wait in one gateway.

    Invariants: `count` is how many wait; a waiter is in exactly one queue while it waits, and in none after.
    """

    def __init__(self, view: FleetView) -> None:
        self._view = view
        self._queues: dict[frozenset[str], _Queue] = {}
        self._standing: dict[str, list[_Queue]] = {}  # by backend, the queues in which somebody waits
        self._order = count(1)
        self._seen_version = view.version
        self.count = 0

    # --- before the wait -----------------------------------------------------------------------------

    def unwanted(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Those whose slots may be taken: nobody waits for them, or they are probes."""
        standing = self._standing
        return tuple(c for c in candidates if c.is_probe or c.backend.id not in standing)

    def choose(self, waiter: Waiter, rules: HoldRules, now_s: float) -> Choice:
        """Whether this request, which has found no slot, should wait for one."""
        queue = self._queue_of(waiter)
        if queue.is_surge(now_s):
            return Choice.SURGE
        if queue.count >= rules.max_waiting:
            return Choice.CROWDED
        per_s = self._pace_per_s(waiter.candidates, now_s)
        if not per_s:
            return Choice.NO_PACE
        if predicted_wait_s(self._ahead_of(waiter), per_s) >= waiter.until_s - now_s:
            return Choice.TOO_LONG
        return Choice.HOLD

    def _pace_per_s(self, candidates: Sequence[Candidate], now_s: float) -> float:
        """Slots that come free a second at all of these together.

        A backend that said 429 or 503 has no limit that anybody knows: its word counts.
        """
        states = (self._view.backends.get(candidate.backend.id) for candidate in candidates)
        able = (state for state in states if state is not None and not state.says_full(now_s))
        return sum(state.slot_gap.per_s(now_s) for state in able)

    def _ahead_of(self, waiter: Waiter) -> int:
        """How many others wait for any of its backends; those who began later end later, all but a few."""
        queues = {id(q): q for c in waiter.candidates for q in self._standing.get(c.backend.id, ())}
        return sum(queue.count for queue in queues.values())

    # --- the wait ------------------------------------------------------------------------------------

    def join(self, waiter: Waiter, now_s: float) -> None:
        assert not waiter.is_waiting, f"{waiter} waits already"
        queue = self._queue_of(waiter)
        waiter.is_waiting = True
        waiter.order = next(self._order)
        waiter.since_s = now_s
        if queue.count == 0:
            for backend_id in queue.ids:
                self._standing.setdefault(backend_id, []).append(queue)
        queue.join(waiter, now_s)
        self.count += 1

    def leave(self, waiter: Waiter, now_s: float, *, was_served: bool = False) -> bool:
        """It waits no more, and is nobody's to wake. False: it did not wait."""
        if not waiter.is_waiting:
            return False
        waiter.is_waiting = False
        queue = self._queue_of(waiter)
        queue.left(was_served=was_served, now_s=now_s)
        self.count -= 1
        if queue.count == 0:
            for backend_id in queue.ids:
                standing = self._standing[backend_id]
                standing.remove(queue)
                if not standing:
                    del self._standing[backend_id]
        return True

    def next_for(self, backend_id: str) -> tuple[Waiter, Candidate] | None:
        """Whose a slot of this backend is that may have come free, and its seat there.

        To be told by `leave` if a slot was leased for it; until then it stays the first.
        """
        found: Waiter | None = None
        for queue in self._standing.get(backend_id, ()):
            first = queue.first()
            if first is not None and (found is None or _rank(first) < _rank(found)):
                found = first
        if found is None:
            return None
        return found, next(c for c in found.candidates if c.backend.id == backend_id)

    # --- the end of the wait -------------------------------------------------------------------------

    @property
    def next_due_s(self) -> float | None:
        """When the first of all ends its wait."""
        firsts = (queue.first() for queue in self._queues.values() if queue.count)
        return min((first.until_s for first in firsts if first is not None), default=None)

    def due(self, now_s: float) -> list[Waiter]:
        """Those whose time is over; they wait no more."""
        over: list[Waiter] = []
        for queue in [queue for queue in self._queues.values() if queue.count]:
            while (first := queue.first()) is not None and first.until_s <= now_s:
                self.leave(first, now_s)
                over.append(first)
        return sorted(over, key=_rank)

    def stale(self, now_s: float) -> list[Waiter]:
        """Those whose plan is another one since the fleet has changed; they wait no more."""
        if self._view.version == self._seen_version:
            return []
        self._seen_version = self._view.version
        known: dict[tuple[str | None, Residency, bool], frozenset[tuple[str, int]]] = {}
        found: list[Waiter] = []
        for waiter in self.everybody():
            key = (waiter.facts.model, waiter.facts.residency, waiter.is_wide)
            if key not in known:
                known[key] = self._places_now(waiter, now_s)
            if _places(waiter.candidates) != known[key]:
                self.leave(waiter, now_s)
                found.append(waiter)
        self.forget_queues(now_s)
        return found

    def _places_now(self, waiter: Waiter, now_s: float) -> frozenset[tuple[str, int]]:
        plan = plan_route(waiter.facts, self._view, now_s)
        return frozenset() if isinstance(plan, Shed) else _places(wanted(plan, is_wide=waiter.is_wide))

    def everybody(self) -> list[Waiter]:
        """In the order in which they are served."""
        return sorted((waiter for queue in self._queues.values() for waiter in queue), key=_rank)

    def standing(self) -> list[tuple[tuple[str, ...], int, float]]:
        """The queues in which somebody waits, the longest first: for what, how many, since when the first."""
        firsts = ((queue, queue.first()) for queue in self._queues.values())
        found = [(tuple(sorted(q.ids)), q.count, first.since_s) for q, first in firsts if first is not None]
        return sorted(found, key=lambda queue: (queue[2], queue[0]))

    def forget_queues(self, now_s: float) -> None:
        """The sets of backends that there may be have no bound."""
        old = [q.ids for q in self._queues.values() if not q.count and now_s - q.wanted_s > FORGET_S]
        for ids in old:
            del self._queues[ids]

    # --- inside --------------------------------------------------------------------------------------

    def _queue_of(self, waiter: Waiter) -> _Queue:
        ids = frozenset(candidate.backend.id for candidate in waiter.candidates)
        queue = self._queues.get(ids)
        if queue is None:
            queue = self._queues[ids] = _Queue(ids)
        return queue

    def __repr__(self) -> str:
        return f"<Holding {self.count} in {len(self._queues)} queues>"


def _places(candidates: Iterable[Candidate]) -> frozenset[tuple[str, int]]:
    return frozenset((c.backend.id, c.generation) for c in candidates if not c.is_probe)


def _rank(waiter: Waiter) -> tuple[float, int]:
    return waiter.until_s, waiter.order
