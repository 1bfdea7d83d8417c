from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.context import Context
from tests.container.dockerfile import Dockerfile, Stage, read
from tests.container.places import CleanRoot, Folder
from tests.container.steps import Image, build

ROOT = Path(__file__).parents[2]
# Where the base image has its pip, and the image must not.
PIP_OF_BASE = ("/usr/local/bin/pip3", "/usr/local/lib/python3.13/site-packages/pip/__init__.py")
# The Debian that the base image is made of, and its Python.
SUITE, PACKAGES = "trixie", "python3,python3-venv,ca-certificates"
DEBOOTSTRAP_S = 500.0
DEBIAN_VARIABLE = "SPILLWAY_TEST_DEBIAN"


@pytest.fixture(scope="session")
def dockerfile() -> Dockerfile:
    return read(ROOT / "Dockerfile")


@pytest.fixture(scope="session")
def built_in_folder(dockerfile: Dockerfile, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The builder stage, run with this machine's Python."""
    place = Folder(tmp_path_factory.mktemp("folder"))
    return build(dockerfile, Context(ROOT), lambda _: place, until="builder")


@pytest.fixture(scope="session")
def image(dockerfile: Dockerfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The whole image, on a clean Debian in place of the base image."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    folder = tmp_path_factory.mktemp("image")
    base = _debian(folder)

    def place(stage: Stage) -> CleanRoot:
        root = folder / stage.name
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        for name in PIP_OF_BASE:
            (root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (root / name.lstrip("/")).touch()
        return CleanRoot(root)

    try:
        yield build(dockerfile, Context(ROOT), place)
    finally:
        # A gigabyte, of which pytest would keep three. What was mounted went with its namespace; if not, it
        # is left alone.
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def _debian(folder: Path) -> Path:
    """A clean Debian, or the one that DEBIAN_VARIABLE names, which saves a minute each time."""
    if DEBIAN_VARIABLE in os.environ:
        return Path(os.environ[DEBIAN_VARIABLE])
    base = folder / "base"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(base)],
        capture_output=True,
        text=True,
        timeout=DEBOOTSTRAP_S,
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr
    # As the base image names it.
    (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    return base
