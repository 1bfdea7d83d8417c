"""Two places for the steps: a plain folder on this machine, and a clean Debian of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.container.steps import STEP_TIMEOUT_S


class Folder:
    """Stages are built below `folder` with this machine's Python: /opt and /build are folders in it.

    Only for stages that touch nothing else: a command that names another absolute path is not run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        tools = folder / "tools"
        tools.mkdir(parents=True, exist_ok=True)
        if not (tools / "python").exists():
            (tools / "python").symlink_to(sys.executable)
        self._python = tools

    def path(self, inside: str) -> Path:
        return Path(self._moved(inside))

    def run(
        self, command: str, environment: Mapping[str, str], workdir: str
    ) -> subprocess.CompletedProcess[str]:
        path = f"{self._python}:{os.environ['PATH']}"
        moved = {"HOME": str(self._folder), **pip_settings(), **environment, "PATH": path}
        return subprocess.run(
            ["/bin/sh", "-c", self._moved(command)],
            env=moved,
            cwd=self.path(workdir),
            capture_output=True,
            text=True,
            timeout=STEP_TIMEOUT_S,
        )

    def _moved(self, text: str) -> str:
        def moved(match: re.Match[str]) -> str:
            assert match[0].split("/")[1] in ("opt", "build"), f"{match[0]} is outside of the folder"
            return f"{self._folder}{match[0]}"

        return re.sub(r"(?<![\w./*:-])/[\w./*-]+", moved, text)


class CleanRoot:
    """A root file system of its own, with nothing of this machine's but pip's settings while a step runs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def run(
        self, command: str, environment: Mapping[str, str], workdir: str
    ) -> subprocess.CompletedProcess[str]:
        settings = pip_settings()
        mounts = [f"mount -t proc proc {self.root}/proc"]
        for path in _local_paths(settings):
            inside = self.path(path)
            if Path(path).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()
            mounts.append(f"mount --rbind -o ro {shlex.quote(path)} {shlex.quote(str(inside))}")
        resolver = self.path("/etc/resolv.conf")
        resolver.touch()
        mounts.append(f"mount --bind /etc/resolv.conf {resolver}")
        mounts.append(f'exec chroot {self.root} /bin/sh -c \'cd "$0" && exec /bin/sh -c "$1"\' "$0" "$1"')
        return subprocess.run(
            # In a mount namespace of its own, so that nothing is left mounted whatever happens.
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "/bin/sh",
                "-ec",
                "\n".join(mounts),
                workdir,
                command,
            ],
            env={"HOME": "/root", **settings, **environment},
            capture_output=True,
            text=True,
            timeout=STEP_TIMEOUT_S,
        )


def pip_settings() -> dict[str, str]:
    """What pip is told on this machine, by files or the environment, as environment variables."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {}
    for line in told.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in ("global", "install", ":env:") and name != "config-file":
            text = value.strip().strip("'\"").replace("\\n", " ")
            settings[f"PIP_{name.upper().replace('-', '_')}"] = text
    return settings


def _local_paths(settings: Mapping[str, str]) -> list[str]:
    """Files and folders that the settings name. An index of files points to files beside itself."""
    found = set()
    for word in " ".join(settings.values()).split():
        if word.startswith("file://"):
            found.add(str(Path(word.removeprefix("file://")).parent))
        elif word.startswith("/"):
            found.add(word)
    return sorted(path for path in found if os.path.exists(path))
