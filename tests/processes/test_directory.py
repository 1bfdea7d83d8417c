"""The private directory: for its owner only, and gone with it, at the latest when the next one comes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gateway.processes.directory import PREFIX, PrivateDirectory


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("d")
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    return base


def test_nobody_else_may_enter_and_it_goes_with_all_that_is_in_it(base: Path) -> None:
    directory = PrivateDirectory()
    assert directory.path.parent == base
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    Path(directory.socket("worker-1")).write_text("")
    directory.remove()
    assert list(base.iterdir()) == []


def test_the_next_one_removes_what_a_killed_owner_left_and_nothing_else(base: Path) -> None:
    story = (
        "import tempfile, sys; tempfile.tempdir = sys.argv[1]\n"
        "from gateway.processes.directory import PrivateDirectory\n"
        "kept = PrivateDirectory(); print(kept.path, flush=True); sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", story, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    theirs = Path(owner.stdout.readline().strip())
    (base / "other").mkdir()
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    (base / f"{PREFIX}link").symlink_to(elsewhere)
    first = PrivateDirectory()
    assert theirs.is_dir(), "its owner lives"
    owner.kill()
    owner.communicate()
    second = PrivateDirectory()
    assert not theirs.exists()
    assert first.path.is_dir()
    assert (base / "other").is_dir()
    assert elsewhere.is_dir()
    first.remove()
    second.remove()


def test_a_long_path_would_leave_no_room_for_a_socket(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / ("x" * 90)))
    directory = PrivateDirectory()
    try:
        assert len(os.fsencode(directory.socket("worker-255"))) < 108
    finally:
        directory.remove()
