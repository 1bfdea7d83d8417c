"""Every metric there is, in one table: the exposition and docs/metrics.md are both made from it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

PREFIX = "spillway_"

# First tokens come within tens of milliseconds on an idle engine and within a minute on a long prefill.
TTFT_BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
# Up to the default `timeouts.total` of ten minutes.
DURATION_BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# A script on a server nearby takes a quarter of a millisecond; past 100 ms an exchange has failed.
EXCHANGE_BOUNDS_S = (2e-04, 5e-04, 1e-03, 2e-03, 5e-03, 1e-02, 2e-02, 5e-02, 1e-01)
# Up to `hold.max_wait`, half a second by default.
HOLD_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
# What the gateway itself adds: about 100 us when all is well.
OVERHEAD_BOUNDS_S = (5e-05, 1e-04, 2e-04, 5e-04, 1e-03, 2e-03, 5e-03, 1e-02, 2e-02, 5e-02)


class Across(StrEnum):
    """How the numbers of several workers become one. The values are what the reference page says."""

    SUM = "sum"
    MAX = "largest"
    MIN = "smallest"
    ROOM = "limit - in_flight"


class MetricSpec(NamedTuple):
    """One metric. `name` has no prefix; `kind` is counter, gauge or histogram (seconds)."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    bounds_s: tuple[float, ...] = ()
    across: Across = Across.SUM

    @property
    def full_name(self) -> str:
        return PREFIX + self.name


_BACKEND = ("cluster", "backend")
_PLACE = ("cluster", "tier")

REQUESTS = MetricSpec(
    "requests_total",
    "counter",
    ("route_model", "cluster", "tier", "outcome", "code"),
    "Requests finished. `route_model` is a configured name or pattern, else `other`; `cluster` and `tier` "
    "are empty when no backend was tried; `outcome` is success, ignored or dropped; `code` is the HTTP "
    "status sent, `none` when the client left before any.",
)
SPILLS = MetricSpec(
    "spills_total",
    "counter",
    ("from", "to", "reason"),
    "Requests served in another tier than the one they prefer, and why that one did not serve.",
)
SHEDS = MetricSpec(
    "sheds_total",
    "counter",
    ("reason",),
    "Requests refused by the gateway for want of capacity; `reason` is the error code of the answer.",
)
REFUSED = MetricSpec(
    "refused_total",
    "counter",
    ("reason",),
    "Requests refused for what they are, before any byte went to a backend: malformed, head_too_large, "
    "framing_too_large (chunk extensions, trailers), body_too_large, too_slow, expectation, method, "
    "not_found (path or model), content_type, invalid (well framed, but what it says is wrong), "
    "unauthorized, max_memory (for what the gateway is: out of memory).",
)
RETRIES = MetricSpec(
    "retries_total",
    "counter",
    ("cluster", "reason"),
    "Attempts that failed and were followed by another; the cluster that failed, and how.",
)
RETRIES_DENIED = MetricSpec(
    "retries_denied_total",
    "counter",
    ("cluster", "reason"),
    "Failed attempts that another backend could have followed, had `retry.budget` not been spent; the "
    "cluster that failed, and how.",
)
HEDGES = MetricSpec(
    "hedges_total",
    "counter",
    ("cluster", "outcome"),
    "Second attempts beside a first one, by the cluster they went to. `outcome` is won (its good answer went "
    "to the client), failed (before it had one), or lost (anything else came first).",
)
KEY_REQUESTS = MetricSpec(
    "key_requests_total",
    "counter",
    ("key", "outcome", "error_code"),
    "Requests finished, by the name of the client key that was shown; only with `keys`. `error_code` is that "
    "of an answer of the gateway's own, such as `rate_limited`, and empty for a backend's.",
)
KEY_IN_FLIGHT = MetricSpec(
    "key_in_flight", "gauge", ("key",), "Requests in flight of a client key's owner; only with `keys`."
)
BREAKER_STATE = MetricSpec(
    "breaker_state",
    "gauge",
    _BACKEND,
    "The circuit of a backend: 0 closed, 1 half-open, 2 open.",
    across=Across.MAX,
)
BREAKER_OPENED = MetricSpec(
    "breaker_opened_total",
    "counter",
    ("cluster", "backend", "reason"),
    "Openings of a backend's circuit; `reason` is that of the failure that opened it, here or, when another "
    "gateway's verdict did, there.",
)
IN_FLIGHT = MetricSpec("in_flight", "gauge", _BACKEND, "Attempts that this gateway runs on a backend now.")
LIMIT = MetricSpec(
    "limit", "gauge", _BACKEND, "The most attempts a backend may run at once.", across=Across.MAX
)
HEADROOM = MetricSpec("headroom", "gauge", _BACKEND, "limit - in_flight, never below 0.", across=Across.ROOM)
LEASES_HELD = MetricSpec("leases_held", "gauge", _BACKEND, "Slots of a backend that this gateway holds now.")
HEALTH_UP = MetricSpec(
    "health_up",
    "gauge",
    ("cluster", "backend", "probe"),
    "1 while the probes say that a backend may get work, 0 when they took it out; `probe` is `health` or "
    "`synthetic`. Absent until the first result.",
    across=Across.MIN,
)
HEALTH_AGE = MetricSpec(
    "health_age_seconds",
    "gauge",
    ("cluster", "backend", "probe"),
    "How long ago the last result of a probe came.",
    across=Across.MIN,
)
HEALTH_WEIGHT = MetricSpec(
    "health_weight_share",
    "gauge",
    _BACKEND,
    "The share of its weight that a backend asks for in its agent words; 0 when it asks for no new work.",
    across=Across.MIN,
)
READY_SHARE = MetricSpec(
    "cluster_ready_share",
    "gauge",
    ("cluster",),
    "Backends that may get new work, as a share of those that should be there.",
    across=Across.MIN,
)
ENGINE_RUNNING = MetricSpec(
    "engine_running",
    "gauge",
    _BACKEND,
    "Requests that the engine says it runs, whoever sent them; absent when older than `stale_after`.",
    across=Across.MAX,
)
ENGINE_WAITING = MetricSpec(
    "engine_waiting",
    "gauge",
    _BACKEND,
    "Requests that wait inside the engine; absent like `engine_running`.",
    across=Across.MAX,
)
ENGINE_KV_CACHE = MetricSpec(
    "engine_kv_cache_used_share",
    "gauge",
    _BACKEND,
    "The used share of the engine's KV cache; absent like `engine_running`.",
    across=Across.MAX,
)
ENGINE_AGE = MetricSpec(
    "engine_reading_age_seconds",
    "gauge",
    _BACKEND,
    "How old the last reading of an engine's metrics is.",
    across=Across.MIN,
)
TTFT = MetricSpec(
    "ttft_seconds",
    "histogram",
    _PLACE,
    "Time to the first body byte; only of requests that got one.",
    TTFT_BOUNDS_S,
)
DURATION = MetricSpec(
    "duration_seconds",
    "histogram",
    _PLACE,
    "From the first byte of a request to the last byte of its answer, refusals and failures included.",
    DURATION_BOUNDS_S,
)
OVERHEAD = MetricSpec(
    "overhead_seconds",
    "histogram",
    _PLACE,
    "The share of the duration that the gateway itself added; waiting for a slot is not in it.",
    OVERHEAD_BOUNDS_S,
)
HOLD = MetricSpec(
    "hold_seconds",
    "histogram",
    ("tier", "outcome"),
    "How long requests waited for a slot, only of those that did; `tier` is the one they waited for first. "
    "`outcome` is served (there), spilled (to another tier), timed_out (refused), or left (the client went, "
    "its deadline passed, or the gateway ended).",
    HOLD_BOUNDS_S,
)
WAITING = MetricSpec("waiting", "gauge", (), "Requests that wait for a slot now.")
STORE_DEGRADED = MetricSpec(
    "store_degraded",
    "gauge",
    (),
    "1 while the shared store can't be reached and this gateway keeps its share of the limits by itself.",
    across=Across.MAX,
)
STORE_GATEWAYS = MetricSpec(
    "store_gateways",
    "gauge",
    (),
    "Gateways that share the limits, this one included, as last heard.",
    across=Across.MAX,
)
STORE_EXCHANGE = MetricSpec(
    "store_exchange_seconds",
    "histogram",
    ("result",),
    "One exchange with the shared store; `result` is ok or failed.",
    EXCHANGE_BOUNDS_S,
)
TUNNELS = MetricSpec("tunnels", "gauge", (), "WebSocket tunnels open now.")
TUNNEL_SECONDS = MetricSpec(
    "tunnel_seconds",
    "histogram",
    _PLACE,
    "From the first byte of a request to the end of its WebSocket tunnel. Tunnels are in no other histogram; "
    "in `requests_total` their code is 101.",
    DURATION_BOUNDS_S,
)
DOWNSTREAM_CONNECTIONS = MetricSpec("downstream_connections", "gauge", (), "Client connections open now.")
REFUSED_CONNECTIONS = MetricSpec(
    "refused_connections_total",
    "counter",
    ("reason",),
    "Client connections turned away; `reason` is the setting that said so: max_connections, "
    "max_connections_per_client or max_memory.",
)
CLOSED_CONNECTIONS = MetricSpec(
    "closed_connections_total",
    "counter",
    ("reason",),
    "Client connections closed without an answer when their time was over. `reason` is write (nothing was "
    "read of an answer for `timeouts.write`) or idle (no request came within `timeouts.keep_alive`; no first "
    "one within `timeouts.request_head`). Who did not end a request gets 408: `refused_total`, too_slow.",
)
PAUSED_READING = MetricSpec(
    "paused_reading_total",
    "counter",
    ("reason",),
    "Times that a client was not read from for a while. `reason` is pipelined (as many requests wait their "
    "turn on its connection, or bytes of them, as may) or max_buffered (of all requests together).",
)
OVER_MEMORY = MetricSpec(
    "over_memory",
    "gauge",
    (),
    "1 while new connections and requests are refused because of `max_memory`.",
    across=Across.MAX,
)
BUFFERED_BYTES = MetricSpec("buffered_bytes", "gauge", (), "Bytes of request bodies held in memory now.")
ACCESS_LOG_DROPPED = MetricSpec(
    "access_log_dropped_total",
    "counter",
    (),
    "Access-log lines lost because the sink was too slow, full or broken.",
)
SPANS_DROPPED = MetricSpec(
    "spans_dropped_total",
    "counter",
    (),
    "Spans that no collector got: too many waited, or it refused them or did not answer.",
)
TELEMETRY_FAILURES = MetricSpec(
    "telemetry_failures_total",
    "counter",
    (),
    "Requests whose record could not be counted or logged: a defect of the gateway, if ever above 0.",
)

DISCOVERY_AGE = MetricSpec(
    "discovery_age_seconds",
    "gauge",
    ("cluster",),
    "How long ago the backends of a cluster with `discovery` were last known to be those; absent until the "
    "first answer.",
    across=Across.MIN,
)
DISCOVERY_FAILING = MetricSpec(
    "discovery_failing",
    "gauge",
    ("cluster",),
    "1 while discovery fails and the backends known last stay; the readiness page says why.",
    across=Across.MAX,
)
DISCOVERY_ERRORS = MetricSpec(
    "discovery_errors_total",
    "counter",
    ("cluster",),
    "Failed tries to find a cluster's backends; each is followed by another, up to 10 s later.",
)
CONFIG_GENERATION = MetricSpec(
    "config_generation",
    "gauge",
    (),
    "How many configurations have been in force since the start, this one included.",
    across=Across.MIN,
)
CONFIG_IS_NEWEST = MetricSpec(
    "config_last_reload_successful",
    "gauge",
    (),
    "0 while the configuration file is refused, or not in force at every worker; an older one is in force "
    "then, and the readiness page says why.",
    across=Across.MIN,
)
CONFIG_RELOADS = MetricSpec(
    "config_reloads_total",
    "counter",
    ("outcome",),
    "Times the configuration file was read again; `outcome` is adopted, unchanged or refused.",
)

WORKERS = MetricSpec(
    "workers", "gauge", ("state",), "Worker processes; `state` is ready, starting or draining."
)
WORKER_RESTARTS = MetricSpec(
    "worker_restarts_total", "counter", (), "Workers that ended unasked and were started again."
)
WORKER_SCRAPES_MISSED = MetricSpec(
    "worker_scrapes_missed_total",
    "counter",
    (),
    "Scrapes that a worker did not answer within 1 s. Its gauges were left out then, and its counters stood "
    "still.",
)

# What every gateway shows.
CATALOGUE: tuple[MetricSpec, ...] = (
    REQUESTS,
    SPILLS,
    SHEDS,
    REFUSED,
    RETRIES,
    RETRIES_DENIED,
    HEDGES,
    KEY_REQUESTS,
    KEY_IN_FLIGHT,
    BREAKER_STATE,
    BREAKER_OPENED,
    IN_FLIGHT,
    LIMIT,
    HEADROOM,
    LEASES_HELD,
    HEALTH_UP,
    HEALTH_AGE,
    HEALTH_WEIGHT,
    READY_SHARE,
    ENGINE_RUNNING,
    ENGINE_WAITING,
    ENGINE_KV_CACHE,
    ENGINE_AGE,
    TTFT,
    DURATION,
    OVERHEAD,
    HOLD,
    WAITING,
    STORE_DEGRADED,
    STORE_GATEWAYS,
    STORE_EXCHANGE,
    TUNNELS,
    TUNNEL_SECONDS,
    DOWNSTREAM_CONNECTIONS,
    REFUSED_CONNECTIONS,
    CLOSED_CONNECTIONS,
    PAUSED_READING,
    OVER_MEMORY,
    BUFFERED_BYTES,
    ACCESS_LOG_DROPPED,
    SPANS_DROPPED,
    TELEMETRY_FAILURES,
    DISCOVERY_AGE,
    DISCOVERY_FAILING,
    DISCOVERY_ERRORS,
    CONFIG_GENERATION,
    CONFIG_IS_NEWEST,
    CONFIG_RELOADS,
)

# What is shown beside it with `workers` above 1.
WORKERS_CATALOGUE: tuple[MetricSpec, ...] = (WORKERS, WORKER_RESTARTS, WORKER_SCRAPES_MISSED)

# The usual metrics of a process, where "sum" is not the answer.
PROCESS_ACROSS = {
    "process_start_time_seconds": Across.MIN,
    "process_max_fds": Across.MIN,
    "process_open_fds": Across.MAX,
}

_INTRODUCTION = """\
# Metrics

`GET /metrics` on the admin port, in the Prometheus text format, or OpenMetrics when `Accept` asks for it.
Label values come from the configuration, never from clients; a metric that would pass its bound of series
counts further ones under `other`. Beside these come the usual `process_*` metrics. With
[`tracing`](how-to/trace-requests.md) the OpenMetrics form shows, beside each bucket of
`spillway_ttft_seconds` and `spillway_duration_seconds`, the trace id of the last recorded request in it.

With `workers` above 1 the admin port shows all workers as one; the column "workers" says how. What a worker
that has died had counted when it was last scraped stays in the sums; what it counted after that is lost.
"""


def metrics_reference() -> str:
    """docs/metrics.md: every metric with type, labels and meaning."""
    rows = [*_rows(CATALOGUE), "", "## With `workers` above 1", "", *_rows(WORKERS_CATALOGUE)]
    buckets = ["", "## Buckets", "", "Upper bounds in seconds; `+Inf` is always there too.", ""]
    for spec in CATALOGUE:
        if spec.bounds_s:
            bounds = ", ".join(f"{bound:g}" for bound in spec.bounds_s)
            buckets.append(f"- `{spec.full_name}`: {bounds}")
    return "\n".join([_INTRODUCTION, *rows, *buckets]) + "\n"


def _rows(catalogue: tuple[MetricSpec, ...]) -> list[str]:
    rows = ["| metric | type | labels | workers | meaning |", "|---|---|---|---|---|"]
    for spec in catalogue:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "none"
        rows.append(f"| `{spec.full_name}` | {spec.kind} | {labels} | {spec.across} | {spec.meaning} |")
    return rows
