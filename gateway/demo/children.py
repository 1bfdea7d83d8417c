"""The demo's processes: started, awaited until they say that they are ready, and ended whatever happens."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 3.0
POLL_S = 0.02
LAST_LINES = 12


class ChildFailed(Exception):
    """A process of the demo ended, or never became ready; the message shows its last lines."""


class Child:
    """One process; what it writes goes to a file, so that a full pipe can't stop it."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path) -> None:
        self.name = name
        self._log = directory / f"{name.replace(' ', '-')}.log"
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the demo alone, which ends its children in order.
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def ready(self, announcement: str) -> re.Match[str]:
        """Waits for a line that matches `announcement`. Raises ChildFailed."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + READY_TIMEOUT_S
        while (found := re.search(announcement, self._text())) is None:
            self.check()
            if loop.time() > deadline_s:
                raise self._failed(f"was not ready within {READY_TIMEOUT_S:g} s")
            await asyncio.sleep(POLL_S)
        return found

    def check(self) -> None:
        """Raises ChildFailed when the process has ended."""
        if (code := self._process.poll()) is not None:
            raise self._failed(f"ended with signal {-code}" if code < 0 else f"ended with exit code {code}")

    def _failed(self, what: str) -> ChildFailed:
        lines = self._text().splitlines()[-LAST_LINES:] or ["(nothing)"]
        return ChildFailed("\n  ".join([f"the {self.name} {what}. Its last lines:", *lines]))

    def _text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    async def ended(self, deadline_s: float) -> None:
        """Waits for the end; kills what has not ended by `deadline_s` (the loop's clock)."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._process.wait, max(deadline_s - loop.time(), 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def end(children: Iterable[Child]) -> None:
    """Ends all, at once."""
    running = list(children)
    for child in running:
        child.terminate()
    deadline_s = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
    for child in running:
        await child.ended(deadline_s)
