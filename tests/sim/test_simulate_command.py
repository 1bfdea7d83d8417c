"""`spillway simulate` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import main
from tests.sim.settings import THREE_TIERS, bursts


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """The arguments for a small configuration and trace."""
    rows = "".join(f"{a.at_s:.4f},{a.input_tokens},{a.output_tokens}\n" for a in bursts(400, 9.0))
    (tmp_path / "c.yaml").write_text(THREE_TIERS)
    (tmp_path / "t.csv").write_text("t_seconds,input_tokens,output_tokens\n" + rows)
    return ["simulate", "-c", str(tmp_path / "c.yaml"), "--trace", str(tmp_path / "t.csv")]


def test_the_report_tells_of_tiers_baselines_and_bound(given, capsys):
    assert main(given) == 0
    report = capsys.readouterr().out
    for word in (
        "spillway",
        "round_robin",
        "cool_down",
        "greedy",
        "bound",
        "score:",
        "primary",
        "spills: full",
    ):
        assert word in report


@pytest.mark.parametrize("gateways", ["1", "3"])
def test_the_same_seed_gives_the_same_bytes_whatever_the_process(given, tmp_path, gateways):
    (tmp_path / "s.yaml").write_text("store: {outages: [{at: 10s, for: 5s}]}")
    given += ["--gateways", gateways, "--scenario", str(tmp_path / "s.yaml")]
    reports = []
    for hash_seed in ("1", "2"):
        path = tmp_path / f"{hash_seed}.json"
        command = [sys.executable, "-m", "gateway.cli", *given, "--seed", "4", "--json", str(path)]
        subprocess.run(
            command, check=True, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, timeout=50
        )
        reports.append(path.read_bytes())
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    (study,) = report["configs"]
    assert (report["workload"], report["seed"], study["config"]) == ("t.csv", 4, "c.yaml")
    assert study["spillway"]["requests"] == 400


def test_another_seed_draws_otherwise(given, tmp_path):
    for seed in ("0", "1"):
        assert main([*given, "--seed", seed, "--json", str(tmp_path / seed)]) == 0
    assert (tmp_path / "0").read_bytes() != (tmp_path / "1").read_bytes()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "t_seconds,input_tokens,output_tokens\n0,1,-1\n", "t.csv:2: output_tokens must be from 0"),
        (
            "c.yaml",
            "clusters: [{name: a, limit: 0, backends: [http://a:1]}]",
            "c.yaml:1: clusters[0].limit: must",
        ),
        (
            "s.yaml",
            "faults:\n  - {at: 1s, for: 1s, target: nobody, kind: hang}",
            "s.yaml:2: faults[0].target: is no",
        ),
        (
            "s.yaml",
            "clusters:\n  - {name: nobody}",
            "s.yaml:2: clusters[0].name: is no cluster of the config",
        ),
        ("s.yaml", "engine: h200", "s.yaml:1: engine: must be one of a100-80, h100-80"),
        (
            "s.yaml",
            "gateways: 2\nstore: {outages: [{at: 1s, for: 1s, gateways: [1, 3]}]}",
            "s.yaml:2: store.outages[0].gateways: there are 2 of them; count from 1",
        ),
        ("s.yaml", "gateways: 0", "s.yaml:1: gateways: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(given, tmp_path, capsys, name, text, said):
    (tmp_path / "s.yaml").write_text("engine: timed")
    (tmp_path / name).write_text(text)
    assert main([*given, "--scenario", str(tmp_path / "s.yaml")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_gateways_are_counted_on_the_command_line_before_the_scenario(given, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("gateways: 2\nstore: {outages: [{at: 10s, for: 5s, gateways: [4]}]}")
    given += ["--scenario", str(tmp_path / "s.yaml"), "--json", str(tmp_path / "r.json")]
    assert main([*given, "--gateways", "4"]) == 0
    told = capsys.readouterr()
    assert told.err == "", "the store's own warnings are for live gateways"
    assert "gateways 4, false spills" in told.out
    fleet = json.loads((tmp_path / "r.json").read_bytes())["configs"][0]["spillway"]["fleet"]
    assert (fleet["gateways"], fleet["is_shared"]) == (4, True)
    assert 4 < fleet["degraded_s"] < 7
    assert all(backend["peak"] <= backend["limit"] + 1 for backend in fleet["backends"].values())


def test_a_number_of_gateways_that_cannot_be_is_exit_2(given, capsys):
    for number in ("0", "101", "many"):
        with pytest.raises(SystemExit) as ended:
            main([*given, "--gateways", number])
        assert ended.value.code == 2
        assert f"must be a number from 1 to 100, not '{number}'" in capsys.readouterr().err


def test_several_gateways_without_the_embedded_lua_are_exit_2_and_one_needs_none(given, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lupa", None)
    assert main([*given, "--gateways", "2"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("pip install 'spillway[sim]'\n")
    assert error.count("\n") == 1
    assert main(given) == 0


def test_a_report_that_cannot_be_written_is_exit_1(given, tmp_path, capsys):
    assert main([*given, "--json", str(tmp_path / "none" / "r.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_server_carries_no_simulator():
    code = "import gateway.app, sys; print([m for m in sys.modules if m.startswith('gateway.sim')])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    assert found.stdout.strip() == "[]"


def test_ctrl_c_ends_it_with_one_line(given, capsys, monkeypatch):
    def study(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.sim.command.study", study)
    assert main(given) == 130
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["simulate: interrupted, nothing more is reported"]
