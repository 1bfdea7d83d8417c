"""What discovery has found, put into a configuration: from there on it is as if it had been listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from gateway.config.schema import BackendConfig, ClusterConfig, Config, UpstreamTlsConfig


@dataclass(frozen=True, slots=True)
class Discovered:
    """The backends of one cluster, as one answer told them: all of them, in an order of no meaning.

    `expected` is how many should be there (None: nobody knows). `server_name` is what certificates of https
    backends are for, where the configuration does not say. `notes` tell what was left out, and why.
    """

    backends: tuple[BackendConfig, ...] = ()
    expected: int | None = None
    server_name: str | None = None
    notes: tuple[str, ...] = ()


def with_discovered(config: Config, found: Mapping[str, Discovered]) -> Config:
    """The configuration in force: each cluster with `discovery` has the backends found, by its name.

    A cluster that nothing is known of yet has none.
    """
    clusters = tuple(
        cluster if cluster.discovery is None else _filled(cluster, found.get(cluster.name, Discovered()))
        for cluster in config.clusters
    )
    return msgspec.structs.replace(config, clusters=clusters)


def _filled(cluster: ClusterConfig, found: Discovered) -> ClusterConfig:
    assert cluster.discovery is not None
    known = [count for count in (cluster.discovery.expected, found.expected) if count is not None]
    discovery = msgspec.structs.replace(cluster.discovery, expected=max(known, default=None))
    tls = cluster.tls
    if found.server_name is not None and (tls is None or tls.server_name is None):
        tls = msgspec.structs.replace(tls or UpstreamTlsConfig(), server_name=found.server_name)
    return msgspec.structs.replace(cluster, backends=found.backends, discovery=discovery, tls=tls)
