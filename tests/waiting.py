"""Those who wait at a store for slots, without a gateway around them."""

from __future__ import annotations

import time

from gateway.core.model import Backend, Candidate, Plan, PlanReason
from gateway.ports import Lease, StateStore, Want


def plan_over(*backend_ids: str) -> Plan:
    seats = [
        Candidate(Backend(b, "http://b", 1), "c", "primary", PlanReason.FIRST_CHOICE) for b in backend_ids
    ]
    return Plan(tuple(seats), "primary")


class Waiting:
    """A RoomWatcher: `wanted` wait for one backend, and each takes the slot that comes."""

    def __init__(self, store: StateStore, backend_id: str) -> None:
        self.store, self.backend_id = store, backend_id
        self.wanted, self.since_s = 0, 0.0
        self.leases: list[Lease] = []
        self.store.watch(self)

    def begin(self, wanted: int = 1) -> None:
        self.wanted, self.since_s = wanted, time.monotonic()
        self.store.wants_changed()

    def wants(self) -> list[Want]:
        return [Want((self.backend_id,), self.wanted, self.since_s)] if self.wanted else []

    def on_room(self, backend_id: str) -> None:
        while self.wanted and (lease := self.store.lease_now(plan_over(self.backend_id))) is not None:
            self.wanted -= 1
            self.leases.append(lease)
