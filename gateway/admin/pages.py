"""What the routes of the admin port ask for, whoever stands behind them: one gateway, or all workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.admin.answers import AdminError
from gateway.admin.explain_query import ExplainQuery
from gateway.admin.fleet_page import Json
from gateway.admin.ports import GatewayStatus
from gateway.core.fleet import BackendState, ClusterState, FleetView

OPENMETRICS_TYPE = "application/openmetrics-text"


# From a parent to its worker: DrainOrder.before_s.
BEFORE_HEADER = "x-spillway-before"


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """Drain `name` for `for_s` seconds (None: until undrained), or undrain it. `kind` is as in the path.

    `before_s`: when whoever gave it stops waiting for the answer, by the monotonic clock of this machine.
    """

    kind: str
    name: str
    is_drain: bool
    for_s: float | None = None
    before_s: float | None = None


class Pages(Protocol):
    """The admin port's answers. Each may raise AdminError."""

    async def status(self) -> GatewayStatus: ...

    async def drain(self) -> bool:
        """Begins the end, or joins it; True when nothing is in flight, False when time ran out before."""

    async def metrics(self, as_openmetrics: bool) -> tuple[bytes, str]:
        """The body of /metrics and its content type."""

    async def fleet(self) -> Json: ...

    async def explain(self, asked: ExplainQuery) -> Json:
        """What would happen to such a request now, and why."""

    async def reload(self) -> Json:
        """Reads the configuration file again and tells what came of it."""

    async def mark(self, order: DrainOrder) -> Json:
        """Carries the order out and tells the mark as it is now; 404 for a name that nobody has."""


def find_state(view: FleetView, order: DrainOrder) -> ClusterState | BackendState:
    """What the order is about. Raises AdminError 404 with the names there are."""
    known: Mapping[str, ClusterState | BackendState]
    known = view.clusters if order.kind == "clusters" else view.backends
    if order.name not in known:
        raise not_found(order, known)
    return known[order.name]


def not_found(order: DrainOrder, known: Mapping[str, object]) -> AdminError:
    kind = order.kind.removesuffix("s")
    names = ", ".join(sorted(known)) or "none"
    return AdminError(404, f"{kind}_not_found", f"no {kind} is named {order.name!r}; known: {names}", kind)
