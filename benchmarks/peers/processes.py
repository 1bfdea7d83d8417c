"""Start, pin, watch and stop the processes of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PROXY_CORE = 0
LOAD_CORE = 1
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """A peer that could not be started or measured; the text is the reason that the report gives."""


@dataclass(frozen=True)
class Process:
    """One process that we started, pinned to one core together with all its children."""

    name: str
    popen: subprocess.Popen[str]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def last_words(self) -> str:
        """The last line of its log, without folders: reasons end up in published files."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        words = lines[-1].split() if lines else ["no output"]
        return " ".join(Path(word).name if word.startswith("/") else word for word in words)[:200]

    def stop(self) -> None:
        """Ends the whole process group of this process (it leads its own session), and waits for it."""
        for sign, patience_s in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            try:
                os.killpg(self.pid, sign)
            except ProcessLookupError:
                break
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline and (self.is_alive() or group_lives(self.pid)):
                time.sleep(0.02)
            if not group_lives(self.pid):
                break
        self.popen.wait()
        if self.popen.stdout:
            self.popen.stdout.close()


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def start(
    name: str,
    argv: Sequence[str],
    *,
    core: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    piped: bool = False,
) -> Process:
    """Starts argv on one core; its output goes to the log, or (stdout only) to a pipe for us to read.

    The environment is bare: no proxy setting or credential of ours may change what a peer does, and a peer
    that would fetch a price list or a tokenizer over TLS meets a closed port of this machine instead.
    """
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}
    bare = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "LANG": "C.UTF-8", **closed}
    with log.open("w") as output:
        stdout: int | IO[str] = subprocess.PIPE if piped else output
        popen = subprocess.Popen(
            ["taskset", "-c", str(core), *argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=output,
            text=True,
            start_new_session=True,
            cwd=log.parent,
            env={**bare, **(env or {})},
        )
    return Process(name, popen, log)


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        found.append(current)
        try:
            tasks = list(Path(f"/proc/{current}/task").iterdir())
            for task in tasks:
                todo += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of the process tree so far, user and system, with children that have already ended."""
    total = 0
    for member in tree(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
        total += sum(int(ticks) for ticks in fields[11:15])  # utime, stime, cutime, cstime
    return total / TICKS_PER_S


def rss_mb(pid: int) -> float:
    """Resident memory of the process tree in MB (10^6 bytes); pages shared by two members count twice."""
    pages = 0
    for member in tree(pid):
        try:
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * PAGE_BYTES / 1e6


def machine_busy_s() -> float:
    """CPU seconds that all processes of the machine used, and those that its host took away (steal)."""
    fields = Path("/proc/stat").read_text().split()[1:9]
    user, nice, system, steal = (int(fields[place]) for place in (0, 1, 2, 7))
    return (user + nice + system + steal) / TICKS_PER_S
