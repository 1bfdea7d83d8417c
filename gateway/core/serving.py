"""Who may serve one model, by tier: worked out once for each model, and anew when the fleet changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gateway.core.breaker import NO_GENERATION
from gateway.core.constraints import ModelMatch
from gateway.core.health import is_ruled_out
from gateway.core.model import Candidate, Plan, PlanReason

if TYPE_CHECKING:
    from gateway.core.view import BackendState, ClusterState

    Match = tuple[ClusterState, ModelMatch]


class ServingTier(NamedTuple):
    """Clusters of one tier that may get work for one model.

    `members` are each cluster's backends to choose from, `seats` their ready candidates, `probes` the
    half-open backends: they come first, and whoever gets one may not even get the permit.
    """

    clusters: tuple[ClusterState, ...]
    members: Mapping[str, tuple[BackendState, ...]]
    seats: Mapping[str, Mapping[str, Candidate]]
    probes: tuple[Candidate, ...] = ()

    @property
    def all_seats(self) -> tuple[Candidate, ...]:
        return tuple(seat for seats in self.seats.values() for seat in seats.values())


@dataclass(frozen=True, slots=True)
class Serving:
    """Who may serve one model now. `tiers` is empty when all who could are drained.

    First the tiers in order, without clusters that are down; then what is left of those, in order of tiers.
    `only_plan` is set where there is nothing to choose: at most one backend in each tier.
    """

    tiers: tuple[ServingTier, ...]
    preferred_tier: str
    route_model: str
    only_plan: Plan | None = None


def work_out_serving(tiers: Sequence[str], matching: Sequence[Match]) -> Serving:
    """`matching`: the clusters that serve the model, at least one, all of a tier in `tiers`."""
    by_tier = [(tier, [(c, m) for c, m in matching if c.cluster.tier == tier]) for tier in tiers]
    ordered = [pair for _, members in by_tier for pair in members]
    # A cluster without any backend is nobody's first choice, unless some are expected there.
    preferred = next((c for c, _ in ordered if c.backends or c.cluster.expected_backends), ordered[0][0])
    preferred_tier = preferred.cluster.tier
    route_model = next((match.rule for _, match in ordered if match.rule is not None), "other")
    found = tuple(_open_tiers(by_tier, preferred_tier))
    if not any(tier.clusters for tier in found):
        found += tuple(_panic(by_tier, {c.backend.id for tier in found for c in tier.probes}))
    return Serving(found, preferred_tier, route_model, _only_plan(found, preferred_tier, route_model))


def _open_tiers(by_tier: Sequence[tuple[str, list[Match]]], preferred_tier: str) -> Iterator[ServingTier]:
    """The tiers with somebody to try; probes of a cluster that is down stand at its place in the order."""
    preferred = [c for tier, pairs in by_tier if tier == preferred_tier for c, _ in pairs]
    passed_over = _why_passed_over(preferred)
    is_first = True
    for is_down in (False, True):
        for tier, pairs in by_tier:
            able = [(c, m) for c, m in pairs if c.open_backends and c.is_down is is_down]
            probes = () if is_down else tuple(_probes(pairs))
            if not able:
                if probes:
                    yield ServingTier((), {}, {}, probes)
                continue
            # A tier after the first open one is reached only when those before it are full.
            reason = (
                PlanReason.FULL
                if not is_first
                else PlanReason.FIRST_CHOICE
                if tier == preferred_tier
                else passed_over
            )
            is_first = False
            yield _tier([(c, m, c.open_backends) for c, m in able], reason, probes)


def _why_passed_over(preferred: Sequence[ClusterState]) -> PlanReason:
    """Why the preferred tier does not serve, if another is the first that does."""
    if any(map(is_ruled_out, preferred)):
        return PlanReason.UNHEALTHY
    if any(cluster.ejected_backends or cluster.is_down for cluster in preferred):
        return PlanReason.EJECTED
    return PlanReason.DRAINED


def _panic(by_tier: Sequence[tuple[str, list[Match]]], probing: set[str]) -> Iterator[ServingTier]:
    """Nothing else is left at all: the last tier tries the backends that are ejected."""
    for _, pairs in reversed(by_tier):
        members = [
            (c, m, tuple(b for b in c.ejected_backends if b.id not in probing))
            for c, m in pairs
            if any(b.id not in probing for b in c.ejected_backends)
        ]
        if members:
            yield _tier(members, PlanReason.PANIC, ())
            return


def _tier(
    members: Sequence[tuple[ClusterState, ModelMatch, tuple[BackendState, ...]]],
    reason: PlanReason,
    probes: tuple[Candidate, ...],
) -> ServingTier:
    return ServingTier(
        tuple(cluster for cluster, _, _ in members),
        {cluster.name: backends for cluster, _, backends in members},
        {
            cluster.name: {b.id: _seat(b, cluster, match, reason) for b in backends}
            for cluster, match, backends in members
        },
        probes,
    )


def _probes(pairs: Sequence[Match]) -> Iterator[Candidate]:
    for cluster, match in pairs:
        for backend in cluster.probe_backends:
            yield _seat(backend, cluster, match, PlanReason.PROBE)


def _seat(backend: BackendState, cluster: ClusterState, match: ModelMatch, reason: PlanReason) -> Candidate:
    # What is tried in panic teaches the breaker nothing: only the probe closes a circuit.
    generation = NO_GENERATION if reason is PlanReason.PANIC else backend.breaker.generation
    return Candidate(
        backend.backend,
        cluster.name,
        cluster.cluster.tier,
        reason,
        match.upstream_name,
        generation,
        reason is PlanReason.PROBE,
    )


def _only_plan(tiers: Sequence[ServingTier], preferred_tier: str, route_model: str) -> Plan | None:
    if not tiers or any(len(tier.all_seats) > 1 for tier in tiers):
        return None
    candidates = tuple(seat for tier in tiers for seat in (*tier.probes, *tier.all_seats))
    return Plan(candidates, preferred_tier, route_model)
