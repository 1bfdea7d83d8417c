"""Latency as routing sees it: a peak-sensitive moving average that forgets with time."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import NamedTuple

# Finagle's default: long enough to remember a slow spell, short enough to forgive one in seconds.
DECAY_S = 10.0
# Before the first sample every backend looks alike: then (in_flight + 1) alone decides.
INITIAL_S = 0.001
# What a failed attempt counts as, at least and at most: a second, doubling to a minute.
MIN_PENALTY_S, MAX_PENALTY_S = 1.0, 60.0


class LatencySummary(NamedTuple):
    """What a gateway saw of a backend: its peak EWMA, the samples it rests on, and how old it is."""

    latency_s: float
    samples: int
    age_s: float = 0.0


def merged(summaries: Sequence[LatencySummary]) -> LatencySummary:
    """Several gateways' summaries of one backend as one: the mean by samples, as old as the freshest."""
    samples = sum(summary.samples for summary in summaries)
    latency_s = sum(summary.latency_s * summary.samples for summary in summaries) / max(samples, 1)
    return LatencySummary(latency_s, samples, min(summary.age_s for summary in summaries))


class PeakEwma:
    """Peak EWMA in seconds: a worse sample counts at once and in full, a better one gradually.

    After the formula of Finagle's PeakEwma load metric: w = exp(-elapsed / decay),
    new = old * w + sample * (1 - w), except that a sample above the average replaces it.
    """

    __slots__ = ("_at_s", "_samples", "_value_s", "answered_s")

    def __init__(self) -> None:
        self._value_s = 0.0
        self._at_s = float("-inf")
        self._samples = 0
        self.answered_s: float | None = None  # the last good answer's, whatever failed since

    def observe(self, latency_s: float, now_s: float) -> None:
        """A good answer's first byte."""
        self.answered_s = latency_s
        self._samples += 1
        self._move(latency_s, now_s)

    def _note(self, latency_s: float, now_s: float) -> None:
        self._samples += 1
        self._move(latency_s, now_s)

    def hear(self, summary: LatencySummary, now_s: float) -> None:
        """What other gateways saw counts where it is newer than what was seen here."""
        seen_s = now_s - summary.age_s
        if seen_s > self._at_s and summary.samples > 0:
            self._move(summary.latency_s, seen_s)

    def take_summary(self, now_s: float) -> LatencySummary | None:
        """For the other gateways: what was seen here since this was asked last; None for nothing."""
        samples, self._samples = self._samples, 0
        return LatencySummary(self.value_s(now_s), samples) if samples else None

    def _move(self, latency_s: float, now_s: float) -> None:
        # Of every answer: a call of max() would cost as much as all the rest.
        value_s, elapsed_s = self._value_s, now_s - self._at_s
        if latency_s >= value_s:
            self._value_s = latency_s
        else:
            keep = exp(-elapsed_s / DECAY_S) if elapsed_s > 0.0 else 1.0
            self._value_s = value_s * keep + latency_s * (1.0 - keep)
        if elapsed_s > 0.0:
            self._at_s = now_s

    def waited(self, elapsed_s: float, now_s: float) -> None:
        """Given up without an answer after `elapsed_s`: a lower bound, which can only raise the average."""
        if elapsed_s > self.value_s(now_s):
            self._note(elapsed_s, now_s)

    def failed(self, elapsed_s: float, now_s: float) -> None:
        """A failure, however fast, is as bad as a slow answer, and a second one twice as bad."""
        penalty_s = max(2.0 * self.value_s(now_s), elapsed_s, MIN_PENALTY_S)
        self._note(min(penalty_s, max(MAX_PENALTY_S, elapsed_s)), now_s)

    def forgive(self, typical_s: float) -> None:
        """The backend has begun anew: its past counts for no more than what is typical of it."""
        self._value_s = min(self._value_s, typical_s)

    def value_s(self, now_s: float) -> float:
        """The average now. An idle backend's bad memory fades, so that it is tried again."""
        if self._value_s == 0.0:
            return INITIAL_S
        return max(self._value_s * self._decay(now_s), INITIAL_S)

    def _decay(self, now_s: float) -> float:
        return exp(-max(now_s - self._at_s, 0.0) / DECAY_S)

    def __repr__(self) -> str:
        return f"<PeakEwma {self._value_s * 1000:.1f} ms>"


# A plain moving average of gaps: an eighth of each new one, as TCP's smoothed round trip time has it.
_KEEP, _TAKE = 7 / 8, 1 / 8


class SlotGap:
    """How many seconds a busy backend takes to free a slot: what a refused client is told to wait."""

    __slots__ = ("_since_s", "gap_s")

    def __init__(self) -> None:
        self._since_s: float | None = None
        self.gap_s: float | None = None

    def work_began(self, now_s: float) -> None:
        """The backend was idle until now: how long nobody asked says nothing about its pace."""
        self._since_s = now_s

    def slot_freed(self, now_s: float) -> None:
        if self._since_s is not None:
            gap_s = now_s - self._since_s
            self.gap_s = gap_s if self.gap_s is None else self.gap_s * _KEEP + gap_s * _TAKE
        self._since_s = now_s

    def per_s(self, now_s: float) -> float:
        """Slots freed a second; 0 before the first. A gap that lasts longer than usual counts already."""
        if self.gap_s is None or self._since_s is None:
            return 0.0
        gap_s, lasts_s = self.gap_s, now_s - self._since_s
        if lasts_s > gap_s:
            gap_s = gap_s * _KEEP + lasts_s * _TAKE
        return 1.0 / max(gap_s, 1e-6)
