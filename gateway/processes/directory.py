"""A directory for the sockets of a parent and its children: nobody else may enter, and it goes in the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from tempfile import gettempdir, mkdtemp

PREFIX = "spillway-workers-"
# A unix socket's path has at most 107 bytes (sun_path in sys/un.h), and ours take some 45 of them.
MAX_BASE_CHARS = 60


class PrivateDirectory:
    """Mode 0700, locked while its owner lives; opening one removes those whose owner was killed."""

    def __init__(self) -> None:
        base = gettempdir() if len(gettempdir()) <= MAX_BASE_CHARS else "/tmp"
        _remove_orphans(Path(base))
        self.path, self._lock = _make(base)

    def socket(self, name: str) -> str:
        """The path of a socket in it."""
        return str(self.path / f"{name}.sock")

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _make(base: str) -> tuple[Path, int]:
    while True:
        path = mkdtemp(prefix=PREFIX, dir=base)
        lock = _locked(path)
        if lock is not None:
            if os.path.isdir(path):
                return Path(path), lock
            os.close(lock)  # somebody took it for an orphan before it was locked


def _remove_orphans(base: Path) -> None:
    for path in base.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and (lock := _locked(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _locked(path: str | Path) -> int | None:
    """A descriptor that holds the lock of a directory; None when another process has it, or it is gone."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
