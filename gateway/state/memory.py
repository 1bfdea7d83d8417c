"""StateStore in memory: one gateway, exact, and the twin that the shared store is tested against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.core.fleet import ShareClosing, ShareOpening
from gateway.core.model import Plan
from gateway.ports import NO_CAPS, Lease, RoomWatcher, StoreHealth


class MemoryStore:
    """Counts of leases out per backend.

    Invariants: 0 <= held, and held <= limit at the moment a lease is given.
    """

    def __init__(self) -> None:
        self._limits: Mapping[str, int] = {}
        self._held: dict[str, int] = {}
        self._probed: set[str] = set()  # whose one probe permit is out
        self._watcher: RoomWatcher | None = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def health(self) -> StoreHealth:
        return StoreHealth()

    def share_circuit(self, effect: ShareOpening | ShareClosing) -> None:
        pass

    def assume_drain(self, name: str, for_s: float) -> None:
        pass

    def share_drain(self, name: str, for_s: float | None) -> None:
        pass  # there is nobody to tell

    def set_limits(self, limits: Mapping[str, int], caps: Mapping[str, int] = NO_CAPS) -> None:
        self._limits = {id_: min(limit, caps.get(id_, limit)) for id_, limit in limits.items()}
        if self._watcher is not None:
            for backend_id in limits:
                self._watcher.on_room(backend_id)

    def watch(self, watcher: RoomWatcher) -> None:
        self._watcher = watcher

    def wants_changed(self) -> None:
        pass  # there is nobody else who could have a slot

    def lease_now(self, plan: Plan) -> Lease | None:
        held, limits = self._held, self._limits
        for candidate in plan.candidates:
            backend_id = candidate.backend.id
            count = held.get(backend_id, 0)
            if count < limits.get(backend_id, 0):
                if candidate.is_probe:
                    if backend_id in self._probed:
                        continue
                    self._probed.add(backend_id)
                held[backend_id] = count + 1
                return Lease(candidate)
        return None

    async def lease(self, plan: Plan) -> Lease | None:
        return self.lease_now(plan)

    def release(self, lease: Lease) -> None:
        if lease.is_released:
            return
        lease.is_released = True
        backend_id = lease.candidate.backend.id
        if lease.candidate.is_probe:
            self._probed.discard(backend_id)
        left = self._held[backend_id] - 1
        if left:
            self._held[backend_id] = left
        else:
            del self._held[backend_id]
        if self._watcher is not None:
            self._watcher.on_room(backend_id)

    def release_permit(self, lease: Lease) -> None:
        if lease.candidate.is_probe and not lease.is_released:
            self._probed.discard(lease.candidate.backend.id)
            lease.candidate = replace(lease.candidate, is_probe=False)

    def leases_held(self, backend_id: str) -> int:
        return self._held.get(backend_id, 0)
