"""Every field of an access-log line, in one table: docs/access-log.md is made from it.

That access_log.py writes exactly these, with these types, is what its tests say.
"""

from __future__ import annotations

from typing import NamedTuple

NEVER = "never"


class LogField(NamedTuple):
    """One field. `kind` is its JSON type; `when_null`: when it is null, or empty for a text without null."""

    name: str
    kind: type
    unit: str
    when_null: str
    meaning: str
    is_optional: bool = False  # left out of the line in place of null


_NO_ATTEMPT = "empty when no backend was tried"

FIELDS: tuple[LogField, ...] = (
    LogField(
        "ts", str, "RFC 3339, UTC, milliseconds", NEVER, "When the request ended: `2026-11-24T00:11:52.167Z`."
    ),
    LogField(
        "request_id",
        str,
        "",
        NEVER,
        "The client's `x-request-id` if it was well formed, else a new one; sent to the backend and back. At "
        "most 128 characters.",
    ),
    LogField(
        "client", str, "IP address", "empty when it is not known", "The other end of the client's connection."
    ),
    LogField("method", str, "", "empty when the request's head could not be read", "Of the request."),
    LogField(
        "path",
        str,
        "",
        "empty when the request's head could not be read",
        "The endpoint, never the query; `/v1/images/*` and the like for families of paths. Of a path that is "
        "not served only what a served one begins or ends with too, so that nothing of a client's own choice "
        "is here: `/v1/chat/*`, `/*/chat/completions`, `/*`.",
    ),
    LogField(
        "model",
        str,
        "",
        "null when the request names none, or was refused before that was read",
        "What the client asked for; at most 128 characters.",
    ),
    LogField(
        "route_model",
        str,
        "",
        NEVER,
        "The configured name or pattern that `model` matched; `other` where a cluster of any model serves it "
        "or nothing was planned. Bounded: the label of the metrics.",
    ),
    LogField("stream", bool, "", NEVER, "Whether the client asked for a stream; false until that is read."),
    LogField(
        "status",
        int,
        "HTTP status",
        NEVER,
        "Sent to the client; 101 for a WebSocket tunnel, 0 when it left before any.",
    ),
    LogField(
        "error_code",
        str,
        "",
        "null when the answer is a backend's, and whole",
        "Of an error that the gateway itself made: see [the list](http-interface.md#errors). `tunnel_idle` "
        "and `tunnel_total`: it ended a WebSocket tunnel at that limit.",
    ),
    LogField(
        "outcome",
        str,
        "",
        "null after a defect of the gateway",
        "`success`; `ignored` (the caller's error, the client left or its deadline passed, no room); "
        "`dropped` (the backend failed).",
    ),
    LogField(
        "reason",
        str,
        "",
        "null like `outcome`",
        "What happened: `completed`, or one of "
        "[these](circuit-breaker.md#what-each-end-of-an-attempt-teaches).",
    ),
    LogField(
        "cluster", str, "", _NO_ATTEMPT, "Of the last attempt; of two that raced, of the one that went on."
    ),
    LogField("tier", str, "", _NO_ATTEMPT, "Like `cluster`."),
    LogField("backend", str, "", _NO_ATTEMPT, "Like `cluster`: `cluster@host:port`, and its path if any."),
    LogField("attempts", int, "count", NEVER, "Tries at backends, hedges included; 0 when there was none."),
    LogField(
        "hedged", bool, "", NEVER,
        "Whether a second attempt ran beside the first: see [`hedge`](configuration.md#hedge).",
    ),
    LogField(
        "preferred_tier",
        str,
        "",
        "empty when nothing was planned",
        "Where the request would best have run.",
    ),
    LogField(
        "spill_reason",
        str,
        "",
        "null when the preferred tier served, or nobody was tried",
        "Why not the preferred tier: `full`, `drained`, `unhealthy`, `ejected`, `failed`, `hedged`, `probe` "
        "or `panic`.",
    ),
    LogField(
        "ttft_ms",
        float,
        "milliseconds",
        "null when no backend's byte went to the client",
        "From the first byte of the request to the first body byte of the answer; of a tunnel to its 101.",
    ),
    LogField(
        "duration_ms",
        float,
        "milliseconds",
        NEVER,
        "From the first byte of the request to the last byte of its answer, or to the end of its tunnel.",
    ),
    LogField(
        "overhead_ms",
        float,
        "milliseconds",
        NEVER,
        "The part of `ttft_ms` that the gateway took itself: neither waiting for backends, also those that "
        "gave no byte, nor `queue_ms`; 0 without `ttft_ms`.",
    ),
    LogField(
        "queue_ms",
        float,
        "milliseconds",
        NEVER,
        "How long the request waited for a slot: see [`hold`](configuration.md#hold); 0 when it did not.",
    ),
    LogField(
        "bytes_in",
        int,
        "bytes",
        NEVER,
        "Of the request's body, as far as it was read; of a tunnel all that its client sent.",
    ),
    LogField(
        "bytes_out",
        int,
        "bytes",
        NEVER,
        "Of the answer's body, without the framing of chunks; of a tunnel all that the backend sent.",
    ),
    LogField(
        "key",
        str,
        "",
        "absent without `keys`, and when no good one was shown",
        "The name of the [client key](how-to/give-out-client-keys.md) that was shown.",
        is_optional=True,
    ),
    LogField(
        "refused",
        str,
        "",
        "absent unless the request was refused for what it is, or for want of memory",
        "Why: a `reason` of [`spillway_refused_total`](metrics.md), as `malformed` or `unreadable_body`.",
        is_optional=True,
    ),
    LogField(
        "param",
        str,
        "",
        "absent unless one field or header was wrong",
        "Which one, as in the `param` of the answer: `model`, `content-length`. Never what it held.",
        is_optional=True,
    ),
    LogField(
        "passed_over",
        str,
        "",
        "absent when the preferred tier was tried first, or nothing was planned",
        "Why the tiers above the first attempt's did not serve, at that moment, in numbers of backends: "
        "`primary: 2 full, 1 ejected; backup: 1 drained`. Of a refused request, why no tier did. `full`: no "
        "slot anywhere in the fleet, `down` that most of its cluster was not there, `empty` a cluster "
        "without backends; the others are as in "
        "`spill_reason`.",
        is_optional=True,
    ),
    LogField(
        "retried",
        str,
        "",
        "absent without an attempt that failed and was followed by another",
        "Where each of those failed, and how: `eu-primary reset, eu-second connect_timeout`.",
        is_optional=True,
    ),
    LogField(
        "denied_retry",
        str,
        "",
        "absent unless it happened",
        "The failed attempt that `retry.budget` let nothing follow, as in `retried`.",
        is_optional=True,
    ),
    LogField(
        "hedge",
        str,
        "",
        "absent unless `hedged`",
        "In which cluster the second attempt ran, and what became of it: `won`, `lost` or `failed`.",
        is_optional=True,
    ),
    LogField(
        "trace_id",
        str,
        "32 hexadecimal digits",
        "absent without `tracing`",
        "Of the [trace](how-to/trace-requests.md) that the request is part of, recorded or not.",
        is_optional=True,
    ),
)  # fmt: skip

_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}

_INTRODUCTION = """\
# The access log

One JSON object per line and request, written when the request ends. Fields stand in this order; new ones
may come. How to send it where, and questions that it answers:
[read the access log](how-to/read-the-access-log.md).

"""


def access_log_reference() -> str:
    """docs/access-log.md: every field with type, unit, when it is not there, and meaning."""
    rows = ["| field | type | unit | null or absent | meaning |", "|---|---|---|---|---|"]
    rows += [
        f"| `{field.name}` | {_KINDS[field.kind]} | {field.unit} | {field.when_null} | {field.meaning} |"
        for field in FIELDS
    ]
    return _INTRODUCTION + "\n".join(rows) + "\n"
