"""Drain and undrain of clusters and backends."""

from __future__ import annotations

import orjson
from aiohttp import web

from gateway.admin.answers import AdminError, json_answer
from gateway.admin.durations import parse_drain_s
from gateway.admin.pages import BEFORE_HEADER, DrainOrder, Pages


class DrainRoutes:
    """`POST /api/v1/clusters/{name}/drain` and its three siblings."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        # A backend's id may hold slashes: cluster@host:port/prefix.
        return [
            web.post("/api/v1/{kind:clusters|backends}/{name:.+}/drain", self.drain),
            web.post("/api/v1/{kind:clusters|backends}/{name:.+}/undrain", self.undrain),
        ]

    async def drain(self, request: web.Request) -> web.Response:
        for_s = await _asked_duration_s(request)
        return await self._mark(request, is_drain=True, for_s=for_s)

    async def undrain(self, request: web.Request) -> web.Response:
        return await self._mark(request, is_drain=False)

    async def _mark(self, request: web.Request, is_drain: bool, for_s: float | None = None) -> web.Response:
        kind, name = request.match_info["kind"], request.match_info["name"]
        order = DrainOrder(kind, name, is_drain, for_s, _before_s(request))
        return json_answer(await self._pages.mark(order))


def _before_s(request: web.Request) -> float | None:
    text = request.headers.get(BEFORE_HEADER)
    try:
        return None if text is None else float(text)
    except ValueError as exc:
        raise AdminError(
            400, "invalid_request", f"{BEFORE_HEADER}: a time in seconds", BEFORE_HEADER
        ) from exc


async def _asked_duration_s(request: web.Request) -> float | None:
    """`for` in the query or the JSON body: `60s`, or a number of seconds; None for no end."""
    asked: object = request.query.get("for")
    if asked is None and (body := await request.read()):
        asked = _for_of(body)
    if asked is None:
        return None
    try:
        return parse_drain_s(f"{asked}s" if type(asked) in (int, float) else str(asked))
    except ValueError as exc:
        raise AdminError(400, "invalid_request", f"for: {exc}", "for") from exc


def _for_of(body: bytes) -> object:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise AdminError(400, "invalid_request", f"the body is not JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise AdminError(400, "invalid_request", 'the body must be an object such as {"for": "60s"}')
    for name in content:
        if name != "for":
            raise AdminError(400, "invalid_request", f"unknown field {name!r}; known: for", name)
    return content.get("for")
