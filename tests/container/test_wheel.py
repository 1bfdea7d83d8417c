"""The wheel that the image is made of, in a clean virtual environment of this machine's Python."""

from __future__ import annotations

import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.container.conftest import ROOT
from tests.container.steps import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(image: Image, *words: str) -> subprocess.CompletedProcess[str]:
    """The command of the environment, away from the checkout."""
    command = image.place.path("/opt/spillway/bin/spillway")
    return subprocess.run([str(command), *words], cwd="/", capture_output=True, text=True, timeout=60)


def test_it_holds_the_package_whole_and_nothing_else(built_in_folder: Image) -> None:
    (wheel,) = built_in_folder.place.path("/build/dist").glob("spillway-*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "gateway").rglob("*") if is_source(path)}
    assert {"gateway/py.typed", "gateway/state/lua/exchange.lua"} <= sources
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == sources
    assert {Path(name).name for name in metadata} == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "LICENSE",
    }


def is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def test_neither_pip_nor_a_build_tool_is_left(built_in_folder: Image) -> None:
    environment = built_in_folder.place.path("/opt/spillway")
    tools = ("pip*", "setuptools*", "hatchling*")
    places = [environment / "bin", *environment.glob("lib/python3.*/site-packages")]
    assert len(places) == 2
    assert not [path for place in places for name in tools for path in place.glob(name)]


def test_the_demo_runs_from_it(built_in_folder: Image) -> None:
    ended = run(built_in_folder, "demo", "--seconds", "2", "--port", "0")
    assert ended.returncode == 0, ended.stderr


def test_it_checks_a_configuration(built_in_folder: Image) -> None:
    checked = run(built_in_folder, "check", "-c", str(ROOT / "config" / "minimal.yaml"))
    assert (checked.returncode, checked.stdout[:3]) == (0, "ok:")
