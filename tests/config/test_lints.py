"""Lints: settings that are right each and wrong together, told with their place, numbers and a fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.config.lints import LINTS, Finding, Level, findings_of
from gateway.config.loading import load, parse
from gateway.sim import scenario_lints, trace_lints

ROOT = Path(__file__).parents[2]
CHART_EXAMPLES = sorted((ROOT / "helm" / "examples").glob("*.yaml"))
TWO = """\
clusters:
  - {name: a, limit: 8, backends: [http://a:1, http://a:2]}
  - {name: b, limit: 8, backends: [http://b], tier: backup}
"""
REGIONS = (
    f"keys:\n  - {{{{name: bank, sha256: {'a' * 64}, {{}}}}}}\n"
    """clusters:
  - {{name: a, limit: 8, backends: [http://a:1, http://a:2], residency: [eu], models: [m]}}
  - {{name: b, limit: 8, backends: [http://b:1, http://b:2], residency: [us], models: [m, n], tier: backup}}
  - {{name: c, limit: 8, backends: [http://c:1], residency: [us], models: [n], tier: spot}}
"""
)


def found(text: str) -> list[Finding]:
    return findings_of(parse(text, "g.yaml", "."))


def only(text: str) -> Finding:
    (finding,) = found(text)
    return finding


def test_a_plain_configuration_has_none() -> None:
    assert found(TWO) == []


@pytest.mark.parametrize(
    ("lint", "text", "setting", "said", "fix"),
    [
        (
            "unreachable-tier",
            "tiers: [primary, backup, reserve]\n" + TWO,
            "tiers[2]",
            "the tier reserve can never be reached",
            "give a cluster `tier: reserve`",
        ),
        (
            "only-spot",
            TWO.replace("name: a,", "name: a, models: [x],").replace("name: b,", "name: b, models: [x],")
            + "  - {name: c, limit: 3, backends: [http://c:1, http://c:2], tier: spot, models: ['m-*']}\n"
            + "  - {name: d, limit: 4, backends: [http://d], tier: spot, models: ['m-*']}\n",
            "clusters[2].tier",
            "all 10 slots for the model m-* are in the tier spot: one preemption",
            "add a cluster in another tier",
        ),
        (
            "residency-without-cluster",
            REGIONS.format("residency: [eu]"),
            "keys[0].residency",
            "bank is kept to eu and may ask for the model n, which only clusters elsewhere serve (b, c): "
            "each such request gets 503",
            "give one of them `residency: [eu]` if it is there",
        ),
        (
            "residency-without-cluster",
            REGIONS.format("residency: [eu], models: [n, unheard-of]"),
            "keys[0].residency",
            "may ask for the model n, which",
            "list under `models`",
        ),
        (
            "residency-without-cluster",
            REGIONS.format("residency: [eu], models: ['n*', m]"),
            "keys[0].residency",
            "kept to eu and may ask for the model n, which only clusters elsewhere serve (b, c)",
            "add a cluster that is",
        ),
        (
            "idle-weight",
            TWO.replace("name: b,", "name: b, weight: 3,"),
            "clusters[1].weight",
            "alone in the tier",
            "remove",
        ),
        (
            "idle-weight",
            "cluster_policy: least_loaded\n" + TWO.replace("name: a,", "name: a, weight: 3,"),
            "clusters[0].weight",
            "3 has no effect: cluster_policy is least_loaded",
            "remove",
        ),
        (
            "limit-above-batch",
            TWO.replace("name: a, limit: 8", "name: a, limit: 300"),
            "clusters[0].limit",
            "44 would wait inside the engine",
            "at most 256",
        ),
        (
            "limit-above-batch",
            TWO.replace("[http://b]", "[{url: http://b, limit: 257}]"),
            "clusters[1].backends[0].limit",
            "257 is more than an engine batches by default (256",
            "at most 256",
        ),
        (
            "listed-twice",
            TWO.replace("http://b", "http://A:2"),
            "clusters[1].backends[0]",
            "is in a too: it may get 8 + 8 = 16 requests",
            "list it once",
        ),
        (
            "first-byte-below-prefill",
            "timeouts: {first_byte: 5s, first_byte_per_kib: 1ms}\n" + TWO,
            "timeouts.first_byte",
            "takes an idle A100 9.4 s to read, and may take 5.5 s (5s + 500 x 1ms)",
            "first_byte_per_kib: 18ms leaves time",
        ),
        (
            "attempts-beyond-total",
            "timeouts: {total: 60s}\ndrain_timeout: 60s\n" + TWO,
            "retry.attempts",
            "3 attempts may take 93s to fail (3 x (connect 1s + first_byte 30s)), and timeouts.total is 1m",
            "attempts: 1,",
        ),
        (
            "stage-beyond-total",
            "timeouts: {stall: 20m}\n" + TWO,
            "timeouts.stall",
            "20m can never pass: timeouts.total ends all after 10m",
            "shorter than total",
        ),
        (
            "hold-beyond-patience",
            "hold: {max_wait: 20s}\ntimeouts: {first_byte: 15s}\n" + TWO,
            "hold.max_wait",
            "20s for a slot, and then timeouts.first_byte, 15s, for its first byte: 35s in all",
            "hold for a second or less",
        ),
        (
            "drain-below-total",
            "drain_timeout: 5s\n" + TWO,
            "drain_timeout",
            "a shutdown waits 5s, and a stream may last 10m (timeouts.total)",
            "drain_timeout: 10m",
        ),
        (
            "late-hedge",
            "hedge: {after: 40s}\n" + TWO,
            "hedge.after",
            "40s never comes for a short prompt: the first attempt is given up after 30s",
            "p95",
        ),
    ],
)
def test_each_says_where_why_in_numbers_and_what_to_do(
    lint: str, text: str, setting: str, said: str, fix: str
) -> None:
    finding = only(text)
    assert (finding.lint, finding.level, finding.setting) == (lint, Level.WARNING, setting)
    assert said in finding.message and fix in finding.fix


def test_one_cluster_for_a_model_is_a_note() -> None:
    text = TWO.replace("name: a,", "name: a, models: [x, y],").replace("name: b,", "name: b, models: [y, z],")
    assert [(f.lint, f.level, f.setting) for f in found(text)] == [
        ("single-cluster", Level.NOTE, "clusters[0]"),
        ("single-cluster", Level.NOTE, "clusters[1]"),
    ]
    x, z = (finding.message for finding in found(text))
    assert x.startswith("the model x is served by this cluster only: request 17 at a time is refused")
    assert z.startswith("the model z has one backend in all: request 9 at a time is refused")
    assert "retry.attempts: 3 has no effect" in z
    assert only("clusters: [{name: a, limit: 1, backends: [http://a]}]").message.startswith(
        "any model has one"
    )


def test_backends_that_are_not_known_yet_are_not_counted() -> None:
    finding, note = found(
        "clusters: [{name: a, limit: 300, discovery: {dns: {name: e.example, port: 8000}}}]"
    )[::-1]
    assert (finding.lint, finding.setting) == ("limit-above-batch", "clusters[0].limit")
    assert note.message == "any model is served by this cluster only: there is nowhere to spill to"


def test_a_fix_that_is_followed_ends_the_finding() -> None:
    assert found("timeouts: {first_byte: 5s, first_byte_per_kib: 18ms}\n" + TWO) == []
    assert found("timeouts: {total: 60s}\ndrain_timeout: 1m\nretry: {attempts: 1}\n" + TWO) == []
    assert found("drain_timeout: 10m\n" + TWO) == []
    for key in ("residency: [us]", "residency: [eu, us]", "residency: [eu], models: [m]", "models: [n]"):
        assert found(REGIONS.format(key)) == []
    for key in ("residency: [eu], models: [unheard-of]", "residency: [eu], models: ['m-*']"):
        assert found(REGIONS.format(key)) == []  # nobody serves it anywhere: no matter of residency


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_names_file_line_and_lint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(TWO.replace("[http://b]", "\n      [http://b, http://a:1]") + "drain_timeout: 5s\n")
    assert main(["check", "-c", str(path)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "ok: 2 clusters in 2 tiers, 4 backends, 32 slots\n"
    twice, drain = shown.err.splitlines()
    assert twice.startswith(f"warning: {path}:4: clusters[1].backends[1]: is in a too") and twice.endswith(
        "[listed-twice]"
    )
    assert drain.startswith(f"warning: {path}:5: drain_timeout: ") and drain.endswith("[drain-below-total]")
    assert main(["check", "-c", str(path), "--strict"]) == 1


def test_notes_do_not_fail_a_strict_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("clusters: [{name: a, limit: 1, backends: [http://a]}]")
    assert main(["check", "-c", str(path), "--strict"]) == 0
    assert capsys.readouterr().err.startswith(f"note: {path}:1: clusters[0]: any model has one backend")


def test_a_scenario_says_which_engine_runs_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, scenario = tmp_path / "g.yaml", tmp_path / "s.yaml"
    path.write_text(TWO.replace("limit: 8", "limit: 100"))
    scenario.write_text("engine: h100-80\nclusters: [{name: b, engine: l4-24}]\n")
    assert main(["check", "-c", str(path), "--scenario", str(scenario), "--strict"]) == 1
    error = capsys.readouterr().err
    assert (
        f"warning: {path}:3: clusters[1].backends[0]: its limit of 100 is more than its engine (l4-24)"
        in error
    )
    assert "36 would wait inside the engine" in error and error.count("\n") == 1
    scenario.write_text("clusters: [{name: c}]\n")
    assert main(["check", "-c", str(path), "--scenario", str(scenario)]) == 2
    assert f"{scenario}:1: clusters[0].name: is no cluster" in capsys.readouterr().err


# --- what we ship ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_no_example_is_warned_about(path: Path) -> None:
    assert [f for f in findings_of(load(path)) if f.level is Level.WARNING] == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "helm" / "examples").glob("*.yaml")), ids=lambda path: path.name
)
def test_no_example_of_the_chart_is_warned_about(path: Path) -> None:
    config = yaml.safe_load(path.read_text())["config"]
    config.setdefault("drain_timeout", config.get("timeouts", {}).get("total", "10m"))  # as the chart has it
    for cluster in config["clusters"]:
        cluster.pop("auth", None)  # its secrets are not here
    warned = findings_of(parse(yaml.safe_dump(config), path.name, "."))
    assert [finding for finding in warned if finding.level is Level.WARNING] == []


def test_the_guide_names_every_lint() -> None:
    page = (ROOT / "docs" / "how-to" / "check-a-configuration.md").read_text()
    assert set(re.findall(r"(?m)^\| `([a-z-]+)` \|", page)) == {*LINTS, scenario_lints.LINT, trace_lints.LINT}
