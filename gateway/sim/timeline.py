"""Virtual time: what is to happen, in order. Two things at the same instant happen in the order of asking."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any


class Timeline:
    """Runs until nothing is left to happen. `now_s` never goes back.

    Nothing is ever cancelled: who is called looks whether it still matters.
    """

    __slots__ = ("_heap", "_now", "_order", "now_s")

    def __init__(self, begin_s: float = 0.0) -> None:
        self.now_s = begin_s
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        # What was asked for `now_s` when that had come: after all that was asked for it before.
        self._now: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._order = count()

    def at(self, time_s: float, action: Callable[..., object], *details: Any) -> None:
        """Calls `action(*details)` at `time_s`; a time that has passed means now."""
        if time_s > self.now_s:
            heappush(self._heap, (time_s, next(self._order), action, details))
        else:
            self._now.append((action, details))

    def soon(self, action: Callable[..., object], *details: Any) -> None:
        """Calls `action(*details)` now, after all that was asked for now before."""
        self._now.append((action, details))

    def run(self) -> None:
        heap, now = self._heap, self._now
        while True:
            while now:
                action, details = now.popleft()
                action(*details)
            if not heap:
                return
            self.now_s = now_s = heap[0][0]
            while heap and heap[0][0] == now_s:
                _, _, action, details = heappop(heap)
                action(*details)

    def forget(self, is_needless: Callable[[Callable[..., object]], bool]) -> None:
        """What was to happen does not, where `is_needless(action)`."""
        self._heap[:] = [entry for entry in self._heap if not is_needless(entry[2])]
        heapify(self._heap)
        kept = [entry for entry in self._now if not is_needless(entry[0])]
        self._now.clear()
        self._now.extend(kept)

    def __repr__(self) -> str:
        return f"<Timeline at {self.now_s:.3f} s, {len(self._heap) + len(self._now)} to come>"
