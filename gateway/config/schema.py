"""Every setting that exists, with its unit, range, default and meaning. docs/configuration.md is made of it.

A field's Python name carries its unit (`first_byte_s`); the key in YAML does not (`first_byte: 30s`).
`extra["kind"]` names the reader in scalars.py that turns the YAML text into the value.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from gateway.config.addresses import Address, BackendUrl
from gateway.config.files import FileContent
from gateway.config.schema_discovery import DiscoveryConfig
from gateway.config.schema_health import EngineMetricsConfig, HealthConfig
from gateway.config.schema_keys import ClientKeyConfig
from gateway.config.secrets import Secret
from gateway.config.sections import DAY_S, MIB, Limit, Name, Section, Weight, duration, kind, size
from gateway.config.units import AT_P95

DEFAULT_TIERS = ("primary", "backup", "spot")
DEFAULT_DRAIN_S = 30.0


class DownstreamTlsConfig(Section, frozen=True, kw_only=True):
    """TLS towards clients, 1.2 or newer."""

    cert_file: Annotated[FileContent, kind("file", "Certificate chain, PEM.")]
    key_file: Annotated[
        FileContent, kind("file", "Private key of the certificate, PEM, without a passphrase.")
    ]
    client_ca_file: Annotated[
        FileContent | None,
        kind(
            "file",
            "Certificates, PEM, one of which must have signed each client's own; default: none needed.",
        ),
    ] = None


class AdminConfig(Section, frozen=True, kw_only=True):
    """The admin port: health, metrics, fleet view, drain."""

    listen: Annotated[Address, kind("address", "Where the admin port listens.")] = Address("127.0.0.1", 9090)
    token: Annotated[
        Secret | None,
        kind(
            "secret_file",
            "File with the token that writes need. Without it, only loopback may be listened on.",
        ),
    ] = field(default=None, name="token_file")


class StateConfig(Section, frozen=True, kw_only=True):
    """Where leases are counted, so that several gateways keep one limit together. Default: each by itself."""

    url_in_place: Annotated[
        Secret | None,
        kind(
            "state_url",
            "Redis or Valkey: `redis://`, `unix:///socket`, `redis+sentinel://host:port,host:port/NAME` or "
            "`redis+cluster://`; `rediss` for TLS. It may hold a password, best from the environment.",
        ),
    ] = field(default=None, name="url")
    url_from_file: Annotated[
        Secret | None, kind("state_url_file", "File with the URL, in place of `url`.")
    ] = field(default=None, name="url_file")
    fleet: Annotated[
        Name, Meta(description="Gateways of the same fleet at one Redis share their limits; others do not.")
    ] = "default"

    @property
    def url(self) -> Secret | None:
        """The URL, whichever way it was given."""
        return self.url_in_place or self.url_from_file

    def at(self, url: Secret) -> StateConfig:
        """The same with another URL."""
        return msgspec.structs.replace(self, url_in_place=url, url_from_file=None)


class TimeoutsConfig(Section, frozen=True, kw_only=True):
    """The stages of time of one request. Each ends the attempt or the connection that exceeds it."""

    connect_s: Annotated[float, duration("Opening a connection to a backend, TLS included.")] = field(
        default=1.0, name="connect"
    )
    first_byte_s: Annotated[
        float,
        duration(
            "From the request sent to the first body byte of the answer; then another backend is tried."
        ),
    ] = field(default=30.0, name="first_byte")
    first_byte_per_kib_s: Annotated[
        float,
        duration("Added to `first_byte` for each KiB of request body: long prompts take long to read.", ge=0),
    ] = field(default=0.020, name="first_byte_per_kib")
    stall_s: Annotated[float, duration("Between two bytes of an answer.")] = field(default=15.0, name="stall")
    total_s: Annotated[float, duration("The whole request, all attempts and the answer included.")] = field(
        default=600.0, name="total"
    )
    request_head_s: Annotated[float, duration("For a client to finish the head of its request.")] = field(
        default=10.0, name="request_head"
    )
    request_body_s: Annotated[float, duration("For a client to finish the body of its request.")] = field(
        default=30.0, name="request_body"
    )
    keep_alive_s: Annotated[float, duration("How long an idle client connection stays open.")] = field(
        default=75.0, name="keep_alive"
    )
    write_s: Annotated[
        float, duration("How long a client may read nothing of an answer that waits for it.")
    ] = field(default=60.0, name="write")
    tunnel_idle_s: Annotated[
        float, duration("How long a WebSocket tunnel may carry no byte either way; a ping is one.")
    ] = field(default=300.0, name="tunnel_idle")
    tunnel_total_s: Annotated[
        float, duration("How long a WebSocket tunnel may last, from the backend's 101; `total` ends there.")
    ] = field(default=3600.0, name="tunnel_total")

    def first_byte_for_s(self, body_bytes: int) -> float:
        """How long the first byte may take of the answer to a body of this size."""
        return self.first_byte_s + self.first_byte_per_kib_s * (body_bytes / 1024)


class HoldConfig(Section, frozen=True, kw_only=True):
    """Waiting for a slot of the best tier before spilling, and for any slot before shedding."""

    max_wait_s: Annotated[
        float,
        duration(
            "How long one request waits at most, in all; only while a slot is likely to come free in that "
            "time. `0s`: nobody waits.",
            ge=0,
        ),
    ] = field(default=0.5, name="max_wait")
    max_waiting: Annotated[
        int,
        Meta(
            ge=1, le=1_000_000, description="Requests that wait at once in one gateway, per model and tier."
        ),
    ] = 1000


class RetryConfig(Section, frozen=True, kw_only=True):
    """Trying again, on another backend, before the client has seen a byte."""

    attempts: Annotated[
        int, Meta(ge=1, le=100, description="Tries at backends per request, the first included.")
    ] = 3
    budget: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Second attempts, hedges included, as a share of the requests of the last 10 s; "
            "three in 10 s are always allowed, unless it is 0.",
            extra={"kind": "number"},
        ),
    ] = 0.2


class HedgeConfig(Section, frozen=True, kw_only=True):
    """A second attempt beside a first one that gives no byte; the first good byte wins. Absent: off."""

    after_s: Annotated[
        float,
        Meta(
            le=7 * DAY_S,
            description="How long without a byte. `p95`: of the backend's own first bytes in the last "
            "minute, once it has had 20.",
            extra={"kind": "hedge_after"},
        ),
    ] = field(default=AT_P95, name="after")
    budget: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Hedges as a share of the requests of the last 10 s; each is paid from "
            "`retry.budget` too.",
            extra={"kind": "number"},
        ),
    ] = 0.05


class BreakerConfig(Section, frozen=True, kw_only=True):
    """When a backend's circuit opens, for how long, and how the backend comes back."""

    consecutive: Annotated[
        int, Meta(ge=1, le=100_000, description="Failed attempts in a row that open it.")
    ] = 5
    ratio: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Share of failed attempts in `window` that opens it.",
            extra={"kind": "number"},
        ),
    ] = 0.5
    min_samples: Annotated[
        int, Meta(ge=1, le=100_000, description="Attempts in `window` below which `ratio` says nothing.")
    ] = 20
    window_s: Annotated[float, duration("The time that `ratio` looks at.", ge=0.1)] = field(
        default=10.0, name="window"
    )
    open_s: Annotated[
        float, duration("How long the first opening lasts; each one in a row twice as long.")
    ] = field(default=1.0, name="open")
    open_max_s: Annotated[float, duration("How long an opening lasts at most.")] = field(
        default=60.0, name="open_max"
    )
    slow_start_s: Annotated[
        float, duration("How long a backend takes from 10 % of its limit and weight to all of it.", ge=0)
    ] = field(default=30.0, name="slow_start")


class ExportHeaderConfig(Section, frozen=True, kw_only=True):
    """A header that the collector wants."""

    name: Annotated[str, kind("header_name", "Its name, such as `Authorization`.")]
    value: Annotated[Secret | None, kind("secret", "Its whole value; best from the environment.")] = None
    value_from_file: Annotated[
        Secret | None, kind("secret_file", "File with its whole value, in place of `value`.")
    ] = field(default=None, name="value_file")

    @property
    def secret(self) -> Secret | None:
        """The value, whichever way it was given."""
        return self.value or self.value_from_file


class TracingConfig(Section, frozen=True, kw_only=True):
    """Traces to an OpenTelemetry collector, by OTLP over HTTP. Absent: off. Needs the extra `tracing`."""

    endpoint: Annotated[
        BackendUrl,
        kind("backend_url", "The collector's URL; without a path `/v1/traces` is asked, as usual."),
    ]
    sample_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of the requests that are recorded, drawn here.",
            extra={"kind": "number"},
        ),
    ] = 0.1
    follow_client: Annotated[
        bool,
        Meta(
            description="Of requests with a `traceparent`, record those that the client marks as sampled, "
            "and no other. Only for clients that may decide it: they fill the collector."
        ),
    ] = False
    service_name: Annotated[Name, Meta(description="`service.name` of the spans.")] = "spillway"
    max_queue: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Spans that wait for the collector at most; more are dropped and counted.",
        ),
    ] = 8192
    headers: Annotated[
        tuple[ExportHeaderConfig, ...], Meta(description="Sent to the collector with every batch.")
    ] = ()

    @property
    def traces_url(self) -> str:
        """The whole URL that spans are sent to."""
        return str(self.endpoint) + ("" if self.endpoint.prefix else "/v1/traces")


class PoolConfig(Section, frozen=True, kw_only=True):
    """Idle connections kept to each backend."""

    max_idle: Annotated[
        int, Meta(ge=0, le=100_000, description="Idle connections kept per backend; 0 keeps none.")
    ] = 128
    idle_s: Annotated[
        float, duration("How long a connection may stay idle; keep it below the backend's own.")
    ] = field(default=30.0, name="idle")
    max_age_s: Annotated[float, duration("The age at which a connection is not used again.")] = field(
        default=600.0, name="max_age"
    )


class BackendConfig(Section, frozen=True, kw_only=True):
    """One model endpoint. A plain URL stands for `{url: URL}`."""

    url: Annotated[
        BackendUrl,
        kind("backend_url", "Base URL, http or https; a path in it goes before the client's path."),
    ]
    limit: Annotated[Limit, Meta(description="In place of the cluster's `limit`.")] | None = None
    weight: Annotated[
        Weight, Meta(description="Share of the cluster's requests, relative to its other backends.")
    ] = 1.0


BackendList = tuple[Annotated[BackendConfig, Meta(extra={"shorthand": "url"})], ...]


class AuthConfig(Section, frozen=True, kw_only=True):
    """What backends get to see of credentials. The client's own stay here unless `pass_client`."""

    header: Annotated[str, kind("header_name", "Header that carries the cluster's own credential.")] = (
        "Authorization"
    )
    value: Annotated[
        Secret | None,
        kind("secret", "The header's whole value, such as `Bearer ${KEY}`; best from the environment."),
    ] = None
    value_from_file: Annotated[
        Secret | None, kind("secret_file", "File with the header's whole value, in place of `value`.")
    ] = field(default=None, name="value_file")
    pass_client: Annotated[
        bool, Meta(description="Pass the client's Authorization, Cookie and x-api-key on to the backends.")
    ] = False

    @property
    def secret(self) -> Secret | None:
        """The header's value, whichever way it was given."""
        return self.value or self.value_from_file


class UpstreamTlsConfig(Section, frozen=True, kw_only=True):
    """TLS towards https backends, 1.2 or newer. Certificates are always verified."""

    ca_file: Annotated[
        FileContent | None, kind("file", "Certificates to trust, PEM, in place of the system's.")
    ] = None
    cert_file: Annotated[
        FileContent | None,
        kind("file", "The gateway's own certificate chain, PEM, for backends that ask for one."),
    ] = None
    key_file: Annotated[
        FileContent | None, kind("file", "Private key of that certificate, PEM, without a passphrase.")
    ] = None
    server_name: Annotated[
        str | None, kind("host", "Name to ask for and to verify; default: the host of the backend's URL.")
    ] = None


class ClusterConfig(Section, frozen=True, kw_only=True):
    """A site holding backends, with one tier."""

    name: Annotated[Name, Meta(description="Name in metrics, logs and response headers; unique.")]
    tier: Annotated[Name, Meta(description="One of `tiers`; default: the first of them.")] | None = None
    limit: (
        Annotated[
            Limit,
            Meta(description="Requests in flight per backend; required unless every backend has its own."),
        ]
        | None
    ) = None
    residency: Annotated[
        tuple[Name, ...],
        Meta(
            description="Where data stays in this cluster, such as `eu`. Requests that are kept to other "
            "residencies, by their key or `x-spillway-residency`, never go here.",
            extra={"unique": True},
        ),
    ] = ()
    weight: Annotated[
        Weight, Meta(description="Share of the tier's requests under `cluster_policy: weight`.")
    ] = 1.0
    models: Annotated[
        dict[str, str | None],
        kind(
            "models",
            "Models served: a list of names and patterns with `*`, or a map from the client's name to the "
            "backends' name; default: any model.",
        ),
    ] = field(default_factory=dict)
    backends: Annotated[
        BackendList,
        Meta(min_length=1, description="Model endpoints: URLs, or mappings as below; or give `discovery`."),
    ] = ()
    discovery: DiscoveryConfig | None = None
    auth: AuthConfig | None = None
    tls: UpstreamTlsConfig | None = None
    health: HealthConfig | None = None
    engine_metrics: EngineMetricsConfig | None = None


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    listen: Annotated[Address, kind("address", "Where clients connect, `host:port`.")] = Address(
        "127.0.0.1", 8080
    )
    tls: DownstreamTlsConfig | None = None
    admin: AdminConfig = AdminConfig()
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Processes that serve the port together, one per core; more than 1 needs Linux, and "
            "without `state.url` a redis-server or valkey-server on this machine, which is started for them.",
        ),
    ] = 1
    state: StateConfig = StateConfig()
    access_log: Annotated[
        str, kind("access_log", "One JSON line per request: `-` for standard output, a file, or `off`.")
    ] = "-"
    expose_routing: Annotated[
        bool,
        Meta(description="Tell clients in `x-spillway-*` response headers where a request went and why."),
    ] = True
    max_body_bytes: Annotated[int, size("Largest request body; a larger one gets 413.")] = field(
        default=32 * MIB, name="max_body"
    )
    max_buffered_bytes: Annotated[
        int, size("Request bytes buffered at any time, all requests together; beyond it, reading pauses.")
    ] = field(default=512 * MIB, name="max_buffered")
    max_memory_bytes: (
        Annotated[
            int,
            size(
                "Resident memory of each worker above which new connections and requests get 503, until it "
                "is a tenth below; what is under way goes on. At least 64MiB more than `max_buffered`. Needs "
                "Linux. Default: no limit.",
            ),
        ]
        | None
    ) = field(default=None, name="max_memory")
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Client connections at once, of each worker; one more gets 503 and is closed.",
        ),
    ] = 20_000
    max_connections_per_client: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=10_000_000,
                description="Connections from one address (IPv6: one /64) at once, of each worker; one more "
                "gets 429. Default: no limit, because behind a balancer all clients have one address.",
            ),
        ]
        | None
    ) = None
    drain_delay_s: Annotated[
        float,
        duration(
            "How long the port stays open at shutdown while readiness says no already, so that balancers "
            "turn away first; every answer then ends its connection.",
            ge=0,
        ),
    ] = field(default=0.0, name="drain_delay")
    drain_timeout_s: Annotated[
        float, duration("How long requests in flight may take to finish at shutdown.", ge=0)
    ] = field(default=DEFAULT_DRAIN_S, name="drain_timeout")
    tiers: Annotated[
        tuple[Name, ...],
        Meta(min_length=1, description="The tiers in order of preference.", extra={"unique": True}),
    ] = DEFAULT_TIERS
    cluster_policy: Annotated[
        Literal["weight", "least_loaded"],
        Meta(description="Which cluster of a tier comes first: by weighted chance, or the least loaded."),
    ] = "weight"
    paths: Annotated[
        tuple[Annotated[str, Meta(extra={"kind": "request_path"})], ...],
        Meta(
            description="Paths passed on besides the inference endpoints; `*` may be the last segment.",
            extra={"unique": True},
        ),
    ] = ()
    websocket_paths: Annotated[
        tuple[Annotated[str, Meta(extra={"kind": "request_path"})], ...],
        Meta(
            description="Paths on which WebSocket tunnels are opened, in place of the default; `*` may be "
            "the last segment. Upgrade is followed nowhere else.",
            extra={"unique": True},
        ),
    ] = ("/v1/realtime",)
    keys: Annotated[
        tuple[ClientKeyConfig, ...],
        Meta(min_length=1, description="Who may send requests; default: whoever reaches the port."),
    ] = ()
    allow_backends_in: Annotated[
        tuple[Annotated[str, Meta(extra={"kind": "network"})], ...],
        Meta(
            description="Networks, such as `169.254.10.0/24`, in which backends may be although such "
            "addresses are refused: link-local, clouds' metadata services, multicast, unspecified.",
            extra={"unique": True},
        ),
    ] = ()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    hold: HoldConfig = HoldConfig()
    retry: RetryConfig = RetryConfig()
    hedge: HedgeConfig | None = None
    breaker: BreakerConfig = BreakerConfig()
    tracing: TracingConfig | None = None
    pool: PoolConfig = PoolConfig()
    watch: Annotated[
        bool,
        Meta(
            description="Take over changes of this file, and of the files that it names, within about two "
            "seconds; without it only SIGHUP and `POST /api/v1/reload` do."
        ),
    ] = True
    clusters: Annotated[
        tuple[ClusterConfig, ...],
        Meta(min_length=1, description="The clusters; those of one tier share its work."),
    ]
