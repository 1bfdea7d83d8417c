"""What the spans of one exchange say, by OpenTelemetry's conventions for HTTP and GenAI.

Nothing here knows the SDK. No header, query, body or credential is ever in a record, so none gets into a
span.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.core.model import Outcome, Verdict
from gateway.ports import AttemptTrace, RequestRecord
from gateway.telemetry.access_log import MAX_ID_CHARS, MAX_MODEL_CHARS, MAX_PATH_CHARS

Attributes = dict[str, str | int | float | bool]

# gen_ai.operation.name and gen_ai.provider.name by endpoint; the provider is whose API the client speaks.
_GEN_AI: dict[str, tuple[str, str]] = {
    "/v1/chat/completions": ("chat", "openai"),
    "/v1/responses": ("chat", "openai"),
    "/v1/completions": ("text_completion", "openai"),
    "/v1/embeddings": ("embeddings", "openai"),
    "/v1/messages": ("chat", "anthropic"),
}


class SpanContent(NamedTuple):
    """`first_byte_s` and the ends are the record's own monotonic seconds."""

    name: str
    attributes: Attributes
    is_error: bool
    began_s: float
    ended_s: float
    first_byte_s: float | None


def exchange_span(record: RequestRecord) -> SpanContent:
    """The exchange, as the client saw it."""
    path = record.path[:MAX_PATH_CHARS]
    attributes = _known(
        {
            "http.request.method": record.method[:MAX_ID_CHARS] or "_OTHER",
            "http.route": path,
            "http.response.status_code": record.status,
            "http.request.body.size": record.bytes_in,
            "http.response.body.size": record.bytes_out,
            "client.address": record.client,
            "spillway.request_id": record.request_id[:MAX_ID_CHARS],
            "spillway.cluster": record.cluster,
            "spillway.tier": record.tier,
            "spillway.backend": record.backend,
            "spillway.spill_reason": record.spill_reason,
            **_outcome_attributes(record.outcome),
        }
    )
    attributes |= _model_attributes(record, record.model)
    attributes["spillway.stream"] = record.stream
    attributes["spillway.attempts"] = record.attempts
    attributes["spillway.hedged"] = record.hedge is not None
    # A caller's error is none of the server's own (HTTP conventions).
    is_error = record.status >= 500 or _is_dropped(record.outcome)
    if record.error_code is not None or record.status >= 500:
        attributes["error.type"] = record.error_code or str(record.status)
    first_byte_s = None if record.ttft_s is None else record.started_s + record.ttft_s
    ended_s = record.started_s + record.duration_s
    name = f"{record.method or 'HTTP'} {path}".rstrip()[: 2 * MAX_PATH_CHARS]
    return SpanContent(name, attributes, is_error, record.started_s, ended_s, first_byte_s)


def attempt_span(record: RequestRecord, number: int, attempt: AttemptTrace) -> SpanContent:
    """One attempt, `number` from 0, as the gateway saw its backend."""
    candidate = attempt.candidate
    host, port = _address(candidate.backend.url)
    attributes = _known(
        {
            "http.request.method": record.method[:MAX_ID_CHARS],
            "http.response.status_code": attempt.status,
            "server.address": host,
            "server.port": port,
            "spillway.cluster": candidate.cluster,
            "spillway.tier": candidate.tier,
            "spillway.backend": candidate.backend.id,
            "spillway.attempt_reason": str(candidate.reason),
            "spillway.probe": candidate.is_probe,
            "http.request.resend_count": number,
            **_outcome_attributes(attempt.outcome),
        }
    )
    attributes |= _model_attributes(record, candidate.upstream_model or record.model)
    status = attempt.status or 0
    is_error = status >= 400 or _is_dropped(attempt.outcome)
    if is_error:
        reason = attempt.outcome.reason.value if attempt.outcome is not None else ""
        attributes["error.type"] = str(status) if status >= 400 else reason
    ended_s = record.started_s + record.duration_s if attempt.ended_s is None else attempt.ended_s
    return SpanContent(
        _attempt_name(record), attributes, is_error, attempt.began_s, ended_s, attempt.first_byte_s
    )


def _attempt_name(record: RequestRecord) -> str:
    """Of few values: the configured model, never what a client made up."""
    operation, _ = _GEN_AI.get(record.path, ("", ""))
    if not operation:
        return f"{record.method} {record.path[:MAX_PATH_CHARS]}"
    return operation if record.route_model == "other" else f"{operation} {record.route_model}"


def _model_attributes(record: RequestRecord, model: str | None) -> Attributes:
    attributes: Attributes = {}
    if record.path in _GEN_AI:
        attributes["gen_ai.operation.name"], attributes["gen_ai.provider.name"] = _GEN_AI[record.path]
    if model:
        # Bytes that were not UTF-8 cannot be sent.
        attributes["gen_ai.request.model"] = model[:MAX_MODEL_CHARS].encode("utf-8", "replace").decode()
    return attributes


def _outcome_attributes(outcome: Outcome | None) -> dict[str, str | None]:
    if outcome is None:
        return {}
    return {"spillway.outcome": outcome.verdict.value, "spillway.reason": outcome.reason.value}


def _is_dropped(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.verdict is Verdict.DROPPED


def _known(values: dict[str, str | int | bool | None]) -> Attributes:
    """Without what is not known: None, empty texts, and numbers that are 0."""
    return {name: value for name, value in values.items() if value}


@lru_cache(maxsize=4096)  # one entry for each backend
def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
