"""`spillway check`: what it prints, and its exit codes; and that all we ship checks clean."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import inspect

from gateway.config import ConfigError, check, load
from gateway.config.schema import Config
from gateway.config.shapes import Shape

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.run(parser.parse_args(arguments))


def test_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-c", str(ROOT / "config" / "minimal.yaml")) == 0
    assert capsys.readouterr() == ("ok: 3 clusters in 3 tiers, 3 backends, 24 slots\n", "")


def test_one_of_each_is_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.yaml").write_text("clusters: [{name: a, limit: 1, backends: [http://a]}]")
    assert run("-c", str(tmp_path / "g.yaml")) == 0
    assert capsys.readouterr().out == "ok: 1 cluster in 1 tier, 1 backend, 1 slot\n"


def test_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("listen: 8080\nclusters: [{name: a, lmit: 1, backends: [http://a]}]")
    assert run("-c", str(path)) == 2
    assert capsys.readouterr() == (
        "",
        f"{path}:1: listen: must be host:port; did you mean '127.0.0.1:8080'?\n"
        f"{path}:2: clusters[0].lmit: unknown key; did you mean 'limit'?\n",
    )


def test_files_of_discovery_are_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, backends = tmp_path / "g.yaml", tmp_path / "b.yaml"
    listed = "{name: a, limit: 4, discovery: {file: b.yaml}}"
    config.write_text(
        f"clusters: [{listed}, {{name: b, limit: 1, discovery: {{dns: {{name: x, port: 1}}}}}}]"
    )
    backends.write_text("- http://10.0.0.1\n- {url: http://10.0.0.2, limit: 1}\n")
    assert run("-c", str(config)) == 0
    out = capsys.readouterr().out
    assert out == "ok: 2 clusters in 1 tier, 2 backends, 5 slots, and those that discovery finds for b\n"
    backends.write_text("- http://10.0.0.1\n- 10.0.0.2\n")
    assert run("-c", str(config)) == 2
    mistake = "[1]: must begin with http:// or https://; did you mean 'http://10.0.0.2'?"
    assert capsys.readouterr().err == f"{backends}:2: {mistake}\n"
    backends.unlink()
    assert run("-c", str(config)) == 2
    assert "clusters[0].discovery.file: file 'b.yaml' does not exist" in capsys.readouterr().err


def test_on_a_terminal_a_table_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        "clusters:\n"
        "- {name: b, tier: spot, limit: 2, backends: [http://b]}\n"
        "- {name: a, limit: 1, backends: [http://a], models: ['[bold]x']}\n"
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("-c", str(path)) == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        ["tier", "cluster", "models", "backends", "slots"],
        ["primary", "a", "[bold]x", "1", "1"],
        ["spot", "b", "any", "1", "2"],
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    assert load(path).clusters


def keys_of(section: inspect.Type) -> set[str]:
    keys: set[str] = set()
    shape = Shape(section)
    if isinstance(shape.type, inspect.VarTupleType):
        return keys_of(shape.type.item_type)
    if isinstance(shape.type, inspect.StructType):
        for field in shape.type.fields:
            keys |= {field.encode_name} | keys_of(field.type)
    return keys


def test_the_full_example_shows_every_key_and_its_default() -> None:
    path = ROOT / "config" / "full.yaml"
    shown = set(re.findall(r"\b([a-z0-9_]+):", path.read_text()))
    assert keys_of(inspect.type_info(Config)) - shown == set()
    config = load(path)
    assert config == Config(clusters=config.clusters)


def test_the_commented_lines_of_the_full_example_are_right_too(tmp_path: Path) -> None:
    text = (ROOT / "config" / "full.yaml").read_text()
    text = re.sub(r"(?m)^# (tls:| {2}\w+_file:)", r"\1", text)
    text = re.sub(r"(?m)^( *)# (\w+_file:)", r"\1  \2", text)
    text = re.sub(r"(?m)^ +value: .*$", "", text)
    (tmp_path / "full.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "full.yaml")
    # Read where they belong; all that is wrong with them is that the files are not there.
    assert [(problem.path, "does not exist" in problem.message) for problem in caught.value.problems] == [
        ("tls.cert_file", True),
        ("tls.key_file", True),
        ("tls.client_ca_file", True),
        ("admin.token_file", True),
        ("state.url_file", True),
        ("clusters[3].auth.value_file", True),
        ("clusters[3].tls.ca_file", True),
        ("clusters[3].tls.cert_file", True),
        ("clusters[3].tls.key_file", True),
    ]


def test_the_reference_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate-docs"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_serving_does_not_carry_what_only_reading_needs() -> None:
    """Importing the package, as everything does, loads neither YAML nor rich."""
    code = "import sys, gateway.config.check; print(*sorted({'yaml', 'rich'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"
