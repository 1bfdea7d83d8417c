"""Runs each scenario of this folder and compares it with its own golden lines.

REWRITE_SCENARIOS=1 scripts/test tests/scenarios writes the lines anew; then read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.world import World

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


def played(text: str) -> str:
    """The scenario with what comes of each command below it."""
    world = World()
    lines = []
    for line in text.splitlines():
        if line.startswith(">"):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"> {said}" for said in world.run(line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path):
    text = path.read_text()
    told = played(text)
    if os.environ.get("REWRITE_SCENARIOS"):
        path.write_text(told)
        return
    assert told.splitlines() == text.splitlines()


def test_there_are_scenarios_and_each_has_golden_lines():
    assert len(SCENARIOS) >= 8
    assert all("\n> " in path.read_text() for path in SCENARIOS)
