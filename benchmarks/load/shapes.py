"""Load shapes: how many requests come per second at each moment, and the arrivals drawn from that.

Arrivals are an open loop: a slow or refused answer delays nobody, so a gateway can't slow its own load down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol

from benchmarks.load.traces import Row


class Arrival(NamedTuple):
    """One request: seconds after the start, and its sizes where a trace gives them."""

    at_s: float
    row: Row | None = None


class Shape(Protocol):
    """Every shape has an end, and gives the same arrivals for the same seed."""

    @property
    def duration_s(self) -> float: ...

    def arrivals(self, seed: int) -> Iterator[Arrival]: ...


@dataclass(frozen=True)
class Spike:
    """The base rate, `factor` times as much for `spike_s`, and the base again, each from one moment on."""

    base_rps: float = 10.0
    factor: float = 12.0
    before_s: float = 10.0
    spike_s: float = 20.0
    after_s: float = 15.0

    @property
    def starts_s(self) -> float:
        return self.before_s

    @property
    def ends_s(self) -> float:
        return self.before_s + self.spike_s

    @property
    def duration_s(self) -> float:
        return self.ends_s + self.after_s

    def rate_at(self, at_s: float) -> float:
        return self.base_rps * (self.factor if self.starts_s <= at_s < self.ends_s else 1.0)

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        # The phases are drawn one by one: what comes before the spike does not depend on how high it is.
        phases = [
            (0.0, self.starts_s, self.base_rps),
            (self.starts_s, self.ends_s, self.base_rps * self.factor),
            (self.ends_s, self.duration_s, self.base_rps),
        ]
        for number, (from_s, to_s, rps) in enumerate(phases):
            yield from _poisson(Random(f"spike {seed} {number}"), from_s, to_s, rps)


@dataclass(frozen=True)
class Diurnal:
    """A day of `period_s`: the base rate at its ends, `factor` times as much at noon, a cosine between."""

    base_rps: float = 10.0
    factor: float = 4.0
    period_s: float = 300.0

    @property
    def duration_s(self) -> float:
        return self.period_s

    def rate_at(self, at_s: float) -> float:
        height = (1 - math.cos(2 * math.pi * at_s / self.period_s)) / 2
        return self.base_rps * (1 + (self.factor - 1) * height)

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """By thinning: drawn at the highest rate, kept with the share that the rate has of it."""
        random = Random(f"diurnal {seed}")
        highest_rps = self.base_rps * max(self.factor, 1.0)
        for arrival in _poisson(random, 0.0, self.period_s, highest_rps):
            if random.random() * highest_rps < self.rate_at(arrival.at_s):
                yield arrival


@dataclass(frozen=True)
class Replay:
    """A trace, `speed_up` times as fast: each row one request at its time. Token counts stay as they are."""

    rows: Sequence[Row]
    speed_up: float = 1.0

    @property
    def duration_s(self) -> float:
        return self.rows[-1].t_seconds / self.speed_up

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        return (Arrival(row.t_seconds / self.speed_up, row) for row in self.rows)


def _poisson(random: Random, from_s: float, to_s: float, rps: float) -> Iterator[Arrival]:
    if rps <= 0:
        return
    at_s = from_s + random.expovariate(rps)
    while at_s < to_s:
        yield Arrival(at_s)
        at_s += random.expovariate(rps)
