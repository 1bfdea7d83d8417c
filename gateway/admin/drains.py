"""Drain and undrain of clusters and backends."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from aiohttp import web

from gateway.admin.answers import AdminError, json_answer
from gateway.admin.durations import parse_drain_s
from gateway.admin.fleet_page import drain_mark
from gateway.admin.ports import AdminPorts
from gateway.core.fleet import FOREVER_S, BackendState, ClusterState, Drained, Undrained, UnknownName


class DrainRoutes:
    """`POST /api/v1/clusters/{name}/drain` and its three siblings."""

    def __init__(self, ports: AdminPorts) -> None:
        self._ports = ports

    def routes(self) -> list[web.RouteDef]:
        # A backend's id may hold slashes: cluster@host:port/prefix.
        return [
            web.post("/api/v1/{kind:clusters|backends}/{name:.+}/drain", self.drain),
            web.post("/api/v1/{kind:clusters|backends}/{name:.+}/undrain", self.undrain),
        ]

    async def drain(self, request: web.Request) -> web.Response:
        for_s = await _asked_duration_s(request)
        state = self._state(request)
        until_s = FOREVER_S if for_s is None else self._ports.clock() + for_s
        return self._apply(request, Drained(request.match_info["name"], until_s), state)

    async def undrain(self, request: web.Request) -> web.Response:
        return self._apply(request, Undrained(request.match_info["name"]), self._state(request))

    def _apply(
        self, request: web.Request, event: Drained | Undrained, state: ClusterState | BackendState
    ) -> web.Response:
        try:
            self._ports.apply(event)
        except UnknownName as exc:  # a reload took it away in this moment
            raise _not_found(request, ()) from exc
        mark = drain_mark(state, self._ports.clock())
        return json_answer({"name": event.name, "in_flight": state.in_flight, **mark})

    def _state(self, request: web.Request) -> ClusterState | BackendState:
        view, name = self._ports.view, request.match_info["name"]
        known: Mapping[str, ClusterState | BackendState]
        known = view.clusters if request.match_info["kind"] == "clusters" else view.backends
        if name not in known:
            raise _not_found(request, known)
        return known[name]


def _not_found(request: web.Request, known: object) -> AdminError:
    kind = request.match_info["kind"].removesuffix("s")
    names = ", ".join(sorted(known)) if isinstance(known, Mapping) and known else "none"
    message = f"no {kind} is named {request.match_info['name']!r}; known: {names}"
    return AdminError(404, f"{kind}_not_found", message, kind)


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
