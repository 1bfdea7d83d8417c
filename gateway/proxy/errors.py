"""Errors of the data port: raised narrowly, translated once, always in the OpenAI shape."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from gateway.core.model import Outcome, Reason, ShedReason

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# Why a request was refused without a word with a backend, for the metric.
_CAUSES = {
    400: "invalid",
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    405: "method",
    408: "too_slow",
    411: "malformed",
    413: "body_too_large",
    414: "head_too_large",
    415: "content_type",
    417: "expectation",
    431: "head_too_large",
    505: "malformed",
}
SHOULD_NOT_RETRY = b"x-should-retry: false\r\n"
# Never reflect more than this of what a client sent.
MAX_REFLECTED_CHARS = 64


class Refusal(Exception):
    """A request answered by the gateway itself. `closes`: the connection can't be trusted afterwards."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        closes: bool = False,
        headers: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.closes = closes
        self.headers = headers
        self.outcome: Outcome | None = None  # None: what the status says
        self.cause = _CAUSES.get(status)  # a label of refused_total; None: not the request's own fault
        if status == 400 and closes:
            self.cause = "malformed"

    def body(self) -> bytes:
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": error_type(self.status),
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


def error_type(status: int) -> str:
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def invalid(message: str, *, param: str | None = None, status: int = 400) -> Refusal:
    """A request that is well framed but says something wrong: the connection stays."""
    return Refusal(status, "invalid_request", message, param=param)


def malformed(message: str, *, status: int = 400) -> Refusal:
    """A request whose framing can't be trusted: one answer, then the connection is closed."""
    return Refusal(status, "invalid_request", message, closes=True)


def body_too_large(limit_bytes: int) -> Refusal:
    return Refusal(
        413, "body_too_large", f"The request body is larger than {limit_bytes} bytes.", closes=True
    )


def framing_too_large() -> Refusal:
    refusal = malformed("Too much chunk framing for the body it carries.", status=431)
    refusal.cause = "framing_too_large"
    return refusal


def out_of_memory() -> Refusal:
    """The gateway's own memory is used up; another one may serve the request."""
    refusal = Refusal(
        503, "overloaded", "The gateway is out of memory.", closes=True, headers=retry_after_lines(1.0)
    )
    refusal.cause = "max_memory"
    return refusal


def reflected(text: str) -> str:
    """What a client sent, short and printable, for an error message."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:MAX_REFLECTED_CHARS])
    return shown + ("…" if len(text) > MAX_REFLECTED_CHARS else "")


def shed(reason: ShedReason, model: str | None, retry_after_s: float = 1.0) -> Refusal:
    named = f" for model '{reflected(model)}'" if model else ""
    if reason is ShedReason.MODEL_NOT_FOUND:
        return Refusal(404, reason, f"No cluster serves the model '{reflected(model or '')}'.", param="model")
    if reason is ShedReason.RESIDENCY_UNAVAILABLE:
        return Refusal(503, reason, f"No cluster{named} is where this request may be answered.")
    if reason is ShedReason.NO_BACKEND:
        return Refusal(
            503, reason, f"No backend{named} takes requests now: each is drained, ejected or missing."
        )
    message = (
        f"No slot{named} came free in the time that a request may wait."
        if reason is ShedReason.QUEUE_TIMEOUT
        else f"Every backend{named} is full."
    )
    return Refusal(429, reason, message, headers=retry_after_lines(retry_after_s))


def retry_after_lines(seconds: float) -> bytes:
    """Whole seconds, upwards, for all clients; milliseconds for those that know that header."""
    return b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (max(-(-seconds // 1), 1), max(seconds * 1000, 1))


# What the client is told when the last attempt failed before the first byte.
_FAILED: dict[Reason, tuple[int, str, str]] = {
    Reason.CONNECT_FAILED: (502, "upstream_unreachable", "No backend could be reached."),
    Reason.CONNECT_TIMEOUT: (502, "upstream_unreachable", "No backend could be reached in time."),
    Reason.RESET: (502, "upstream_unreachable", "The backend closed the connection before it answered."),
    Reason.BAD_RESPONSE: (502, "upstream_unreachable", "The backend's answer was not valid HTTP."),
    Reason.TRUNCATED: (502, "upstream_unreachable", "The backend's answer was cut short."),
    # The backend's own error answer was held for a retry, broke off meanwhile, and nobody else had room.
    Reason.SERVER_ERROR: (502, "upstream_unreachable", "The backend's answer was cut short."),
    Reason.BACKEND_FULL: (502, "upstream_unreachable", "The backend's answer was cut short."),
    Reason.FIRST_BYTE_TIMEOUT: (504, "upstream_timeout_first_byte", "The backend sent no byte in time."),
    Reason.STALL_TIMEOUT: (504, "upstream_timeout_stall", "The backend stopped sending."),
    Reason.TOTAL_TIMEOUT: (504, "upstream_timeout_total", "The request took longer than it may."),
    Reason.CLIENT_LEFT: (504, "upstream_timeout_total", "The deadline of the request has passed."),
    Reason.SHUTDOWN: (503, "no_backend", "The gateway is shutting down."),
}


def attempt_failed(reason: Reason) -> Refusal:
    """`x-should-retry: false`: the gateway has spent the request's retries already.

    Not at its own end: another gateway, or the next one here, may well serve the request. CLIENT_LEFT is
    the client's own deadline.
    """
    status, code, message = _FAILED[reason]
    if reason is Reason.SHUTDOWN:
        return Refusal(status, code, message, closes=True)
    refusal = Refusal(status, code, message, headers=SHOULD_NOT_RETRY)
    if reason is Reason.CLIENT_LEFT:
        refusal.outcome = Outcome.of(reason)
    return refusal


def reason_phrase(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()
