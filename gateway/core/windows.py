"""Counting over the last seconds, in exact time buckets: what has left the window is forgotten whole."""

from __future__ import annotations

from typing import NamedTuple

BUCKETS = 10


class Counts(NamedTuple):
    total: int
    marked: int


class Tally:
    """How many things happened in the last `window_s`, and how many of them were marked.

    Ten buckets, aligned to multiples of `window_s` / 10: the window covers between nine and ten of them. A
    decaying average instead would let one bad minute weigh on the next, by an amount nobody can recompute.
    """

    __slots__ = ("_bucket_s", "_buckets", "_latest", "_marked", "_total", "_turns_at_s")

    def __init__(self, window_s: float) -> None:
        self._bucket_s = window_s / BUCKETS
        self._buckets: dict[int, Counts] = {}  # the finished ones, by number
        self._latest = 0
        self._turns_at_s = float("-inf")
        self._total = self._marked = 0  # of the bucket that is being filled

    def add(self, now_s: float) -> None:
        """One more. A time before the current bucket counts in it: nothing is ever added to the past."""
        if now_s >= self._turns_at_s:
            self._turn(now_s)
        self._total += 1

    def mark(self, now_s: float) -> None:
        """One of those added is marked."""
        if now_s >= self._turns_at_s:
            self._turn(now_s)
        self._marked += 1

    def counts(self, now_s: float) -> Counts:
        if now_s >= self._turns_at_s:
            self._turn(now_s)
        finished = self._buckets.values()
        return Counts(
            self._total + sum(bucket.total for bucket in finished),
            self._marked + sum(bucket.marked for bucket in finished),
        )

    def resize(self, window_s: float) -> None:
        """Another window begins empty; the same one keeps what it has."""
        if window_s / BUCKETS != self._bucket_s:
            self._bucket_s = window_s / BUCKETS
            self._turns_at_s = float("-inf")
            self.clear()

    def clear(self) -> None:
        self._buckets.clear()
        self._total = self._marked = 0

    def _turn(self, now_s: float) -> None:
        if self._total or self._marked:
            self._buckets[self._latest] = Counts(self._total, self._marked)
            self._total = self._marked = 0
        self._latest = int(now_s // self._bucket_s)
        if (self._latest + 1) * self._bucket_s <= now_s:
            self._latest += 1  # 1.0 // 0.1 is 9
        self._turns_at_s = (self._latest + 1) * self._bucket_s
        oldest = self._latest - BUCKETS + 1
        for number in [number for number in self._buckets if number < oldest]:
            del self._buckets[number]

    def __repr__(self) -> str:
        finished = self._buckets.values()
        marked = self._marked + sum(bucket.marked for bucket in finished)
        return f"<Tally {marked}/{self._total + sum(bucket.total for bucket in finished)}>"
