"""The scenario of a simulation: what the configuration does not know of its clusters, and what goes wrong.

Read with the reader of configurations: every mistake has its line and a fix.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from gateway.config.fleet import clusters_of
from gateway.config.loading import parse_as, read_text
from gateway.config.problems import ConfigError
from gateway.config.reading import Reading
from gateway.config.scalars import Surroundings
from gateway.config.schema import Config
from gateway.config.sections import DAY_S, Name, Section

Seconds = Annotated[float, Meta(ge=0, le=7 * DAY_S, extra={"kind": "duration"})]
Money = Annotated[float, Meta(ge=0, le=1e9, extra={"kind": "number"})]
# A model of some billion parameters on one accelerator, not too busy.
DEFAULT_TIMES_S = (0.020, 0.000075, 0.030)
MAX_GATEWAYS = 100
Count = Annotated[int, Meta(ge=1, le=100_000_000)]


class EngineConfig(Section, frozen=True, kw_only=True):
    """What answers: a preset of the step model, or times that do not depend on the load.

    `time` = `base` + `per_input_token` x input + `per_output_token` x output, spread by `sigma` (lognormal).
    Of the three, what is not given is 0, once one of them is; with none of them they are DEFAULT_TIMES_S.
    """

    preset: Literal["timed", "h100-80", "a100-80", "l4-24"] = "timed"
    base_s: Seconds | None = field(default=None, name="base")
    per_input_token_s: Seconds | None = field(default=None, name="per_input_token")
    per_output_token_s: Seconds | None = field(default=None, name="per_output_token")
    sigma: Annotated[float, Meta(ge=0, le=5, extra={"kind": "number"})] = 0.0
    max_num_seqs: Count | None = None
    kv_cache_tokens: Count | None = None

    @property
    def times_s(self) -> tuple[float, float, float]:
        """Base, for each input token, for each output token."""
        given = (self.base_s, self.per_input_token_s, self.per_output_token_s)
        if given == (None, None, None):
            return DEFAULT_TIMES_S
        base_s, input_s, output_s = (seconds or 0.0 for seconds in given)
        return base_s, input_s, output_s


class PriceConfig(Section, frozen=True, kw_only=True):
    """What a cluster costs: per hour of each backend while it is up, and per million tokens."""

    per_hour: Money = 0.0
    per_million_input: Money = 0.0
    per_million_output: Money = 0.0


class SimClusterConfig(Section, frozen=True, kw_only=True):
    """One cluster of the configuration, by its name."""

    name: Name
    engine: Annotated[EngineConfig, Meta(extra={"shorthand": "preset"})] | None = None
    rtt_s: Seconds = field(default=0.0, name="rtt")
    cold_start_s: Seconds = field(default=0.0, name="cold_start")
    price: PriceConfig | None = None


class FaultConfig(Section, frozen=True, kw_only=True):
    """From `at` on, `for` so long, at one backend or a whole cluster.

    crash and preempt: the processes are gone, with what ran there; a preemption comes `notice` after `at`.
    Back after `for`, and the cluster's `cold_start`. hang: takes requests, gives no token. error: this share
    is answered with `status`. slow: what begins takes `factor` times as long.
    """

    at_s: Seconds = field(name="at")
    for_s: Seconds = field(name="for")
    target: str
    kind: Literal["crash", "preempt", "hang", "error", "slow"]
    notice_s: Seconds = field(default=0.0, name="notice")
    share: Annotated[float, Meta(gt=0, le=1, extra={"kind": "number"})] = 1.0
    status: Annotated[int, Meta(ge=400, le=599)] = 500
    factor: Annotated[float, Meta(gt=0, le=1000, extra={"kind": "number"})] = 4.0


class OutageConfig(Section, frozen=True, kw_only=True):
    """From `at` on, `for` so long, the store answers none of these `gateways`, counted from 1; or nobody.

    `forgets`: it has lost its memory at the end.
    """

    at_s: Seconds = field(name="at")
    for_s: Seconds = field(name="for")
    gateways: tuple[Annotated[int, Meta(ge=1, le=MAX_GATEWAYS)], ...] = ()
    forgets: bool = False


class StoreConfig(Section, frozen=True, kw_only=True):
    """The store that gateways share their limits through."""

    rtt_s: Seconds = field(default=0.0005, name="rtt")
    outages: tuple[OutageConfig, ...] = ()


class Scenario(Section, frozen=True, kw_only=True):
    """The whole file. `engine` is what clusters have that are not named.

    Several `gateways`, or one with a `store` in the file, take their slots from a grant of the store.
    `spread` is how requests get to them.
    """

    gateways: Annotated[int, Meta(ge=1, le=MAX_GATEWAYS)] = 1
    spread: Literal["random", "round_robin"] = "random"
    store: StoreConfig | None = None
    engine: Annotated[EngineConfig, Meta(extra={"shorthand": "preset"})] = EngineConfig()
    clusters: tuple[SimClusterConfig, ...] = ()
    faults: tuple[FaultConfig, ...] = ()

    @property
    def shared_store(self) -> StoreConfig | None:
        """None: one gateway with a store of its own."""
        return self.store if self.store is not None or self.gateways == 1 else StoreConfig()

    def cluster(self, name: str) -> SimClusterConfig:
        """As the file has it, with the default engine where it names none."""
        found = next((c for c in self.clusters if c.name == name), SimClusterConfig(name=name))
        return found if found.engine is not None else msgspec.structs.replace(found, engine=self.engine)


def load_scenario(path: Path, config: Config, gateways: int | None = None) -> Scenario:
    """The scenario in a file, for this configuration; with so many `gateways` instead. Raises ConfigError."""
    scenario, reading = parse_as(Scenario, read_text(path), str(path), Surroundings(path.parent, os.environ))
    if gateways is not None:
        scenario = msgspec.structs.replace(scenario, gateways=gateways)
    _check(scenario, config, reading)
    if reading.problems:
        raise ConfigError(reading.problems)
    return scenario


def _check(scenario: Scenario, config: Config, reading: Reading) -> None:
    clusters = clusters_of(config)
    names = [cluster.name for cluster in clusters]
    backends = [backend.id for cluster in clusters for backend in cluster.backends]
    seen: set[str] = set()
    for cluster in scenario.clusters:
        if cluster.name not in names:
            reading.complain(
                cluster, "name", "is no cluster of the configuration", f"there are: {', '.join(names)}"
            )
        elif cluster.name in seen:
            reading.complain(cluster, "name", "is named twice", "remove one")
        seen.add(cluster.name)
    for fault in scenario.faults:
        if fault.target not in names and fault.target not in backends:
            reading.complain(
                fault,
                "target",
                "is no cluster or backend of the configuration",
                f"there are: {', '.join([*names, *backends])}",
            )
    for outage in scenario.store.outages if scenario.store is not None else ():
        if max(outage.gateways, default=0) > scenario.gateways:
            reading.complain(
                outage,
                "gateways",
                f"there are {scenario.gateways} of them",
                "count from 1, or raise gateways",
            )
