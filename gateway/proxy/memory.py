"""Whether this process has taken more memory than it may (`max_memory`): then nobody new is taken on.

What counts is resident memory, the number by which a container is killed. The allocator keeps what is freed
for the next time, so that the number alone would stay high after a flood: above the cap it has to give it
back to the system. That takes 8 ms for each 100 MiB (CPython 3.11, glibc 2.36).
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# Taken on again below this share of the cap; else each request that ends would let in the next one.
ENOUGH_ROOM = 0.9
# Between two times that the allocator has to give back what is free.
TRIM_S = 1.0
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Of this process. Raises OSError where there is no /proc, which is everywhere but on Linux."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGESIZE")


def give_back_free_memory() -> None:
    """To the system, where the C library knows how to; elsewhere it may stay high for a while."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class MemoryGuard:
    """Looked at in each sweep. `is_over`: new connections and requests get 503."""

    __slots__ = ("_give_back", "_resident_bytes", "_trimmed_s", "is_over")

    def __init__(
        self,
        read: Callable[[], int] = resident_bytes,
        give_back: Callable[[], None] = give_back_free_memory,
    ) -> None:
        self._resident_bytes = read
        self._give_back = give_back
        self._trimmed_s = -TRIM_S
        self.is_over = False

    def look(self, max_bytes: int | None, now_s: float) -> None:
        """None: there is no cap."""
        if max_bytes is None:
            self.is_over = False
            return
        resident = self._resident_bytes()
        most = max_bytes * ENOUGH_ROOM if self.is_over else max_bytes
        if resident > most and now_s - self._trimmed_s >= TRIM_S:
            self._trimmed_s = now_s
            self._give_back()
            resident = self._resident_bytes()
        was_over, self.is_over = self.is_over, resident > most
        if self.is_over is not was_over:
            word = "above" if self.is_over else "below"
            log.warning("%d MiB of memory: %s max_memory, %d MiB", resident >> 20, word, max_bytes >> 20)

    def __repr__(self) -> str:
        return f"<MemoryGuard {'over' if self.is_over else 'below'} the cap>"
