"""How many slots of each tier are in use over time: mean and peak of each time bucket."""

from __future__ import annotations

from collections.abc import Sequence

# More buckets than this are put together, COARSER of them into one.
MAX_BUCKETS, COARSER = 2400, 10


class Level:
    """One number that changes now and then, remembered by bucket of `bucket_s`."""

    __slots__ = ("_since_s", "area", "bucket_s", "now", "peaks")

    def __init__(self, bucket_s: float) -> None:
        self.bucket_s = bucket_s
        self._since_s = 0.0
        self.now = 0
        self.area: list[float] = []  # level x seconds
        self.peaks: list[int] = []

    def change(self, by: int, now_s: float) -> None:
        self.advance(now_s)
        self.now += by
        if self.peaks and self.now > self.peaks[-1]:
            self.peaks[-1] = self.now

    def advance(self, now_s: float) -> None:
        """Counts the time until `now_s` at the present level."""
        bucket_s, since_s = self.bucket_s, self._since_s
        while True:
            at = len(self.peaks) - 1
            if at < 0 or since_s >= (at + 1) * bucket_s:
                if at + 1 >= MAX_BUCKETS:
                    self.coarsen()
                    bucket_s = self.bucket_s
                    continue
                self.area.append(0.0)
                self.peaks.append(self.now)
                continue
            end_s = min(now_s, (at + 1) * bucket_s)
            self.area[at] += self.now * (end_s - since_s)
            since_s = end_s
            if now_s < (at + 1) * bucket_s:
                break
        self._since_s = since_s

    def coarsen(self) -> None:
        """Buckets of COARSER times the width, in place of so many."""
        starts = range(0, len(self.area), COARSER)
        self.area = [sum(self.area[at : at + COARSER]) for at in starts]
        self.peaks = [max(self.peaks[at : at + COARSER]) for at in starts]
        self.bucket_s *= COARSER


class Occupancy:
    """A Level for each tier; once closed all have buckets of `bucket_s`."""

    def __init__(self, tiers: Sequence[str], bucket_s: float = 1.0) -> None:
        self.bucket_s = bucket_s
        self.levels = {tier: Level(bucket_s) for tier in tiers}

    def change(self, tier: str, by: int, now_s: float) -> None:
        self.levels[tier].change(by, now_s)

    def close(self, now_s: float) -> None:
        for level in self.levels.values():
            level.advance(now_s)
        self.bucket_s = max([level.bucket_s for level in self.levels.values()], default=self.bucket_s)
