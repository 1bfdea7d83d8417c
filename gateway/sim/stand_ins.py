"""Backends for clusters whose discovery only finds them when the gateway runs.

A file is read, as live. For DNS and Kubernetes as many stand in as the configuration expects.
"""

from __future__ import annotations

from pathlib import Path

from gateway.config.addresses import BackendUrl
from gateway.config.discovered import Discovered, with_discovered
from gateway.config.loading import Loaded, load_backends, load_whole
from gateway.config.problems import ConfigError
from gateway.config.schema import BackendConfig, Config


def load_to_simulate(path: Path) -> Config:
    """The configuration in a file, each cluster with backends. Raises ConfigError."""
    return with_stand_ins(load_whole(path, {}))


def with_stand_ins(loaded: Loaded) -> Config:
    """Raises ConfigError where nobody says how many backends a cluster has."""
    config, found, problems = loaded.config, {}, []
    for at, cluster in enumerate(config.clusters):
        discovery = cluster.discovery
        if discovery is None:
            continue
        if discovery.file is not None:
            found[cluster.name] = Discovered(load_backends(discovery.file))
        elif discovery.expected is not None:
            found[cluster.name] = Discovered(_stand_ins(cluster.name, discovery.expected))
        else:
            problems.append(
                loaded.problem(
                    f"clusters[{at}].discovery",
                    "finds its backends when the gateway runs, so a simulation has none",
                    "write beside it how many there are, as expected: 3",
                )
            )
    if problems:
        raise ConfigError(problems)
    return with_discovered(config, found)


def _stand_ins(cluster: str, count: int) -> tuple[BackendConfig, ...]:
    # Names under .invalid are nobody's (RFC 2606).
    hosts = (f"{number}.{cluster}.invalid" for number in range(1, count + 1))
    return tuple(BackendConfig(url=BackendUrl("http", host, 80)) for host in hosts)
