"""Bytes of heads and of answers: what goes to a backend, to a client, and what the gateway says itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from gateway.core.fleet import FleetView
from gateway.core.model import Candidate, Outcome, Verdict
from gateway.core.retries import may_succeed_elsewhere, reason_of_status
from gateway.proxy.errors import SHOULD_NOT_RETRY, Refusal, reason_phrase
from gateway.proxy.headers import RequestHead, ResponseHead
from gateway.proxy.paths import Endpoint, LocalPath

if TYPE_CHECKING:
    from gateway.core.admission import KeyUse
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.pool import UpstreamPool


def request_head(
    head: RequestHead, forward: bytes, target: bytes, pool: UpstreamPool, exchange: Exchange, lines: bytes
) -> bytes:
    """The head for a backend, written anew: its Host and credentials, the client's end-to-end headers.

    `forward` are the lines of these, `lines` those of this hop: the body's length, or a tunnel's handshake.
    """
    return b"%b %b%b HTTP/1.1\r\n%b%b%b%bx-request-id: %b\r\n%b\r\n" % (
        head.method,
        pool.endpoint.prefix,
        target,
        pool.request_lines,
        head.credentials if pool.endpoint.pass_client else b"",
        forward,
        exchange.connection.forwarded,
        exchange.record.request_id.encode(),
        lines,
    )


def switch_head(head: ResponseHead, exchange: Exchange, candidate: Candidate | None) -> bytes:
    """The 101 for the client."""
    return b"%bx-request-id: %b\r\n%b\r\n" % (
        head.forward,
        exchange.record.request_id.encode(),
        routing_lines(candidate, exchange) if candidate is not None else b"",
    )


def answer_head(head: ResponseHead, exchange: Exchange, candidate: Candidate | None) -> bytes:
    """The head for the client: the backend's own, with the framing and routing lines of this hop."""
    status, forward, length = head.status, head.forward, head.length
    routing = routing_lines(candidate, exchange) if candidate is not None else b""
    request_id = exchange.record.request_id.encode()
    if length is not None and exchange.keeps_alive and status < 300 and status != 204:  # the usual one
        return b"%bx-request-id: %b\r\n%bcontent-length: %d\r\n\r\n" % (forward, request_id, routing, length)
    return b"%bx-request-id: %b\r\n%b%b\r\n" % (forward, request_id, routing, _framing(head, exchange))


def _framing(head: ResponseHead, exchange: Exchange) -> bytes:
    if exchange.is_chunked:
        framing = b"transfer-encoding: chunked\r\n"
    elif head.length is None or head.status in (204, 304):
        framing = b""
    else:
        framing = b"content-length: %d\r\n" % head.length
    if not exchange.keeps_alive:
        framing += b"connection: close\r\n"
    if head.status >= 500 and exchange.record.attempts > 1 and _is_final(head):
        framing += SHOULD_NOT_RETRY
    return framing


def _is_final(head: ResponseHead) -> bool:
    """A failure that comes after others: the client need not repeat what was tried for it already.

    A full backend says itself when to come back, and who says what he wants of retries is not corrected.
    """
    failed = Outcome.of(reason_of_status(head.status)).verdict is Verdict.DROPPED
    return failed and may_succeed_elsewhere(head.status) and b"x-should-retry:" not in head.forward.lower()


def routing_lines(candidate: Candidate, exchange: Exchange) -> bytes:
    """Where the request went and why, for the client."""
    record = exchange.record
    if record.attempts == 1 and record.held is None:
        known = _at_once.get(id(candidate))
        lines = known[1] if known is not None and known[0] is candidate else _learn_at_once(candidate)
    else:
        lines = _place_lines(candidate, record.attempts, record.held.seconds if record.held else 0.0)
    hundredths = int(record.overhead_s * 100_000 + 0.5)
    lines += _OVERHEAD[hundredths] if hundredths < len(_OVERHEAD) else _overhead_line(hundredths)
    if candidate.tier != record.preferred_tier:
        lines += b"x-spillway-spill-reason: %b\r\n" % candidate.reason.encode()
    return lines


def _place_lines(candidate: Candidate, attempts: int, held_s: float) -> bytes:
    return (
        b"x-spillway-cluster: %b\r\nx-spillway-tier: %b\r\nx-spillway-backend: %b\r\n"
        b"x-spillway-attempts: %d\r\nx-spillway-queue-ms: %d\r\n"
        % (
            candidate.cluster.encode(),
            candidate.tier.encode(),
            candidate.backend.id.encode(),
            attempts,
            held_s * 1000,
        )
    )


# Those of a first attempt without a wait. Plans have the same candidates until the fleet changes, and to
# compare these would cost more than to write the lines anew: so they are known by their identity.
_at_once: dict[int, tuple[Candidate, bytes]] = {}
MAX_REMEMBERED_CANDIDATES = 4096


def _learn_at_once(candidate: Candidate) -> bytes:
    if len(_at_once) >= MAX_REMEMBERED_CANDIDATES:
        _at_once.clear()
    lines = _place_lines(candidate, 1, 0.0)
    _at_once[id(candidate)] = (candidate, lines)
    return lines


def _overhead_line(hundredths: int) -> bytes:
    """Of milliseconds."""
    return b"x-spillway-overhead-ms: %.2f\r\n" % (hundredths / 100)


# Nearly all: to format one costs as much as all else here.
_OVERHEAD = tuple(map(_overhead_line, range(200)))


class LocalAnswer(NamedTuple):
    """An answer of the gateway's own; `headers` are whole lines."""

    status: int
    body: bytes
    headers: bytes = b""


def local_answer(answer: LocalAnswer, exchange: Exchange) -> bytes:
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"x-request-id: %b\r\n%b%b\r\n%b"
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


def unasked_answer(refusal: Refusal, request_id: str) -> bytes:
    """An error for a connection of which no request is read; the connection ends with it."""
    body = refusal.body()
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"x-request-id: %b\r\n%bconnection: close\r\n\r\n%b"
        % (
            refusal.status,
            reason_phrase(refusal.status),
            len(body),
            request_id.encode(),
            refusal.headers,
            body,
        )
    )


def local(endpoint: Endpoint, plane: DataPlane, key: KeyUse | None = None) -> LocalAnswer:
    """Answers a path that is the gateway's own, with what the owner of `key` may know. Raises Refusal."""
    if endpoint.local_path is LocalPath.MODELS:
        return LocalAnswer(200, models_body(plane.view, key))
    if endpoint.local_path is LocalPath.ALIVE:
        return LocalAnswer(200, orjson.dumps({"live": True}))
    serving = plane.view.serving(endpoint.model, key.rules.residency if key is not None else None)
    if endpoint.local_path is LocalPath.MODEL_READY:
        if serving is None or (key is not None and not key.rules.allows(endpoint.model)):
            raise Refusal(404, "model_not_found", "No cluster serves this model.", param="model")
        is_ready = bool(serving.tiers)
        return LocalAnswer(
            200 if is_ready else 503, orjson.dumps({"name": endpoint.model, "ready": is_ready})
        )
    is_ready = not plane.is_draining and plane.view.has_open_backend
    return LocalAnswer(200 if is_ready else 503, orjson.dumps({"ready": is_ready}))


def models_body(view: FleetView, key: KeyUse | None = None) -> bytes:
    """The models that the owner of `key` may name, in OpenAI's shape; patterns can't be listed."""
    names = {
        name: None
        for cluster in view.clusters.values()
        for name in cluster.cluster.models
        if "*" not in name and (key is None or key.rules.allows(name))
    }
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "spillway"} for name in names],
        }
    )
