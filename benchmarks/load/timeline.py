"""The tier table over time: what clients asked and got, and what the gateways said of themselves."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.load.books import Asked
from benchmarks.load.watching import Look


class Second(NamedTuple):
    """`in_flight` is the mean of the looks; `placed` counts those that got an answer's head, by tier.

    Requests count in the second in which they were due, however late their answers came.
    """

    at_s: float
    offered_rps: float
    in_flight: dict[str, float]
    placed: dict[str, int]
    spills: dict[str, int]
    refused: int
    left: int
    failed: int
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None


class Timeline:
    """Lines of `step_s` seconds each, counted from `start_s` (Unix seconds)."""

    def __init__(self, start_s: float, step_s: float, tiers: Sequence[str]) -> None:
        self._start_s = start_s
        self._step_s = step_s
        self._tiers = tiers

    def lines(self, asked: Sequence[Asked], looks: Sequence[Look], until_s: float) -> list[Second]:
        """All that end before `until_s`, seconds since the start."""
        count = int(until_s / self._step_s + 1e-9)
        by_line: list[list[Asked]] = [[] for _ in range(count)]
        looks_by_line: list[list[Look]] = [[] for _ in range(count)]
        for one in asked:
            self._put(by_line, one.due_s, one)
        for look in looks:
            self._put(looks_by_line, look.at_s, look)
        pairs = zip(by_line, looks_by_line, strict=True)
        return [self._line(number, *pair) for number, pair in enumerate(pairs)]

    def _put(self, lines: list[list[Any]], at_s: float, one: object) -> None:
        place = int((at_s - self._start_s) // self._step_s)
        if 0 <= place < len(lines):
            lines[place].append(one)

    def _line(self, number: int, asked: Sequence[Asked], looks: Sequence[Look]) -> Second:
        ttfts_ms = sorted(one.ttft_s * 1000 for one in asked if one.ttft_s is not None)
        outcomes = Counter(one.outcome for one in asked)
        placed = Counter(one.tier for one in asked if one.tier)
        return Second(
            at_s=number * self._step_s,
            offered_rps=len(asked) / self._step_s,
            in_flight={
                tier: round(statistics.fmean(look.in_flight.get(tier, 0) for look in looks), 1)
                if looks
                else 0.0
                for tier in self._tiers
            },
            placed={tier: placed[tier] for tier in self._tiers},
            spills=dict(Counter(one.spill_reason for one in asked if one.spill_reason)),
            refused=outcomes["refused"],
            left=outcomes["left"],
            failed=outcomes["failed"],
            ttft_p50_ms=_percentile(ttfts_ms, 0.5),
            ttft_p95_ms=_percentile(ttfts_ms, 0.95),
        )


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 1) if ordered else None


def heads(tiers: Sequence[str]) -> list[str]:
    in_flight = (f"{tier} in flight" for tier in tiers)
    ends = ["429", "left", "failed", "TTFT p50 ms", "p95 ms"]
    return ["s", "offered/s", *in_flight, "share of new %", "spills", *ends]


def cells(second: Second, limits: dict[str, int]) -> list[str]:
    total = sum(second.placed.values())
    shares = " / ".join(f"{100 * count / total:.0f}" for count in second.placed.values()) if total else "-"
    spills = ", ".join(f"{reason} {count}" for reason, count in second.spills.items()) or "0"
    ttfts = ("-" if ms is None else f"{ms:.0f}" for ms in (second.ttft_p50_ms, second.ttft_p95_ms))
    return [
        f"{second.at_s:g}",
        f"{second.offered_rps:.0f}",
        *(f"{second.in_flight[tier]:.1f} of {limit}" for tier, limit in limits.items()),
        shares,
        spills,
        str(second.refused),
        str(second.left),
        str(second.failed),
        *ttfts,
    ]
