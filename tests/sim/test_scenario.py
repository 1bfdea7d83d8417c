"""Scenario files: the one in the how-to, and what stands in for what is not said."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.sim.scenario import EngineConfig, Scenario
from tests.sim.settings import scenario_of

HOW_TO = Path(__file__).parents[2] / "docs/how-to/simulate-a-rollout.md"
CLUSTERS = """
clusters:
  - {name: eu-primary, limit: 8, backends: [http://10.0.0.1:8000]}
  - {name: us-backup, limit: 8, tier: backup, backends: [http://10.0.0.2:8000]}
  - {name: embeddings, limit: 8, backends: [http://10.0.0.3:8000]}
  - {name: spot, limit: 8, tier: spot, backends: [http://10.0.0.4:8000]}
"""


def test_the_scenario_of_the_how_to_is_good_and_means_what_it_says(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    scenario = scenario_of(text, tmp_path, CLUSTERS)
    engines = {name: scenario.cluster(name).engine for name in ("eu-primary", "us-backup", "embeddings")}
    assert engines["eu-primary"] == EngineConfig(preset="h100-80")
    assert engines["us-backup"] == EngineConfig(preset="a100-80")  # the default of the file
    assert engines["embeddings"].times_s == (0.012, 0.00001, 0.0)  # what is not given is 0
    assert engines["embeddings"].sigma == 0.3
    assert scenario.cluster("us-backup").rtt_s == 0.071
    assert [(fault.kind, fault.at_s, fault.for_s) for fault in scenario.faults] == [
        ("preempt", 600.0, 300.0),
        ("hang", 1200.0, 120.0),
    ]


def test_without_a_scenario_every_backend_takes_what_the_lengths_say():
    engine = Scenario().cluster("any").engine
    assert engine == EngineConfig()
    assert engine.times_s == (0.020, 0.000075, 0.030)
    assert EngineConfig(base_s=0.080).times_s == (0.080, 0.0, 0.0)
