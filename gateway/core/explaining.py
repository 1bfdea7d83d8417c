"""Why each backend stands where it does in a plan, or in none: what `plan_route` decided, told in words.

Nothing is decided here. Who is in the plan, in which order and for which reason is what `plan_route` gives;
why somebody is not is looked up in the same picture. tests/core/test_explaining.py holds the two together.
Chances are counted: the decision is made once for each of many draws, spread evenly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from gateway.core.breaker import Breaker, Circuit
from gateway.core.constraints import match_cluster, match_model
from gateway.core.health import BackendHealth
from gateway.core.model import Candidate, Plan, PlanReason, RequestFacts, Shed, ShedReason
from gateway.core.routing import plan_route

if TYPE_CHECKING:
    from gateway.core.view import BackendState, ClusterState, FleetView

# Over how many draws chances are counted, and over how many candidates in all: the admin port shares its loop
# with the data plane, and this comes to some 5 ms.
MAX_DRAWS, MIN_DRAWS, MAX_CANDIDATES = 200, 50, 10_000
# n x one of these, modulo anything, fills it evenly (Weyl), and does so for each value of the others.
_GOLDEN, _ROOT_2 = 0.6180339887498949, 1.4142135623730951


class Absence(StrEnum):
    """Why a backend is in no plan for a model."""

    MODEL = "model"
    RESIDENCY = "residency"
    TIER = "tier"
    EMPTY = "empty"
    DRAINED = "drained"
    UNHEALTHY = "unhealthy"
    EJECTED = "ejected"


PLAN_WORDS: dict[PlanReason, str] = {
    PlanReason.FIRST_CHOICE: "in the tier where the request would best run",
    PlanReason.FULL: "asked only when nobody before it has a free slot",
    PlanReason.DRAINED: "first in line because the preferred tier is drained",
    PlanReason.EJECTED: "first in line because most of the preferred tier is ejected, or has been lately",
    PlanReason.UNHEALTHY: "first in line because the preferred tier fails its health probes",
    PlanReason.FAILED: "next after an attempt that failed",
    PlanReason.HEDGED: "beside a first attempt that gave no byte",
    PlanReason.PROBE: "its circuit is half-open: this request would be the one that tries it",
    PlanReason.PANIC: "ejected, and tried all the same: nothing else is left",
}
SHED_WORDS: dict[ShedReason, str] = {
    ShedReason.MODEL_NOT_FOUND: "no cluster is configured for this model",
    ShedReason.RESIDENCY_UNAVAILABLE: "no cluster that serves this model is where the request may go",
    ShedReason.NO_BACKEND: "every backend that serves this model is drained, ejected or missing",
    ShedReason.NO_CAPACITY: "every place of the plan is full",
}


class Standing(NamedTuple):
    """One backend in a plan. `place` counts from 1; in flight is what this gateway knows of.

    `is_behind`: its cluster is down, so that it stands behind those that are not. `chance` is the share of
    the draws in which the request goes to it now.
    """

    place: int
    candidate: Candidate
    in_flight: int
    limit: int
    has_room: bool
    is_behind: bool
    chance: float = 0.0


class Absent(NamedTuple):
    """One backend that is in no plan. `backend_id` is empty for a cluster that has none."""

    backend_id: str
    cluster: str
    tier: str
    reason: Absence
    words: str


class Explanation(NamedTuple):
    """A decision with a line for each backend. `taken` is who gets the request; None: nobody has room."""

    facts: RequestFacts
    decision: Plan | Shed
    standings: tuple[Standing, ...]
    absents: tuple[Absent, ...]
    taken: Standing | None

    @property
    def refusal(self) -> ShedReason | None:
        """Why the request would be refused now."""
        if isinstance(self.decision, Shed):
            return self.decision.reason
        return ShedReason.NO_CAPACITY if self.taken is None else None


def explain(facts: RequestFacts, view: FleetView, now_s: float) -> Explanation:
    """The decision for exactly these facts, draw included."""
    decision = plan_route(facts, view, now_s)
    candidates = decision.candidates if isinstance(decision, Plan) else ()
    standings = tuple(_standing(place, c, view) for place, c in enumerate(candidates, 1))
    planned = {candidate.backend.id for candidate in candidates}
    absents = tuple(_absents(view, facts, planned, now_s))
    taken = next((standing for standing in standings if standing.has_room), None)
    return Explanation(facts, decision, standings, absents, taken)


def explain_by_chance(facts: RequestFacts, view: FleetView, now_s: float) -> Explanation:
    """The decision for the likeliest of many draws, with each backend's chance. `facts.draw` is not used."""
    first = explain(facts._replace(draw=0), view, now_s)
    if first.taken is None:
        return first  # a refusal does not depend on the draw
    likeliest: dict[str, int] = {}
    times: Counter[str] = Counter()
    count = min(max(MAX_CANDIDATES // len(first.standings), MIN_DRAWS), MAX_DRAWS)
    for draw in even_draws(count):
        plan = plan_route(facts._replace(draw=draw), view, now_s)
        assert isinstance(plan, Plan), "whether there is a plan does not depend on the draw"
        taken_id = next(c.backend.id for c in plan.candidates if _has_room(c, view))
        times[taken_id] += 1
        likeliest.setdefault(taken_id, draw)
    draw = likeliest[times.most_common(1)[0][0]]
    found = explain(facts._replace(draw=draw), view, now_s)
    standings = tuple(s._replace(chance=times[s.candidate.backend.id] / count) for s in found.standings)
    taken = next(standing for standing in standings if standing.has_room)
    return found._replace(standings=standings, taken=taken)


def even_draws(count: int) -> Iterator[int]:
    """Draws that fill the top 24 bits evenly, and the two parts below modulo any number of backends.

    Balancing reads them so.
    """
    for number in range(count):
        cluster = int((number * _GOLDEN + 0.5) % 1 * 2**24)
        yield cluster << 40 | int(number * _ROOT_2) << 20 | number


def _standing(place: int, candidate: Candidate, view: FleetView) -> Standing:
    state = view.backends[candidate.backend.id]
    is_behind = view.clusters[candidate.cluster].is_down and candidate.reason is PlanReason.FULL
    return Standing(place, candidate, state.in_flight, state.limit, _has_room(candidate, view), is_behind)


def _has_room(candidate: Candidate, view: FleetView) -> bool:
    """As far as this gateway knows: the store arbitrates."""
    return view.backends[candidate.backend.id].headroom > 0


# --- who is in no plan -----------------------------------------------------------------------------------


def _absents(view: FleetView, facts: RequestFacts, planned: set[str], now_s: float) -> Iterator[Absent]:
    order = {tier: at for at, tier in enumerate(view.tiers)}
    for cluster in sorted(view.clusters.values(), key=lambda c: order.get(c.cluster.tier, len(order))):
        place = (cluster.name, cluster.cluster.tier)
        if not cluster.backends:
            yield Absent("", *place, Absence.EMPTY, "has no backend at the moment")
        for state in cluster.backends:
            if state.id not in planned:
                reason = absence_of(state, cluster, view, facts)
                yield Absent(state.id, *place, reason, _words(reason, state, cluster, now_s))


def absence_of(state: BackendState, cluster: ClusterState, view: FleetView, facts: RequestFacts) -> Absence:
    """Why a backend that is in no plan for such a request is in none."""
    if cluster.cluster.tier not in view.tiers:
        return Absence.TIER
    if match_model(cluster.cluster.models, facts.model) is None:
        return Absence.MODEL
    if match_cluster(cluster.cluster, facts.model, facts.residency) is None:
        return Absence.RESIDENCY
    if cluster.drained_until_s is not None or state.is_drained:
        return Absence.DRAINED
    return Absence.UNHEALTHY if state.health.is_down else Absence.EJECTED


def _words(reason: Absence, state: BackendState, cluster: ClusterState, now_s: float) -> str:
    if reason is Absence.MODEL:
        return f"serves only {', '.join(cluster.cluster.models)}"
    if reason is Absence.RESIDENCY:
        return f"is in {', '.join(sorted(cluster.cluster.residency)) or 'no residency'}"
    if reason is Absence.TIER:
        return f"its tier {cluster.cluster.tier} is none of the tiers"
    if reason is Absence.DRAINED:
        return _drain_words(state, cluster, now_s)
    if reason is Absence.UNHEALTHY:
        return _health_words(state.health)
    return _circuit_words(state.breaker, now_s)


def _drain_words(state: BackendState, cluster: ClusterState, now_s: float) -> str:
    for who, until_s in (("its cluster", cluster.drained_until_s), ("it", state.drained_until_s)):
        if until_s is not None:
            left = (
                "until undrained" if until_s == float("inf") else f"for {max(until_s - now_s, 0):.0f} s more"
            )
            return f"{who} is drained {left}"
    return "it asks for no work itself, in the answer to its health probe"


def _health_words(health: BackendHealth) -> str:
    kind, watch = ("probes", health.probe) if health.probe.is_down else ("synthetic probes", health.synthetic)
    return f"it fails its {kind}: {watch.run} in a row, the last by {watch.reason or 'nothing known'}"


def _circuit_words(breaker: Breaker, now_s: float) -> str:
    opening = breaker.opening
    why = f" by {opening.trigger}: {opening.reason}" if opening is not None else ""
    if breaker.circuit is Circuit.OPEN:
        return f"its circuit is open{why}; half-open in {max(breaker.until_s - now_s, 0):.1f} s"
    trial = "its probe is on its way" if breaker.probes else "a synthetic probe goes first"
    return f"its circuit is half-open, opened{why}; {trial}"


# --- what a request leaves behind --------------------------------------------------------------------------


def passed_over(view: FleetView, facts: RequestFacts, taken: Candidate | None) -> str:
    """Why the tiers above the first attempt's did not serve: `primary: 2 full, 1 ejected; backup: 1 drained`.

    Without `taken`, of all tiers. To be asked at the moment of the attempt, or of the refusal. Whoever stands
    before `taken` in its plan had no slot: the store gives the first that has one.
    """
    parts: list[str] = []
    # A probe stands at its place in the order, also when its cluster is down.
    is_behind = taken is None or (view.clusters[taken.cluster].is_down and not taken.is_probe)
    for tier in view.tiers:
        if taken is not None and tier == taken.tier:
            break
        clusters = [
            cluster
            for cluster in view.clusters.values()
            if cluster.cluster.tier == tier
            and match_cluster(cluster.cluster, facts.model, facts.residency) is not None
        ]
        counts = Counter(_why_not(s, c, view, facts, is_behind) for c in clusters for s in c.backends)
        counts.update(Absence.EMPTY.value for c in clusters if not c.backends)
        if counts:
            parts.append(f"{tier}: " + ", ".join(f"{count} {why}" for why, count in counts.most_common()))
    return "; ".join(parts)


def _why_not(
    state: BackendState, cluster: ClusterState, view: FleetView, facts: RequestFacts, is_behind: bool
) -> str:
    is_open = state.circuit is Circuit.CLOSED and state.health.is_open
    if not is_open or state.is_drained or cluster.drained_until_s is not None:
        return absence_of(state, cluster, view, facts).value
    return "full" if is_behind or not cluster.is_down else "down"
