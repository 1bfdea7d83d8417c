"""Names of backends, resolved for those who ask after their health: never to where no backend may be."""

from __future__ import annotations

import socket
from contextvars import ContextVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.config.fleet import BackendEndpoint
from gateway.config.refused_names import RefusedNames

# Whose name is resolved: aiohttp asks in the task of the request, by the name alone.
asked_endpoint: ContextVar[BackendEndpoint] = ContextVar("asked_endpoint")


class BackendResolver(AbstractResolver):
    """As the system resolves. Addresses at which the backend may not be are left out (refused_hosts.py)."""

    def __init__(self, names: RefusedNames) -> None:
        self._names = names
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError where no address is left."""
        endpoint = asked_endpoint.get()
        found = await self._system.resolve(host, port, family)
        reasons = {each["host"]: endpoint.why_not_at(each["host"]) for each in found}
        good = [each for each in found if reasons[each["host"]] is None]
        if not good:
            self._names.refused(endpoint.backend_id, _told(reasons))
            raise OSError(f"no address of {host} may be a backend's")
        self._names.good(endpoint.backend_id)
        return good

    async def close(self) -> None:
        await self._system.close()


def _told(reasons: dict[str, str | None]) -> str:
    return "; ".join(f"{address}, {reason}" for address, reason in sorted(reasons.items()))
