"""What a scenario knows of the engines, held against the limits of the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.config.fleet import clusters_of
from gateway.config.lints import Finding, Level
from gateway.config.schema import Config
from gateway.sim.engine import PRESETS
from gateway.sim.scenario import Scenario

LINT = "limit-above-engine"


def lint_scenario(config: Config, scenario: Scenario) -> Sequence[Finding]:
    """Backends with a larger limit than their engine runs at a time."""
    return tuple(_above_engine(config, scenario))


def _above_engine(config: Config, scenario: Scenario) -> Iterator[Finding]:
    for at, cluster in enumerate(clusters_of(config)):
        engine = scenario.cluster(cluster.name).engine
        if engine is None or engine.preset == "timed":
            continue
        batch = engine.max_num_seqs or PRESETS[engine.preset].max_num_seqs
        for number, backend in enumerate(cluster.backends):
            if backend.limit > batch:
                yield Finding(
                    LINT,
                    Level.WARNING,
                    f"clusters[{at}].backends[{number}]",
                    f"its limit of {backend.limit} is more than its engine ({engine.preset}) runs at a time, "
                    f"{batch}: {backend.limit - batch} would wait inside the engine, whoever else has room",
                    f"limit: {batch}",
                )
