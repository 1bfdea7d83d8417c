"""What happened between two samples, in events per second."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from gateway.top.samples import Counts, Sample

Key = TypeVar("Key", bound=Hashable)


class Rates(NamedTuple):
    """The fields are those of Counts, per second; `ttfts` are counts of the time between, cumulative."""

    finished: Mapping[str, float]
    failed: Mapping[str, float]
    served: Mapping[str, float]
    spills: Mapping[tuple[str, str, str], float]
    sheds: Mapping[str, float]
    ttfts: Mapping[tuple[str, float], float]

    def ttft_s(self, cluster: str, share: float) -> float | None:
        """A quantile of the times to the first byte; None when nothing was answered."""
        bounds = {bound: count for (name, bound), count in self.ttfts.items() if name == cluster}
        return quantile(bounds, share)


NO_RATES = Rates({}, {}, {}, {}, {}, {})


def rates_of(before: Counts, now: Counts, elapsed_s: float) -> Rates:
    """`elapsed_s` must be above 0."""

    def per_s(old: Counter[Key], new: Counter[Key]) -> dict[Key, float]:
        return {key: count / elapsed_s for key, count in _grown(old, new).items() if count}

    return Rates(
        finished=per_s(before.finished, now.finished),
        failed=per_s(before.failed, now.failed),
        served=per_s(before.served, now.served),
        spills=per_s(before.spills, now.spills),
        sheds=per_s(before.sheds, now.sheds),
        ttfts=_grown(before.ttfts, now.ttfts),
    )


def _grown(before: Counter[Key], now: Counter[Key]) -> dict[Key, float]:
    """A count that went backwards began anew: its gateway was started again."""
    return {key: count - before[key] if count >= before[key] else count for key, count in now.items()}


def added(parts: Sequence[Rates]) -> Rates:
    """The rates of several gateways together."""
    return Rates(
        finished=_sum(part.finished for part in parts),
        failed=_sum(part.failed for part in parts),
        served=_sum(part.served for part in parts),
        spills=_sum(part.spills for part in parts),
        sheds=_sum(part.sheds for part in parts),
        ttfts=_sum(part.ttfts for part in parts),
    )


def _sum(parts: Iterable[Mapping[Key, float]]) -> dict[Key, float]:
    total: dict[Key, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + value
    return total


def quantile(cumulative: Mapping[float, float], share: float) -> float | None:
    """Linear inside a bucket, as Prometheus does it; the last finite bound for what lies beyond it."""
    bounds = sorted(cumulative)
    if not bounds or not cumulative[bounds[-1]]:
        return None
    rank = share * cumulative[bounds[-1]]
    lower_s, below = 0.0, 0.0
    for bound_s in bounds:
        count = cumulative[bound_s]
        if count >= rank and count > below:
            if math.isinf(bound_s):
                return lower_s
            return lower_s + (bound_s - lower_s) * (rank - below) / (count - below)
        lower_s, below = bound_s, count
    return lower_s


class History:
    """The samples of one gateway as far back as rates are told over; times are the samples' own."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        samples = self._samples
        samples.append(sample)
        # One sample at the far end or beyond it stays, so that the window is full.
        while len(samples) > 2 and sample.at_s - samples[1].at_s >= self._window_s:
            samples.popleft()

    @property
    def latest(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    @property
    def rates(self) -> Rates:
        """Over the window, none after the first sample."""
        samples = self._samples
        elapsed_s = samples[-1].at_s - samples[0].at_s if samples else 0.0
        return rates_of(samples[0].counts, samples[-1].counts, elapsed_s) if elapsed_s > 0 else NO_RATES

    def forget(self) -> None:
        """What comes next is not compared with what was: it was away in between."""
        self._samples.clear()
