"""What the system knows of processes, and waiting for it to change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

WITHIN_S = 15.0
POLL_S = 0.02


def is_alive(pid: int) -> bool:
    """Does it run? A process that has ended and that nobody has asked for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def is_reaped(pid: int) -> bool:
    """Is nothing left of it, also no thread that still holds its sockets? Its parent has to have asked."""
    return not Path(f"/proc/{pid}").exists()


def children(pid: int) -> dict[int, str]:
    """The command lines of the processes that `pid` has started, by their id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found[child] = b" ".join(words).decode(errors="replace")
    return found


def wait_for(condition: Callable[[], bool], within_s: float = WITHIN_S) -> bool:
    """True as soon as it holds; False when it did not in time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = WITHIN_S) -> bool:
    """The same for what must be awaited."""
    deadline_s = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > deadline_s:
            return False
        await asyncio.sleep(POLL_S)
    return True
