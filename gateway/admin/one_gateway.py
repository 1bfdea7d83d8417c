"""The pages of the gateway in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.admin.answers import AdminError
from gateway.admin.explain_page import explain_page
from gateway.admin.explain_query import ExplainQuery
from gateway.admin.fleet_page import Json, drain_mark, fleet_page
from gateway.admin.pages import DrainOrder, find_state, not_found
from gateway.admin.ports import AdminPorts, GatewayStatus
from gateway.admin.reload import reload_page
from gateway.core.admission import KeyRules
from gateway.core.fleet import FOREVER_S, Drained, Undrained, UnknownName


class OneGateway:
    """Pages, read from the picture at the moment somebody asks."""

    def __init__(self, ports: AdminPorts) -> None:
        self._ports = ports

    async def status(self) -> GatewayStatus:
        return self._ports.status()

    async def drain(self) -> bool:
        return await self._ports.drain()

    async def metrics(self, as_openmetrics: bool) -> tuple[bytes, str]:
        parts, content_type = self._ports.render_metrics(as_openmetrics)
        body = bytearray()
        for part in parts:
            body += part
            await asyncio.sleep(0)  # the data plane shares this event loop
        return bytes(body), content_type

    async def fleet(self) -> Json:
        return fleet_page(self._ports.view, self._ports.clock())

    async def explain(self, asked: ExplainQuery) -> Json:
        rules = key_rules_for(asked.key, self._ports.key_rules())
        return explain_page(self._ports.view, asked, self._ports.clock(), rules)

    async def reload(self) -> Json:
        return await reload_page(self._ports.reload)

    async def mark(self, order: DrainOrder) -> Json:
        state = find_state(self._ports.view, order)
        if order.before_s is not None and self._ports.clock() > order.before_s:
            # A worker that hung finds it only now, and perhaps behind it one that says the opposite.
            raise AdminError(409, "too_late", "whoever asked for this has given up waiting for it")
        try:
            self._ports.apply(drain_event(order, self._ports.clock()))
        except UnknownName as exc:  # a reload took it away in this moment
            raise not_found(order, {}) from exc
        return {"name": order.name, "in_flight": state.in_flight, **drain_mark(state, self._ports.clock())}


def key_rules_for(name: str | None, known: Mapping[str, KeyRules]) -> KeyRules | None:
    """Raises AdminError 404 for a name that nobody bears."""
    if name is None:
        return None
    if name not in known:
        raise AdminError(404, "key_not_found", f"no client key is named {name!r}", "key")
    return known[name]


def drain_event(order: DrainOrder, now_s: float) -> Drained | Undrained:
    """What the order means to the fleet."""
    if not order.is_drain:
        return Undrained(order.name)
    return Drained(order.name, FOREVER_S if order.for_s is None else now_s + order.for_s)
