"""From settings to what the rest works with: clusters for the core, endpoints for the data plane."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gateway.config.files import FileContent
from gateway.config.refused_hosts import why_refused
from gateway.config.schema import BackendConfig, ClusterConfig, Config, HedgeConfig, RetryConfig
from gateway.core.admission import KeyRules
from gateway.core.breaker import BreakerSettings
from gateway.core.events import FleetConfigured
from gateway.core.holding import HoldRules
from gateway.core.model import Backend, Cluster, HealthRules
from gateway.core.retries import ExtraAttempts

# In ten seconds, whatever the budget comes to: a quiet gateway may retry too.
MIN_RETRIES = 3


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How to verify an https backend, and what to show it: `ca_file` None trusts the system's certificates.

    `cert_file` and `key_file` are both set or both None.
    """

    server_name: str
    ca_file: FileContent | None = None
    cert_file: FileContent | None = None
    key_file: FileContent | None = None

    @property
    def files(self) -> tuple[FileContent | None, ...]:
        """What a TLS context is made of: one will do for all that have the same."""
        return self.ca_file, self.cert_file, self.key_file


@dataclass(frozen=True, slots=True)
class BackendEndpoint:
    """How to reach one backend, and what it gets to see. `prefix` goes before the client's path.

    `allow_in` are networks whose addresses it may have, whatever they are (see refused_hosts.py).
    `auth_header` and `auth_value` are both set or both None; the value is in no repr.
    """

    backend_id: str
    scheme: str
    host: str
    port: int
    prefix: bytes
    host_header: bytes
    tls: UpstreamTls | None = None
    auth_header: bytes | None = None
    auth_value: bytes | None = field(default=None, repr=False)
    pass_client: bool = False
    allow_in: tuple[str, ...] = ()

    def why_not_at(self, address: str) -> str | None:
        """Why this backend may not be spoken to at an address that its host has resolved to; None: it may."""
        return why_refused(address, self.allow_in)

    def why_not_with(self, peer: tuple[object, ...] | None) -> str | None:
        """The same of a connection to it, by its peer's name; with the address. None where it has no name."""
        address = str((peer or ("",))[0])
        if address == self.host:
            return None  # looked at when the configuration was read, or when it was discovered
        reason = self.why_not_at(address)
        return f"{address}, {reason}" if reason is not None else None


def clusters_of(config: Config) -> tuple[Cluster, ...]:
    """The clusters in the core's terms, in the file's order."""
    return tuple(
        Cluster(
            name=cluster.name,
            tier=cluster.tier or config.tiers[0],
            backends=tuple(_backend(cluster, backend) for backend in cluster.backends),
            models=dict(cluster.models),
            weight=cluster.weight,
            residency=frozenset(cluster.residency),
            expected_limit=_expected_limit(cluster),
            expected_backends=cluster.discovery.expected if cluster.discovery is not None else None,
        )
        for cluster in config.clusters
    )


def fleet_of(config: Config) -> FleetConfigured:
    """What the core is told of the configuration."""
    return FleetConfigured(clusters_of(config), config.tiers, config.cluster_policy, breaker_of(config))


def breaker_of(config: Config) -> BreakerSettings:
    """When circuits open, in the core's terms."""
    breaker = config.breaker
    return BreakerSettings(
        breaker.consecutive,
        breaker.ratio,
        breaker.min_samples,
        breaker.window_s,
        breaker.open_s,
        breaker.open_max_s,
        breaker.slow_start_s,
    )


def key_rules_of(config: Config) -> tuple[KeyRules, ...]:
    """What the owners of client keys may send; each owner once."""
    rules = {
        key.name: KeyRules(
            key.name, dict.fromkeys(key.models), key.rate, key.max_in_flight, frozenset(key.residency) or None
        )
        for key in config.keys
    }
    return tuple(rules.values())


def key_owners_of(config: Config) -> dict[bytes, str]:
    """The owners of client keys by the SHA-256 of each key."""
    return {bytes.fromhex(key.sha256.reveal()): key.name for key in config.keys if key.sha256 is not None}


def hold_of(config: Config) -> HoldRules | None:
    """How requests wait for slots; None: they do not."""
    hold = config.hold
    return HoldRules(hold.max_wait_s, hold.max_waiting) if hold.max_wait_s else None


def set_budget(extra: ExtraAttempts, retry: RetryConfig, hedge: HedgeConfig | None) -> None:
    """The one budget of a gateway's second attempts, whatever the route; what is spent stays spent."""
    at_least = MIN_RETRIES if retry.budget else 0
    extra.set_shares(retry.budget, hedge.budget if hedge is not None else 0.0, at_least)


def endpoints_of(config: Config) -> dict[str, BackendEndpoint]:
    """How to reach each backend, by its id."""
    endpoints = [
        _endpoint(config, cluster, backend) for cluster in config.clusters for backend in cluster.backends
    ]
    return {endpoint.backend_id: endpoint for endpoint in endpoints}


def backend_id(cluster: ClusterConfig, backend: BackendConfig) -> str:
    """`cluster@host:port[/prefix]`: the same across reloads, whatever else of the backend changes."""
    return f"{cluster.name}@{backend.url.authority}{backend.url.prefix}"


def _expected_limit(cluster: ClusterConfig) -> int | None:
    """Of discovered backends: with the limit of the cluster, whatever limits those have that are there."""
    found = cluster.discovery
    if found is None or found.expected is None or cluster.limit is None:
        return None
    return found.expected * cluster.limit


def _backend(cluster: ClusterConfig, backend: BackendConfig) -> Backend:
    limit = backend.limit or cluster.limit
    assert limit is not None, f"{cluster.name}: rules.py lets no backend pass without a limit"
    return Backend(
        backend_id(cluster, backend), str(backend.url), limit, backend.weight, _health_rules(cluster)
    )


def _health_rules(cluster: ClusterConfig) -> HealthRules | None:
    health, metrics = cluster.health, cluster.engine_metrics
    if health is None and metrics is None:
        return None
    known = HealthRules(has_probe=False)
    if health is not None:
        has_synthetic = health.synthetic is not None
        known = replace(
            known, rise=health.rise, fall=health.fall, has_probe=True, has_synthetic=has_synthetic
        )
    return known if metrics is None else replace(known, stale_after_s=metrics.stale_after_s)


def _endpoint(config: Config, cluster: ClusterConfig, backend: BackendConfig) -> BackendEndpoint:
    url, auth = backend.url, cluster.auth
    secret = auth.secret if auth else None
    return BackendEndpoint(
        backend_id=backend_id(cluster, backend),
        scheme=url.scheme,
        host=url.host,
        port=url.port,
        prefix=url.prefix.encode("ascii"),
        host_header=url.host_header.encode("ascii"),
        tls=_tls(cluster, url.host) if url.scheme == "https" else None,
        auth_header=auth.header.encode("ascii") if auth and secret else None,
        auth_value=secret.reveal().encode("ascii") if secret else None,
        pass_client=auth.pass_client if auth else False,
        allow_in=config.allow_backends_in,
    )


def _tls(cluster: ClusterConfig, host: str) -> UpstreamTls:
    tls = cluster.tls
    if tls is None:
        return UpstreamTls(host)
    return UpstreamTls(tls.server_name or host, tls.ca_file, tls.cert_file, tls.key_file)
