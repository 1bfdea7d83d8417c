"""plan_route: the one place where it is decided where a request should go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.balancing import order_backends
from gateway.core.model import Candidate, Plan, RequestFacts, Shed, ShedReason

if TYPE_CHECKING:
    from gateway.core.view import FleetView


def plan_route(facts: RequestFacts, view: FleetView, now_s: float) -> Plan | Shed:
    """Every backend that may serve the request, in order: tier, then cluster, then backend.

    Backends without headroom keep their place: the store decides who has a slot, atomically, and
    takes the first in order, so a lower tier is used only when no higher one has a slot. A backend whose
    circuit is not closed has none, except as a probe, before the others of its tier, or in panic.
    """
    serving = view.serving(facts.model, facts.residency)
    if serving is None:
        is_elsewhere = facts.residency is not None and view.serving(facts.model) is not None
        return Shed(ShedReason.RESIDENCY_UNAVAILABLE if is_elsewhere else ShedReason.MODEL_NOT_FOUND)
    if not serving.tiers:
        return Shed(ShedReason.NO_BACKEND)
    if serving.only_plan is not None:
        return serving.only_plan
    candidates: list[Candidate] = []
    for tier in serving.tiers:
        candidates.extend(tier.probes)
        if not tier.clusters:
            continue
        for cluster in view.cluster_policy(tier.clusters, facts.draw):
            seats = tier.seats[cluster.name]
            for backend in order_backends(tier.members[cluster.name], facts.draw, now_s):
                candidates.append(seats[backend.id])
    return Plan(tuple(candidates), serving.preferred_tier, serving.route_model)
