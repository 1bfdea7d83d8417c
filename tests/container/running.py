"""Runs an image as a container engine does: process 1, a read-only root, no privilege, no shell."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.container.steps import Image
from tests.workers.system import children, wait_for

END_S = 20.0
READY = re.compile(r"ready on port (\d+), admin on port (\d+)")
# As /dev/null: whoever tries to run one of them fails.
SHELLS = ("/usr/bin/dash", "/usr/bin/bash")


class Container:
    """Start it, read `port` and `admin_port` after `wait_until_ready`, `stop` it."""

    def __init__(self, image: Image, config_folder: Path, command: list[str] | None = None) -> None:
        self._image = image
        words = [*image.entrypoint, *(image.command if command is None else command)]
        command = shlex.join([*self._without_privilege(), *words])
        root = str(image.place.path("/")).rstrip("/")
        script = [
            f"mount --bind {root} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmpfs {root}/tmp",
            f"mount --bind {config_folder} {root}{image.workdir}",
            f"mount -o remount,bind,ro {root}{image.workdir}",
            *(f"mount --bind /dev/null {root}{shell}" for shell in SHELLS),
            f"mount -o remount,bind,ro {root}",
            f"exec unshare --root={root} --wd={image.workdir} {command}",
        ]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "/bin/sh", "-ec", "\n".join(script)],
            env=image.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = self.admin_port = 0

    @property
    def pid(self) -> int:
        """Of its process 1, as this machine sees it."""
        return next(iter(children(self._process.pid)))

    @property
    def status(self) -> dict[str, str]:
        """/proc/PID/status of process 1."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def wait_until_ready(self) -> None:
        assert self._process.stderr is not None
        told = ""
        for line in self._process.stderr:
            told += line
            if (match := READY.search(line)) is not None:
                self.port, self.admin_port = int(match[1]), int(match[2])
                return
        raise AssertionError(f"exit code {self._process.wait(END_S)}: {told}")

    def execute(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """One more process in the container, as `docker exec` and a health check start it."""
        return subprocess.run(
            [
                "nsenter",
                f"--target={self.pid}",
                "--mount",
                "--pid",
                "--root",
                "--wd",
                *self._without_privilege(),
                *words,
            ],
            env={**self._image.environment, **self.admin_variable()},
            capture_output=True,
            text=True,
            timeout=END_S,
        )

    def admin_variable(self) -> Mapping[str, str]:
        return {"SPILLWAY_ADMIN": f"127.0.0.1:{self.admin_port}"}

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self) -> tuple[int, str]:
        """Waits for its end: the exit code, and what it said on standard error."""
        _, errors = self._process.communicate(timeout=END_S)
        return self._process.returncode, errors

    def stop(self) -> int:
        self.send(signal.Signals[self._image.stop_signal])
        return self.ended()[0]

    def kill(self) -> None:
        """Whatever runs; nothing when it has ended."""
        if self._process.poll() is None:
            # The kernel ends the others of its namespace with it.
            self.send(signal.SIGKILL)
            self._process.communicate(timeout=END_S)

    def __enter__(self) -> Container:
        assert wait_for(lambda: self._process.poll() is not None or bool(children(self._process.pid)))
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _without_privilege(self) -> list[str]:
        """What Kubernetes calls restricted: no capability, none to be gained, another user."""
        user, _, group = self._image.user.partition(":")
        return [
            *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all", "--"),
        ]
