"""Whom to ask, and how: the configuration in the terms of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.config.fleet import BackendEndpoint, backend_id, endpoints_of
from gateway.config.schema import ClusterConfig, Config
from gateway.config.schema_health import EngineMetricsConfig, HealthConfig
from gateway.core.fleet import Event, FleetView
from gateway.ports import Clock, StateStore


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What this package works with. `draw` gives 64 uniform bits; `apply` tells the fleet an event."""

    view: FleetView
    apply: Callable[[Event], None]
    store: StateStore
    clock: Clock
    draw: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Target:
    """One backend to ask. `model` is its own name for what a synthetic completion asks for, if known."""

    endpoint: BackendEndpoint
    cluster: str
    tier: str
    connect_s: float
    health: HealthConfig | None = None
    engine_metrics: EngineMetricsConfig | None = None
    model: str | None = None

    @property
    def is_asked(self) -> bool:
        """Whether the configuration wants it asked from time to time."""
        return self.health is not None or self.engine_metrics is not None

    @property
    def backend_id(self) -> str:
        return self.endpoint.backend_id


def targets_of(config: Config) -> tuple[Target, ...]:
    """Every backend: those the configuration wants asked, and all others for the trial of their circuit."""
    endpoints = endpoints_of(config)
    return tuple(
        _target(config, cluster, endpoints[backend_id(cluster, backend)])
        for cluster in config.clusters
        for backend in cluster.backends
    )


def _target(config: Config, cluster: ClusterConfig, endpoint: BackendEndpoint) -> Target:
    synthetic = cluster.health.synthetic if cluster.health is not None else None
    return Target(
        endpoint=endpoint,
        cluster=cluster.name,
        tier=cluster.tier or config.tiers[0],
        connect_s=config.timeouts.connect_s,
        health=cluster.health,
        engine_metrics=cluster.engine_metrics,
        model=(synthetic.model if synthetic is not None else None) or _plain_model(cluster.models),
    )


def _plain_model(models: Mapping[str, str | None]) -> str | None:
    """The backends' name of the first model that has one."""
    for name, upstream_name in models.items():
        if upstream_name is not None:
            return upstream_name
        if "*" not in name:
            return name
    return None
