"""Fleets and requests in one line each, for tests that tell a story with time as an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.fleet import (
    AttemptFinished,
    AttemptStarted,
    Effect,
    Event,
    Fleet,
    FleetConfigured,
    Ticked,
)
from gateway.core.model import SUCCESS, Backend, Cluster, Outcome, Plan, Reason, RequestFacts, Shed
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


def drops(
    fleet: Fleet, backend_id: str, times: int = 1, reason: Reason = Reason.RESET, at_s: float = 0.0
) -> list[Effect]:
    """Whole attempts that fail, one after the other, each under the circuit's generation of the moment."""
    return ends(fleet, backend_id, reason, times, at_s)


def ends(fleet: Fleet, backend_id: str, reason: Reason, times: int = 1, at_s: float = 0.0) -> list[Effect]:
    effects: list[Effect] = []
    for _ in range(times):
        generation = fleet.view.backends[backend_id].breaker.generation
        effects += fleet.apply(AttemptStarted(backend_id, generation, 700), at_s)
        finished = AttemptFinished(backend_id, Outcome.of(reason), None, 0.01, generation)
        if reason is Reason.COMPLETED:
            finished = finished._replace(ttft_s=0.01, elapsed_s=None)
        effects += fleet.apply(finished, at_s)
    return effects


def ticks(fleet: Fleet, until_s: float, from_s: float = 0.0) -> list[tuple[float, Effect]]:
    """Every half second; what was asked to be done, and when."""
    asked: list[tuple[float, Effect]] = []
    for half in range(round(from_s * 2) + 1, round(until_s * 2) + 1):
        asked += [(half / 2, effect) for effect in fleet.apply(Ticked(), half / 2)]
    return asked


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
