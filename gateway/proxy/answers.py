"""Bytes of heads and of answers: what goes to a backend, to a client, and what the gateway says itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from gateway.core.model import Candidate
from gateway.proxy.errors import Refusal, reason_phrase
from gateway.proxy.headers import RequestHead, ResponseHead
from gateway.proxy.paths import Endpoint, LocalPath

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.upstream import UpstreamPool


def request_head(
    head: RequestHead, target: bytes, pool: UpstreamPool, exchange: Exchange, length: int
) -> bytes:
    """The head for a backend, written anew: its Host and credentials, the client's end-to-end headers."""
    return b"%b %b%b HTTP/1.1\r\n%b%b%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
        head.method,
        pool.path_prefix,
        target,
        pool.request_lines,
        head.credentials if pool.passes_client_credentials else b"",
        head.forward,
        exchange.connection.forwarded,
        exchange.record.request_id.encode(),
        length,
    )


def answer_head(
    head: ResponseHead, exchange: Exchange, candidate: Candidate, pool: UpstreamPool | None
) -> bytes:
    """The head for the client: the backend's own, with the framing and routing lines of this hop."""
    record = exchange.record
    if exchange.is_chunked:
        framing = b"transfer-encoding: chunked\r\n"
    elif head.length is None or head.status in (204, 304):
        framing = b""
    else:
        framing = b"content-length: %d\r\n" % head.length
    if not exchange.keeps_alive:
        framing += b"connection: close\r\n"
    routing = b""
    if pool is not None and pool.answer_lines:
        routing = (
            b"%bx-spillway-attempts: %d\r\nx-spillway-queue-ms: 0\r\nx-spillway-overhead-ms: %.2f\r\n"
            % (
                pool.answer_lines,
                record.attempts,
                record.overhead_s * 1000,
            )
        )
        if candidate.tier != record.preferred_tier:
            routing += b"x-spillway-spill-reason: %b\r\n" % candidate.reason.encode()
    return b"%bx-request-id: %b\r\n%b%b\r\n" % (
        head.forward,
        record.request_id.encode(),
        routing,
        framing,
    )


class LocalAnswer(NamedTuple):
    """An answer of the gateway's own; `headers` are whole lines."""

    status: int
    body: bytes
    headers: bytes = b""


def local_answer(answer: LocalAnswer, exchange: Exchange) -> bytes:
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b"
        % (
            answer.status,
            reason_phrase(answer.status),
            len(answer.body),
            exchange.record.request_id.encode(),
            answer.headers,
            b"" if exchange.keeps_alive else b"connection: close\r\n",
            answer.body,
        )
    )


def local(endpoint: Endpoint, plane: DataPlane) -> LocalAnswer:
    """Answers a path that is the gateway's own. Raises Refusal."""
    if endpoint.local_path is LocalPath.MODELS:
        return LocalAnswer(200, plane.models_body)
    if endpoint.local_path is LocalPath.ALIVE:
        return LocalAnswer(200, orjson.dumps({"live": True}))
    serving = plane.view.serving(endpoint.model)
    if endpoint.local_path is LocalPath.MODEL_READY:
        if serving is None:
            raise Refusal(404, "model_not_found", "No cluster serves this model.", param="model")
        is_ready = bool(serving.tiers)
        return LocalAnswer(
            200 if is_ready else 503, orjson.dumps({"name": endpoint.model, "ready": is_ready})
        )
    is_ready = not plane.is_draining and plane.view.has_open_backend
    return LocalAnswer(200 if is_ready else 503, orjson.dumps({"ready": is_ready}))
