"""What became of every request of a run, and what happened to the circuits meanwhile."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from gateway.sim.arrivals import Arrival
from gateway.sim.endpoints import Endpoint, Site
from gateway.sim.occupancy import Level


class Fate(StrEnum):
    """How a request ended for its client."""

    SERVED = "served"
    FAILED = "failed"  # an error, or an answer cut short
    SHED = "shed"  # refused: no slot, or nobody who could


class Row(NamedTuple):
    """One request at its end; times in virtual seconds. `why` is the reason of a spill, failure or shed.

    `left_room`: a slot was free in the preferred tier when the request was sent elsewhere. `held_s`: how long
    it waited for one. `is_false_spill`: its gateway had no slot there, or anywhere, though one was to be had.
    """

    number: int
    arrival: Arrival
    fate: Fate
    ended_s: float
    ttft_s: float | None = None
    endpoint: Endpoint | None = None
    preferred_tier: str = ""
    why: str | None = None
    attempts: int = 0
    left_room: bool = False
    held_s: float = 0.0
    is_false_spill: bool = False

    @property
    def is_at_home(self) -> bool:
        """Served by the tier where it would best run."""
        return (
            self.fate is Fate.SERVED
            and self.endpoint is not None
            and self.endpoint.place.tier == self.preferred_tier
        )


class CircuitChange(NamedTuple):
    """At one `gateway`, counted from 1: by its own judgement or, the trigger tells, by another's word."""

    at_s: float
    backend_id: str
    circuit: str
    trigger: str | None = None
    reason: str | None = None
    gateway: int = 1


class Ledger:
    """Rows in the order in which requests ended; at the end of a run by number.

    `degraded` is how many gateways were without their store; `exchanges` were made with it.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.rows: list[Row] = []
        self.circuits: list[CircuitChange] = []
        self.ended_s = 0.0
        self.gateways = 1
        self.is_shared = False
        self.exchanges = 0
        self.degraded = Level(site.occupancy.bucket_s)
        self.retries = 0
        self.hedges = 0
        self.denied = 0

    def has_room_at_home(self, model: str | None) -> bool:
        tiers = self.site.serving(model)
        return bool(tiers) and any(endpoint.has_room and endpoint.is_well for endpoint in tiers[0])
