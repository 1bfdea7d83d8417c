"""Virtual time: what is to happen, in order. Two things at the same instant happen in the order of asking."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any


class Timeline:
    """Runs until nothing is left to happen. `now_s` never goes back.

    Nothing is ever cancelled: who is called looks whether it still matters.
    """

    __slots__ = ("_heap", "_order", "now_s")

    def __init__(self, begin_s: float = 0.0) -> None:
        self.now_s = begin_s
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, time_s: float, action: Callable[..., None], *details: Any) -> None:
        """Calls `action(*details)` at `time_s`; a time that has passed means now."""
        heappush(self._heap, (max(time_s, self.now_s), next(self._order), action, details))

    def run(self) -> None:
        heap = self._heap
        while heap:
            self.now_s, _, action, details = heappop(heap)
            action(*details)

    def __repr__(self) -> str:
        return f"<Timeline at {self.now_s:.3f} s, {len(self._heap)} to come>"
