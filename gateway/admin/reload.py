"""Reading the configuration again on request, and what is shown of it."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from gateway.admin.answers import AdminError, json_answer
from gateway.admin.fleet_page import Json
from gateway.admin.pages import Pages
from gateway.admin.ports import Reload
from gateway.ports import ConfigStatus, ReloadOutcome


class ReloadRoutes:
    """`POST /api/v1/reload`."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/v1/reload", self.reload)]

    async def reload(self, request: web.Request) -> web.Response:
        return json_answer(await self._pages.reload())


async def reload_page(reload: Reload | None) -> Json:
    """Reads the file again. AdminError 422: it is refused; 502: workers did not follow."""
    if reload is None:
        raise AdminError(409, "no_config_file", "this gateway has no configuration file to read again")
    outcome, status = await reload()
    if outcome is ReloadOutcome.REFUSED:
        raise AdminError(422, "config_refused", "\n".join(status.refused))
    if status.behind:
        told = f"{', '.join(status.behind)}; all others took it: repeat the reload, or restart these"
        raise AdminError(502, "worker_failed", told)
    return {"outcome": outcome.value, **config_page(status)}


def config_page(status: ConfigStatus) -> Json:
    """For the readiness page: what is in force, and what is wrong with the newest file, if anything."""
    page: Json = {"generation": status.generation}
    if status.adopted_s is not None:
        page["adopted_at"] = _shown(status.adopted_s)
    if status.refused and status.refused_s is not None:
        page["refused"] = list(status.refused)
        page["refused_at"] = _shown(status.refused_s)
    if status.behind:
        page["behind"] = list(status.behind)
    return page


def _shown(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
