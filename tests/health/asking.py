"""Backends that are asked over real sockets, and a fleet that is told, without a gateway around it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from gateway.config.fleet import clusters_of
from gateway.config.loading import parse
from gateway.config.schema import Config
from gateway.core.fleet import BackendState, Event, Fleet, FleetConfigured, SetLimits
from gateway.core.health import HealthEvent
from gateway.health.checks import HealthChecks
from gateway.health.targets import Surroundings, Target, targets_of
from gateway.state.memory import MemoryStore
from tests.proxy.dialogue import ScriptedBackend, settled

FAST = "interval: 40ms, timeout: 40ms"


def config_of(*members: ScriptedBackend | int, base_dir: Path | str = ".", **sections: str) -> Config:
    """One cluster named here; `sections` are its keys, such as health="{path: /health}"."""
    urls = [b.url if isinstance(b, ScriptedBackend) else f"http://127.0.0.1:{b}" for b in members]
    keys = {"limit": "8", "backends": str(urls), **sections}
    text = "\n".join(["clusters:", "- name: here", *(f"  {key}: {value}" for key, value in keys.items())])
    return parse(textwrap.dedent(text), "test.yaml", base_dir, {})


def target_of(*members: ScriptedBackend | int, base_dir: Path | str = ".", **sections: str) -> Target:
    (target,) = targets_of(config_of(*members, base_dir=base_dir, **sections))
    return target


class Asked:
    """A fleet whose backends are asked; `events` is all it was told."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.store = MemoryStore()
        self.events: list[HealthEvent] = []
        self.around = Surroundings(self.fleet.view, self.apply, self.store, monotonic, lambda: 0)
        self.checks = HealthChecks(self.around)

    def apply(self, event: Event) -> None:
        if not isinstance(event, FleetConfigured):
            self.events.append(event)  # type: ignore[arg-type]
        for effect in self.fleet.apply(event, monotonic()):
            if isinstance(effect, SetLimits):
                self.store.set_limits(effect.limits, effect.caps)

    def follow(self, config: Config) -> None:
        self.configure(config)
        self.checks.follow(targets_of(config))

    def configure(self, config: Config) -> None:
        self.apply(FleetConfigured(clusters_of(config), config.tiers, config.cluster_policy))

    def state(self, backend: ScriptedBackend) -> BackendState:
        return self.fleet.view.backends[f"here@127.0.0.1:{backend.port}"]

    async def until(self, predicate: Callable[[], Any]) -> None:
        await settled(lambda: bool(predicate()))
        assert predicate(), self.events[-5:]
