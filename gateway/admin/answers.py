"""Answers of the admin port: JSON, and every error in the one shape that clients of the data port know."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import orjson
from aiohttp import web

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class AdminError(Exception):
    """A refusal with its status and code; `param` names what was wrong in the request."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param


def json_answer(content: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")


def error_answer(error: AdminError) -> web.Response:
    """`{"error": {"message", "type", "param", "code"}}`"""
    by_status = "server_error" if error.status >= 500 else "invalid_request_error"
    shown = {
        "message": error.message,
        "type": _TYPES.get(error.status, by_status),
        "param": error.param,
        "code": error.code,
    }
    return json_answer({"error": shown}, error.status)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: whatever goes wrong inside leaves in the one shape."""
    try:
        answer = await handler(request)
    except AdminError as error:
        answer = error_answer(error)
        if error.status == HTTPStatus.UNAUTHORIZED:
            answer.headers["WWW-Authenticate"] = "Bearer"
    except web.HTTPException as exc:
        answer = _from_aiohttp(request, exc)
    except Exception:
        logger.exception("admin: %s %r failed", request.method, request.path)
        answer = error_answer(AdminError(500, "internal_error", "the admin port failed; its log says why"))
    answer.headers["Server"] = "spillway"
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer


def _from_aiohttp(request: web.Request, exc: web.HTTPException) -> web.Response:
    if isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exc.allowed_methods))
        message = f"{request.method} is not allowed here; allowed: {allowed}"
        answer = error_answer(AdminError(exc.status, "method_not_allowed", message))
        answer.headers["Allow"] = allowed
        return answer
    if exc.status == HTTPStatus.NOT_FOUND:
        return error_answer(AdminError(404, "not_found", f"nothing is at {request.path}"))
    status = HTTPStatus(exc.status)
    return error_answer(AdminError(exc.status, status.name.lower(), exc.reason))
