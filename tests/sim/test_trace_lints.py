"""`spillway check --trace`: a configuration that changes its mind too often under real requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config.lints import Finding, Level
from gateway.config.loading import parse
from gateway.sim.arrivals import Arrival
from gateway.sim.figures import flaps_of
from gateway.sim.scenario import Scenario
from gateway.sim.trace_lints import FLAPS_BORNE, LINT, lint_trace
from gateway.sim.world import run_gateway
from tests.sim.settings import THREE_TIERS, bursts, scenario_of, setting

# Prompts whose first token takes from 50 to 200 ms: after 140 ms many are late.
BUSY = bursts(900, 6.0)
IMPATIENT = (
    "timeouts: {first_byte: 140ms, first_byte_per_kib: 0s}\nbreaker: {consecutive: 1, slow_start: 4s}\n"
)


def lint(text: str, arrivals: list[Arrival], scenario: Scenario | None = None) -> list[Finding]:
    return [*lint_trace(parse(text, "g.yaml", "."), scenario or Scenario(), arrivals, "t.csv")]


def test_bursts_alone_make_nothing_flap() -> None:
    assert lint(THREE_TIERS, BUSY) == []


def test_a_first_byte_timeout_that_the_prompts_do_not_bear_is_named_with_its_numbers() -> None:
    (finding,) = lint(IMPATIENT + THREE_TIERS, BUSY)
    flaps = flaps_of(run_gateway(setting(BUSY, IMPATIENT + THREE_TIERS)).rows)
    assert flaps > FLAPS_BORNE
    assert (finding.lint, finding.level, finding.setting) == (LINT, Level.WARNING, "timeouts.first_byte")
    assert f"with t.csv the preferred tier is left {flaps} times in 0.0" in finding.message
    assert "more than 3 are too many: circuits open" in finding.message
    assert "(140ms and first_byte_per_kib); where nobody gives up, its p99 is 199 ms" in finding.message
    assert finding.fix == "first_byte: 400ms leaves twice that"
    assert lint(IMPATIENT.replace("140ms", "400ms") + THREE_TIERS, BUSY) == []


def test_requests_that_wait_inside_a_crowded_engine_ask_for_smaller_limits(tmp_path: Path) -> None:
    text = IMPATIENT.replace("140ms", "2s") + THREE_TIERS.replace("limit: 4", "limit: 60")
    (finding,) = lint(text, BUSY, scenario_of("engine: l4-24", tmp_path, text))
    assert finding.fix.startswith(
        "smaller limits, so that requests do not wait inside their engines; or first_byte:"
    )


def test_circuits_that_open_at_a_few_errors_are_the_breakers_matter(tmp_path: Path) -> None:
    faults = "faults:\n  - {at: 10s, for: 120s, target: here, kind: error, share: 0.2}\n"
    hasty = "breaker: {consecutive: 2, open: 1s, open_max: 1s, slow_start: 1s}\n" + THREE_TIERS
    (finding,) = lint(hasty, BUSY, scenario_of(faults, tmp_path, hasty))
    assert finding.setting == "breaker.consecutive"
    assert "of them for server_error" in finding.message
    assert finding.fix.startswith("raise consecutive, ratio or min_samples")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "g.yaml").write_text(IMPATIENT + THREE_TIERS)
    rows = "".join(f"{a.at_s:.4f},{a.input_tokens},{a.output_tokens}\n" for a in BUSY)
    (tmp_path / "t.csv").write_text("t_seconds,input_tokens,output_tokens\n" + rows)
    return ["check", "-c", str(tmp_path / "g.yaml"), "--trace", str(tmp_path / "t.csv")]


def test_the_command_tells_it_with_its_line(files: list[str], tmp_path: Path, capsys) -> None:
    assert main(files) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.endswith("[flapping]")]
    assert len(told) == 1
    assert told[0].startswith(f"warning: {tmp_path / 'g.yaml'}:1: timeouts.first_byte: with t.csv the pre")
    assert main([*files, "--strict"]) == 1


def test_clusters_that_are_discovered_have_stand_ins_here_too(
    files: list[str], tmp_path: Path, capsys
) -> None:
    found = IMPATIENT + THREE_TIERS.replace(
        "backends: [http://a.example:1, http://b.example:1]",
        "discovery: {expected: 2, dns: {name: e.example, port: 1}}",
    )
    (tmp_path / "g.yaml").write_text(found)
    assert main([*files, "--strict"]) == 1
    assert "[flapping]" in capsys.readouterr().err
    (tmp_path / "g.yaml").write_text(found.replace("expected: 2, ", ""))
    assert main(files) == 2
    assert "clusters[0].discovery: finds its backends when the gateway runs" in capsys.readouterr().err


def test_a_mistake_in_the_trace_is_one_line_and_exit_2(files: list[str], tmp_path: Path, capsys) -> None:
    (tmp_path / "t.csv").write_text("t_seconds,input_tokens,output_tokens\n1,1,1\n0,1,1\n")
    assert main(files) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 't.csv'}:3: t_seconds 0 is before that of")
