"""What no single value can show: rules between the values of a section, and between sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from msgspec import Struct

from gateway.config.addresses import is_loopback
from gateway.config.files import FileContent
from gateway.config.refused_hosts import why_refused
from gateway.config.schema import (
    AdminConfig,
    AuthConfig,
    BackendConfig,
    BreakerConfig,
    ClusterConfig,
    Config,
    DownstreamTlsConfig,
    ExportHeaderConfig,
    StateConfig,
    UpstreamTlsConfig,
)
from gateway.config.schema_discovery import DiscoveryConfig, DnsConfig, KubernetesApiConfig
from gateway.config.schema_health import EngineMetricsConfig, HealthConfig, SyntheticConfig
from gateway.config.schema_keys import ClientKeyConfig
from gateway.config.sections import MIB
from gateway.config.units import format_duration, format_size

# What an idle gateway has in memory, and a little.
IDLE_BYTES = 64 * MIB


class Report(Protocol):
    """Where rules say what is wrong; it knows the line of every section and value."""

    def complain(self, section: Struct, key: str, message: str, fix: str = "") -> None: ...

    def has_problem(self, section: Struct, key: str) -> bool: ...

    def is_given(self, section: Struct, key: str) -> bool: ...


def check_admin(admin: AdminConfig, report: Report) -> None:
    if admin.token is None and not admin.listen.is_loopback and not report.has_problem(admin, "token_file"):
        report.complain(
            admin,
            "listen",
            f"must be loopback without a token, not {admin.listen}",
            f"add token_file, or listen on 127.0.0.1:{admin.listen.port}",
        )


def check_auth(auth: AuthConfig, report: Report) -> None:
    if auth.value and auth.value_from_file:
        report.complain(auth, "value", "must not stand beside value_file", "keep one of them")
    given = auth.secret or auth.pass_client
    if not given and not any(report.has_problem(auth, key) for key in ("value", "value_file", "pass_client")):
        report.complain(auth, "", "has no effect", "give value_file or value, or set pass_client: true")


def check_export_header(header: ExportHeaderConfig, report: Report) -> None:
    if header.value and header.value_from_file:
        report.complain(header, "value", "must not stand beside value_file", "keep one of them")
    if not header.secret and not any(report.has_problem(header, key) for key in ("value", "value_file")):
        report.complain(header, "", "has no value", "give value_file or value")


def check_state(state: StateConfig, report: Report) -> None:
    if state.url_in_place and state.url_from_file:
        report.complain(state, "url", "must not stand beside url_file", "keep one of them")


def check_downstream_tls(tls: DownstreamTlsConfig, report: Report) -> None:
    _check_certificate(tls, tls.cert_file, tls.key_file, report)
    _check_authorities(tls, "client_ca_file", tls.client_ca_file, report)


def check_upstream_tls(tls: UpstreamTlsConfig, report: Report) -> None:
    _check_authorities(tls, "ca_file", tls.ca_file, report)
    if tls.cert_file is not None and tls.key_file is not None:
        _check_certificate(tls, tls.cert_file, tls.key_file, report)
        return
    for key, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if report.is_given(tls, key) and not report.is_given(tls, other):
            report.complain(tls, other, f"is required beside {key}")


def _check_certificate(tls: Struct, cert_file: FileContent, key_file: FileContent, report: Report) -> None:
    import ssl  # Only for those who use it: the module costs memory.

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A callback, so that an encrypted key is refused and never asks on the terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except ssl.SSLError as exc:
        reason = (exc.reason or "no PEM").lower().replace("_", " ")
        report.complain(tls, "cert_file", f"is no certificate with the key of key_file: {reason}")


def _check_authorities(tls: Struct, key: str, file: FileContent | None, report: Report) -> None:
    import ssl

    if file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        report.complain(tls, key, "holds no PEM certificates")


def check_client_key(key: ClientKeyConfig, report: Report) -> None:
    if key.sha256_in_place and key.sha256_from_file:
        report.complain(key, "sha256", "must not stand beside sha256_file", "keep one of them")
    if not key.sha256 and not any(report.has_problem(key, given) for given in ("sha256", "sha256_file")):
        report.complain(key, "sha256", "is required", "or sha256_file")


def _check_keys(config: Config, report: Report) -> None:
    """A key has one owner, and an owner has one set of limits, whatever key comes."""
    labels = {label for cluster in config.clusters for label in cluster.residency}
    for key in config.keys:
        if unknown := sorted(set(key.residency) - labels):
            report.complain(key, "residency", f"no cluster has the residency {', '.join(unknown)}")
    by_digest: dict[str, ClientKeyConfig] = {}
    by_name: dict[str, ClientKeyConfig] = {}
    for key in config.keys:
        if key.sha256 is not None:
            first = by_digest.setdefault(key.sha256.reveal(), key)
            if first is not key:
                given = "sha256" if key.sha256_in_place else "sha256_file"
                report.complain(key, given, f"is listed twice: it is a key of {first.name} already")
        first = by_name.setdefault(key.name, key)
        for limit in ("models", "rate", "max_in_flight", "residency"):
            if getattr(key, limit) != getattr(first, limit):
                report.complain(key, limit, f"must be the same for all keys of {key.name}")


def check_health(health: HealthConfig, report: Report) -> None:
    _check_timeout(health, report)
    if health.tcp:
        for key in ("path", "agent"):
            if report.is_given(health, key):
                report.complain(health, key, "has no effect with tcp: true", "remove one of the two")


def check_engine_metrics(metrics: EngineMetricsConfig, report: Report) -> None:
    _check_timeout(metrics, report)
    if metrics.stale_after_s < metrics.interval_s and not report.has_problem(metrics, "stale_after"):
        shortest = format_duration(metrics.interval_s)
        report.complain(metrics, "stale_after", f"must be at least interval, {shortest}")


def _check_timeout(section: HealthConfig | SyntheticConfig | EngineMetricsConfig, report: Report) -> None:
    """A longer one would delay the next. The default gives way to a shorter interval by itself."""
    is_longer = report.is_given(section, "timeout") and section.timeout_s > section.interval_s
    if is_longer and not report.has_problem(section, "interval"):
        longest = format_duration(section.interval_s)
        report.complain(section, "timeout", f"must be at most interval, {longest}")


def check_breaker(breaker: BreakerConfig, report: Report) -> None:
    if breaker.open_max_s < breaker.open_s and not report.has_problem(breaker, "open_max"):
        key = "open_max" if report.is_given(breaker, "open_max") else "open"
        if key == "open_max":
            report.complain(breaker, key, f"must be at least open, {format_duration(breaker.open_s)}")
        else:
            longest = format_duration(breaker.open_max_s)
            report.complain(breaker, key, f"must be at most open_max, {longest}", "raise open_max too")


def check_cluster(cluster: ClusterConfig, report: Report) -> None:
    _check_where_backends_are(cluster, report)
    without = [backend for backend in cluster.backends if backend.limit is None]
    if cluster.limit is None and without and not any(report.has_problem(b, "limit") for b in without):
        report.complain(cluster, "limit", "is required", "or give every backend its own limit")
    if cluster.tls and "https" not in _schemes_of(cluster):
        report.complain(cluster, "tls", "has no effect", "no backend of the cluster has an https URL")
    for backend in listed_twice(cluster.backends):
        report.complain(backend, "", *TWICE)


def _check_where_backends_are(cluster: ClusterConfig, report: Report) -> None:
    is_listed = report.is_given(cluster, "backends") or report.has_problem(cluster, "backends")
    is_found = report.is_given(cluster, "discovery")
    if is_listed and is_found:
        report.complain(cluster, "discovery", "must not stand beside backends", "keep one of them")
    elif not is_listed and not is_found:
        report.complain(cluster, "backends", "is required", "or discovery, which finds them")
    elif is_found and cluster.limit is None and not report.has_problem(cluster, "limit"):
        report.complain(cluster, "limit", "is required with discovery", "backends are found without one")


def _schemes_of(cluster: ClusterConfig) -> set[str]:
    """Those that its backends have, or may have."""
    found = cluster.discovery
    if found is None:
        return {backend.url.scheme for backend in cluster.backends}
    how = found.kubernetes or found.dns
    return {"http", "https"} if how is None else {how.scheme}


TWICE = ("is listed twice in the cluster", "raise its weight and limit instead")


def listed_twice(backends: Iterable[BackendConfig]) -> Iterator[BackendConfig]:
    """Those whose place stands before them in the list too."""
    seen: set[tuple[str, str]] = set()
    for backend in backends:
        place = (backend.url.authority, backend.url.prefix)
        if place in seen:
            yield backend
        seen.add(place)


def check_discovery(discovery: DiscoveryConfig, report: Report) -> None:
    given = [key for key in ("kubernetes", "dns", "file") if report.is_given(discovery, key)]
    if not given and not any(report.has_problem(discovery, key) for key in ("kubernetes", "dns", "file")):
        report.complain(discovery, "", "says not where", "give one of kubernetes, dns, file")
    for key in given[1:]:
        report.complain(discovery, key, f"must not stand beside {given[0]}", "keep one of them")


def check_dns(dns: DnsConfig, report: Report) -> None:
    if dns.record == "srv" and report.is_given(dns, "port"):
        report.complain(dns, "port", "has no effect with record: srv", "SRV records have their own")
    if dns.record != "srv" and not report.is_given(dns, "port"):
        report.complain(dns, "port", f"is required with record: {dns.record}")
    for server in dns.servers:
        if not server.is_ip:
            report.complain(dns, "servers", f"must be addresses, not {server}")


def check_kubernetes_api(api: KubernetesApiConfig, report: Report) -> None:
    if api.url.scheme == "https":
        return
    if api.ca_file is not None:
        report.complain(api, "ca_file", "has no effect", "the API's URL is not https")
    if api.token_file is not None and not is_loopback(api.url.host):
        report.complain(api, "url", "must be https where a token is sent", "or remove token_file")


def check_config(config: Config, report: Report) -> None:
    _check_cluster_names(config, report)
    _check_keys(config, report)
    _check_places(config, report)
    if not report.has_problem(config, "tiers"):
        for cluster in config.clusters:
            if cluster.tier is not None and cluster.tier not in config.tiers:
                known = ", ".join(config.tiers)
                report.complain(cluster, "tier", f"must be one of the tiers ({known}), not {cluster.tier}")
    if config.max_body_bytes > config.max_buffered_bytes:
        key = "max_buffered"
        report.complain(config, key, f"must be at least max_body, {format_size(config.max_body_bytes)}")
    least = config.max_buffered_bytes + IDLE_BYTES
    if config.max_memory_bytes is not None and config.max_memory_bytes < least:
        problem = (
            f"must be at least {format_size(least)}: max_buffered, and {format_size(IDLE_BYTES)} besides"
        )
        report.complain(config, "max_memory", problem, "give more, or make max_buffered smaller")
    if config.hedge is not None and config.retry.attempts < 2:
        report.complain(
            config, "hedge", "has no effect with retry.attempts: 1", "a hedge is a second attempt: allow 2"
        )
    if config.hedge is not None and config.hedge.budget > config.retry.budget:
        report.complain(config.hedge, "budget", f"must be at most retry.budget, {config.retry.budget:g}")
    if config.listen.clashes_with(config.admin.listen):
        report.complain(config, "listen", f"must differ from the admin port's {config.admin.listen}")


def _check_cluster_names(config: Config, report: Report) -> None:
    seen: set[str] = set()
    for cluster in config.clusters:
        if cluster.name in seen:
            report.complain(cluster, "name", f"must be unique: there is another cluster {cluster.name}")
        seen.add(cluster.name)


def _check_places(config: Config, report: Report) -> None:
    for cluster in config.clusters:
        for backend in cluster.backends:
            reason = why_refused(backend.url.host, config.allow_backends_in)
            if reason is not None and not report.has_problem(config, "allow_backends_in"):
                report.complain(
                    backend, "url", f"is {reason}", f"allow_backends_in: [{backend.url.host}] permits it"
                )


Rule = Callable[[Any, Report], None]

RULES: dict[type, Rule] = {
    AdminConfig: check_admin,
    AuthConfig: check_auth,
    BreakerConfig: check_breaker,
    ClientKeyConfig: check_client_key,
    ClusterConfig: check_cluster,
    Config: check_config,
    DiscoveryConfig: check_discovery,
    DnsConfig: check_dns,
    DownstreamTlsConfig: check_downstream_tls,
    KubernetesApiConfig: check_kubernetes_api,
    StateConfig: check_state,
    EngineMetricsConfig: check_engine_metrics,
    ExportHeaderConfig: check_export_header,
    HealthConfig: check_health,
    SyntheticConfig: _check_timeout,
    UpstreamTlsConfig: check_upstream_tls,
}
