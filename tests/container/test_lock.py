"""The locks are fresh: what pyproject.toml asks for is pinned in its bounds, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.container.conftest import ROOT
from tests.container.lock import pins

LOCKS = sorted((ROOT / "container").glob("*.lock"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
STALE = "run scripts/lock"


def wanted_in_image() -> dict[str, Requirement]:
    """The run-time set, and the extras that the extra `image` names."""
    project = PROJECT["project"]
    todo, found = [*project["dependencies"], *project["optional-dependencies"]["image"]], {}
    while todo:
        one = Requirement(todo.pop())
        if one.name == project["name"]:
            todo += [text for extra in one.extras for text in project["optional-dependencies"][extra]]
        else:
            found[canonicalize_name(one.name)] = one
    return found


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("image.lock", wanted_in_image()),
        ("build.lock", {one.name: one for one in map(Requirement, PROJECT["build-system"]["requires"])}),
    ],
)
def test_what_the_project_asks_for_is_pinned_in_its_bounds(lock: str, wanted: dict[str, Requirement]) -> None:
    pinned = pins(ROOT / "container" / lock)
    stale = [
        name
        for name, one in wanted.items()
        if name not in pinned or pinned[name].version not in one.specifier
    ]
    assert not stale, STALE


def test_nothing_is_pinned_that_the_project_no_longer_names() -> None:
    named = {
        name for name, pin in pins(ROOT / "container/image.lock").items() if is_named_by_project(pin.via)
    }
    assert named == set(wanted_in_image()), STALE


def is_named_by_project(via: tuple[str, ...]) -> bool:
    return any(who.startswith("spillway") for who in via)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_pin_is_asked_for_by_another_that_is_still_there(lock: Path) -> None:
    pinned = pins(lock)
    askers = {canonicalize_name(who.split()[0]) for pin in pinned.values() for who in pin.via}
    assert askers <= {*pinned, "spillway", "r", "-"}, STALE


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_names_no_place_to_get_packages_from(lock: Path) -> None:
    assert not re.search(r"://|^\s*-(?!-hash=)", lock.read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_pin_has_a_wheel_for_the_image_on(machine: str, lock: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"),
            *(
                "--require-hashes",
                "--only-binary",
                ":all:",
                "--python-version",
                "3.13",
                "--implementation",
                "cp",
            ),
            *("--platform", f"manylinux_2_28_{machine}", "--platform", f"manylinux2014_{machine}"),
            *("--target", str(tmp_path), "-r", str(lock)),
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
