"""How long first bytes take, as a histogram with logarithmic buckets: small and mergeable."""

from __future__ import annotations

from collections import deque
from math import log2

# From 1 ms, four buckets an octave (a quantile is at most 19 % too high), to nearly half an hour.
LOWEST_S, PER_OCTAVE, BUCKETS = 0.001, 4, 84
SLOT_S, SLOTS = 10.0, 6
# Fewer samples than this say nothing about a p95 or p99.
MIN_SAMPLES = 20
EXACT, STRIDE = 512, 16


def bucket_of(seconds: float) -> int:
    if seconds <= LOWEST_S:
        return 0
    return min(int(log2(seconds / LOWEST_S) * PER_OCTAVE) + 1, BUCKETS - 1)


def upper_bound_s(bucket: int) -> float:
    return float(LOWEST_S * 2 ** (bucket / PER_OCTAVE))


class LatencyDigest:
    """First-byte times of the last minute (six slots of ten seconds).

    Digests of several gateways merge by adding their `counts`. From the 512th sample of a slot on, every
    sixteenth is taken and counts for sixteen: a quantile needs no more, and a busy backend would pay.
    """

    __slots__ = (
        "_countdown",
        "_last_quantiles",
        "_quantiles",
        "_slot_ends_s",
        "_slots",
        "_stale_at_s",
        "_stride",
        "_strides_at",
    )

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque(maxlen=SLOTS)
        self._slot_ends_s = float("-inf")
        self._countdown = self._stride = 1
        self._strides_at = 0
        self._quantiles: dict[float, float | None] = {}
        self._last_quantiles: dict[float, float] = {}
        self._stale_at_s = float("-inf")

    def add(self, seconds: float, now_s: float) -> None:
        self._countdown -= 1
        if not self._countdown:
            self._take(seconds, now_s)

    def _take(self, seconds: float, now_s: float) -> None:
        if now_s >= self._slot_ends_s:
            self._turn(now_s)
        self._slots[-1][bucket_of(seconds)] += self._stride
        self._strides_at -= 1
        if self._strides_at == 0:
            self._stride = STRIDE
        self._countdown = self._stride

    def counts(self, now_s: float) -> list[int]:
        if now_s >= self._slot_ends_s:
            self._turn(now_s)
        return [sum(column) for column in zip(*self._slots, strict=True)]

    def quantile_s(self, share: float, now_s: float) -> float | None:
        """The upper edge of the bucket that the quantile falls into; None below MIN_SAMPLES samples.

        Remembered for half a second: a quantile of a minute does not change faster.
        """
        if now_s >= self._stale_at_s:
            self._quantiles.clear()
            self._stale_at_s = now_s + 0.5
        if share not in self._quantiles:
            self._quantiles[share] = self._work_out(share, now_s)
        return self._quantiles[share]

    def last_quantile_s(self, share: float, now_s: float) -> float | None:
        """As `quantile_s`; of who has not answered enough lately, the one when this was last known."""
        quantile_s = self.quantile_s(share, now_s)
        if quantile_s is None:
            return self._last_quantiles.get(share)
        self._last_quantiles[share] = quantile_s
        return quantile_s

    def _work_out(self, share: float, now_s: float) -> float | None:
        counts = self.counts(now_s)
        total = sum(counts)
        if total < MIN_SAMPLES:
            return None
        rank = share * total
        for bucket, count in enumerate(counts):
            rank -= count
            if rank <= 0:
                return upper_bound_s(bucket)
        return upper_bound_s(BUCKETS - 1)

    def _turn(self, now_s: float) -> None:
        """A new slot; after a pause, as many empty ones as have passed."""
        number = int(now_s // SLOT_S)
        passed = SLOTS if not self._slots else number + 1 - round(self._slot_ends_s / SLOT_S)
        for _ in range(min(passed, SLOTS)):
            self._slots.append([0] * BUCKETS)
        self._slot_ends_s = (number + 1) * SLOT_S
        self._countdown = self._stride = 1
        self._strides_at = EXACT

    def __repr__(self) -> str:
        return f"<LatencyDigest {sum(map(sum, self._slots))} samples>"
