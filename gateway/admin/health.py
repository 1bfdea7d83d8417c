"""Is it alive, is it ready, and: make an end."""

from __future__ import annotations

from aiohttp import web

from gateway.admin.answers import AdminError, json_answer
from gateway.admin.guard import DRAIN_GATEWAY_PATH
from gateway.admin.pages import Pages
from gateway.admin.ports import GatewayState


class HealthRoutes:
    """What an orchestrator asks. Liveness looks at nothing: it answers, so the event loop runs."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health/liveness", self.liveness),
            web.get("/livez", self.liveness),
            web.get("/health/readiness", self.readiness),
            web.get("/readyz", self.readiness),
            # A preStop httpGet hook can only GET; without allow_head, for a HEAD must not end a gateway.
            web.get(DRAIN_GATEWAY_PATH, self.drain, allow_head=False),
            web.post(DRAIN_GATEWAY_PATH, self.drain),
        ]

    async def liveness(self, request: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    async def readiness(self, request: web.Request) -> web.Response:
        status = await self._pages.status()
        page = {**status.detail, "status": status.state.value, "in_flight": status.in_flight}
        return json_answer(page, 200 if status.state is GatewayState.READY else 503)

    async def drain(self, request: web.Request) -> web.Response:
        """Answers when nothing is in flight any more; 504 when time ran out and some would be cut."""
        if await self._pages.drain():
            return json_answer({"status": "drained", "in_flight": 0})
        left = (await self._pages.status()).in_flight
        # Of workers that had to be cut none may be left to count.
        what = f"with {left} exchanges in flight" if left else "and what was still in flight was cut"
        raise AdminError(504, "drain_timeout", f"the drain timed out {what}")
