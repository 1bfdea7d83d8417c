"""What became of a request, in words, from its access-log line alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from gateway.core.taxonomy import LESSONS, Reason

_SPILL_WORDS = {
    "full": "it had no free slot",
    "drained": "it was drained",
    "ejected": "most of it was ejected, or had been lately",
    "unhealthy": "it failed its health probes",
    "failed": "an attempt before this one had failed",
    "hedged": "a second attempt beside a slow first one was faster",
    "probe": "a backend whose circuit was half-open took it as its trial",
    "panic": "nothing else was left than backends that are ejected",
}
_CODE_WORDS = {
    "no_capacity": "every backend that may serve it was full",
    "no_backend": "nobody who may serve it was there",
    "queue_timeout": "no slot came free while it waited",
    "model_not_found": "no cluster is configured for this model, or its key may not ask for it",
    "residency_unavailable": "clusters are configured for this model, but none where it may be answered, by "
    "its key's residency and its x-spillway-residency",
    "unauthorized": "it showed no key that is good here",
    "rate_limited": "its key was at its limit, of requests in flight or of its rate",
    "invalid_request": "it was not valid; the answer said what was wrong",
    "body_too_large": "its body was larger than max_body",
    "not_found": "its path is not served",
    "method_not_allowed": "its path takes another method",
    "upstream_unreachable": "no backend could be reached",
    "upstream_timeout_first_byte": "no backend gave a first byte in time",
    "upstream_timeout_stall": "the backend fell silent in the middle of its answer",
    "upstream_timeout_total": "it took longer than a request may take",
}
_FAILED_BEFORE_A_BYTE = ("upstream_unreachable", "upstream_timeout_first_byte")


class BadLine(ValueError):
    """This is no line of the access log."""


class Told(NamedTuple):
    """What the line says."""

    request_id: str
    sentences: tuple[str, ...]


def explain_line(line: str) -> Told:
    """Raises BadLine. Lines of older versions, with fewer fields, tell less."""
    try:
        fields = orjson.loads(line)
    except ValueError as exc:
        raise BadLine(f"is not JSON: {exc}") from exc
    if not isinstance(fields, dict) or not {"status", "outcome", "attempts"} <= fields.keys():
        raise BadLine("is no line of Spillway's access log: it has no status, outcome or attempts")
    try:
        sentences = tuple(_sentences(fields))
    except (TypeError, ValueError, KeyError) as exc:
        raise BadLine(f"has a field of another kind than the access log's: {exc}") from exc
    return Told(str(fields.get("request_id", "")), sentences)


def _sentences(fields: dict[str, Any]) -> Iterator[str]:
    yield _request(fields)
    yield from _way(fields)
    yield from _repeats(fields)
    yield _end(fields)


def _request(fields: dict[str, Any]) -> str:
    model = fields.get("model")
    what = (
        f"{fields.get('method', '')} {fields.get('path', '')}".strip() or "a request that could not be read"
    )
    rule = fields.get("route_model")
    by = f" (by the rule {rule})" if model and rule not in (None, "other", model) else ""
    named = f" for {model}{by}" if model else ""
    owner = f", with the key of {fields['key']}" if fields.get("key") else ""
    ended = fields.get("ts", "at an unknown time")
    return f"{fields.get('request_id', '?')}: {what}{named}{owner}, ended {ended}."


def _way(fields: dict[str, Any]) -> Iterator[str]:
    preferred, tier = fields.get("preferred_tier"), fields.get("tier")
    if fields.get("backend"):
        yield f"It went to {fields['backend']}, cluster {fields['cluster']}, tier {tier}."
    elif fields.get("error_code"):
        code = fields["error_code"]
        words = f": {_CODE_WORDS[code]}" if code in _CODE_WORDS else ""
        yield f"No backend was tried. It was refused with {code}{words}."
        yield from _fault(fields)
    spill = fields.get("spill_reason")
    if spill is not None:
        not_to = f"the preferred tier {preferred}" if preferred else "the preferred tier"
        yield f"Why not {not_to} ({spill}): {_SPILL_WORDS.get(spill, 'see the documentation')}."
    elif fields.get("backend"):
        yield "That is the tier where it would best run."
    if waited_ms := fields.get("queue_ms"):
        yield f"It waited {waited_ms:.1f} ms for a slot."
    if passed_over := fields.get("passed_over"):
        when = "When its first attempt began" if fields.get("backend") else "When it was refused"
        yield f"{when}, these backends did not serve it: {passed_over}."


def _fault(fields: dict[str, Any]) -> Iterator[str]:
    """What was wrong with a request that was refused for what it is."""
    refused, param = fields.get("refused"), fields.get("param")
    if refused and param:
        yield f"What was wrong: {param} ({refused})."
    elif refused:
        yield f"What was wrong: {refused}."


def _repeats(fields: dict[str, Any]) -> Iterator[str]:
    if retried := fields.get("retried"):
        failures = [_failure(entry) for entry in str(retried).split(", ")]
        yield f"{fields['attempts']} attempts. Before the last one failed: {'; '.join(failures)}."
    elif fields["attempts"] > 1:
        yield f"{fields['attempts']} attempts."
    if denied := fields.get("denied_retry"):
        yield f"The retry budget was spent, so nothing followed this failure: {_failure(str(denied))}."
    elif fields.get("backend") and fields.get("error_code") in _FAILED_BEFORE_A_BYTE:
        yield "Nobody else could try: none had room, none was fast enough, or `retry.attempts` was reached."
    if hedge := fields.get("hedge"):
        cluster, _, became = str(hedge).partition(" ")
        yield f"A second attempt ran beside the first, in {cluster}, and {became}."


def _failure(entry: str) -> str:
    """`eu-primary reset` with what that means."""
    cluster, _, reason = entry.rpartition(" ")
    return f"{cluster} by {reason} ({_happened(reason)})" if cluster else entry


def _happened(reason: str) -> str:
    return LESSONS[Reason(reason)].happened if reason in Reason.__members__.values() else "unknown here"


def _clock(fields: dict[str, Any]) -> str:
    ttft_ms, overhead_ms = fields.get("ttft_ms"), max(fields.get("overhead_ms", 0.0), 0.0)
    own = f"{overhead_ms:.1f} ms of it the gateway's own"
    first = f"first byte after {ttft_ms:.1f} ms, {own}; " if ttft_ms else ""
    return f" ({first}all after {fields.get('duration_ms', 0.0):.1f} ms)"


def _end(fields: dict[str, Any]) -> str:
    outcome, reason, status = fields["outcome"], fields.get("reason"), fields["status"]
    sent = f"The client got {status}" if status else "The client got no status"
    clock = _clock(fields)
    code = fields.get("error_code")
    with_code = f" with {code}" if code and fields.get("backend") else ""
    if outcome is None:
        return f"{sent}{with_code}{clock}. The gateway itself failed; its own log says how."
    if code and not fields.get("backend"):  # the refusal has been told
        return f"{sent}{clock}."
    words = _CODE_WORDS.get(str(code))
    if code == "upstream_unreachable" and reason != "server_error":
        words = None  # the reason says more; that one says it of an answer, which the client has not got
    happened = "" if reason == "completed" else f", {words or _happened(str(reason))}"
    return f"{sent}{with_code}{clock}. Outcome {outcome}: {reason}{happened}."
