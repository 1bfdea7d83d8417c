"""Small configurations and traces for the simulator's tests."""

from __future__ import annotations

from pathlib import Path
from random import Random

from gateway.config.loading import parse
from gateway.sim.arrivals import Arrival
from gateway.sim.scenario import Scenario, load_scenario
from gateway.sim.world import Setting

THREE_TIERS = """
clusters:
  - {name: here,  limit: 4, backends: [http://a.example:1, http://b.example:1]}
  - {name: there, limit: 50, backends: [http://c.example:1], tier: backup}
  - {name: spot,  limit: 50, backends: [http://d.example:1], tier: spot}
"""


def bursts(count: int, rate_per_s: float, seed: int = 7, output_tokens: int = 60) -> list[Arrival]:
    """Requests that come by chance, of lengths that differ tenfold."""
    random, now_s, arrivals = Random(seed), 0.0, []
    for _ in range(count):
        now_s += random.expovariate(rate_per_s)
        arrivals.append(Arrival(now_s, random.randint(50, 2000), random.randint(1, 2 * output_tokens)))
    return arrivals


def setting(
    arrivals: list[Arrival], config: str = THREE_TIERS, scenario: Scenario | None = None, seed: int = 0
) -> Setting:
    return Setting(parse(config, "test.yaml", "."), scenario or Scenario(), arrivals, seed)


def scenario_of(text: str, folder: Path, config: str = THREE_TIERS) -> Scenario:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return load_scenario(path, parse(config, "test.yaml", "."))
