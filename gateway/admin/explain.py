"""`GET /api/v1/explain?model=…&header=name:value`: what would happen to such a request, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from gateway.admin.answers import AdminError, json_answer
from gateway.admin.explain_query import ExplainQuery, parse_draw, parse_header
from gateway.admin.pages import Pages

T = TypeVar("T")

_KNOWN = ("model", "header", "draw", "key")


@dataclass(frozen=True, slots=True)
class ExplainRoutes:
    """One path."""

    pages: Pages

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/explain", self.explain)]

    async def explain(self, request: web.Request) -> web.Response:
        query = request.query
        for name in query:
            if name not in _KNOWN:
                raise _bad(name, f"unknown parameter {name!r}; known: {', '.join(_KNOWN)}")
        headers = tuple(_parsed(parse_header, "header", text) for text in query.getall("header", ()))
        draw = _parsed(parse_draw, "draw", query["draw"]) if "draw" in query else None
        return json_answer(
            await self.pages.explain(ExplainQuery(query.get("model"), headers, draw, query.get("key")))
        )


def _parsed(parse: Callable[[str], T], param: str, text: str) -> T:
    try:
        return parse(text)
    except ValueError as exc:
        raise _bad(param, f"{param}: {exc}") from exc


def _bad(param: str, message: str) -> AdminError:
    return AdminError(400, "invalid_request", message, param)
