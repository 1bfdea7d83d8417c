"""Fleets and requests in one line each, for tests that tell a story with time as an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.fleet import AttemptFinished, AttemptStarted, Event, Fleet, FleetConfigured
from gateway.core.model import SUCCESS, Backend, Cluster, Plan, RequestFacts, Shed
from gateway.core.routing import plan_route

TIERS = ("primary", "backup", "spot")

Member = tuple[str, int] | tuple[str, int, float]


def backends_of(*members: Member) -> tuple[Backend, ...]:
    """Each member is (id, limit) or (id, limit, weight)."""
    return tuple(Backend(member[0], f"http://{member[0]}", *member[1:]) for member in members)


def cluster_of(name: str, *members: Member, tier: str = "primary", weight: float = 1.0, **models) -> Cluster:
    """`models` as keyword arguments: llama=None, or llama="its-name-upstream"."""
    return Cluster(name, tier, backends_of(*members), models, weight)


def configured(*clusters: Cluster, policy: str = "weight") -> FleetConfigured:
    return FleetConfigured(clusters, TIERS, policy)


def fleet_with(*clusters: Cluster, policy: str = "weight") -> Fleet:
    fleet = Fleet()
    fleet.apply(configured(*clusters, policy=policy), 0.0)
    return fleet


def fleet_of(tiers: Mapping[str, Sequence[Member]]) -> Fleet:
    """One cluster in each tier, named after it: `fleet_of({"primary": [("a", 4)]})`."""
    return fleet_with(*(cluster_of(tier, *members, tier=tier) for tier, members in tiers.items()))


def tell(fleet: Fleet, *events: Event, at_s: float = 0.0) -> None:
    for event in events:
        fleet.apply(event, at_s)


def starts(fleet: Fleet, backend_id: str, times: int = 1, at_s: float = 0.0) -> None:
    tell(fleet, *[AttemptStarted(backend_id)] * times, at_s=at_s)


def finishes(fleet: Fleet, backend_id: str, times: int = 1, at_s: float = 0.0) -> None:
    tell(fleet, *[AttemptFinished(backend_id, SUCCESS)] * times, at_s=at_s)


def answers(fleet: Fleet, backend_id: str, ttft_s: float, at_s: float = 0.0) -> None:
    """One whole attempt whose first byte took `ttft_s`."""
    tell(fleet, AttemptStarted(backend_id), AttemptFinished(backend_id, SUCCESS, ttft_s), at_s=at_s)


def route(fleet: Fleet, model: str | None = None, draw: int = 0, at_s: float = 0.0) -> Plan | Shed:
    return plan_route(RequestFacts(model, draw), fleet.view, at_s)


def plan(fleet: Fleet, model: str | None = None, draw: int = 0, at_s: float = 0.0) -> Plan:
    found = route(fleet, model, draw, at_s)
    assert isinstance(found, Plan), found
    return found


def order(fleet: Fleet, model: str | None = None, draw: int = 0, at_s: float = 0.0) -> list[str]:
    """The backends' ids as a plan names them."""
    return [candidate.backend.id for candidate in plan(fleet, model, draw, at_s).candidates]


def why(fleet: Fleet, model: str | None = None, draw: int = 0) -> list[tuple[str, str]]:
    """(backend, reason) as a plan names them."""
    return [(c.backend.id, c.reason.value) for c in plan(fleet, model, draw).candidates]
