"""A chart of what was in flight, tier upon tier: two dots per character cell, from half blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from rich.text import Text

from gateway.top.marks import colour_of

SHED_COLOUR = "red"
SHED_ROOM = 4  # slots' worth of height kept above the limits, for what was refused
AXIS_CELLS = 5


class Column(NamedTuple):
    """One moment: in flight per tier, and how many were shed since the column before."""

    in_flight: tuple[int, ...]
    shed: int


def chart(columns: Sequence[Column], limits: Sequence[int], *, rows: int, width: int) -> Text:
    """The latest columns, newest on the right; the axis is marked where each tier is full."""
    dots = 2 * rows
    step = max((sum(limits) + SHED_ROOM) / dots, 1e-9)
    marks = {min(int(bound / step), dots - 1) // 2: bound for bound in accumulate(limits)}
    shown = columns[-max(width - AXIS_CELLS, 1) :]
    text = Text(no_wrap=True, overflow="crop")
    for row in range(rows - 1, -1, -1):
        text.append(f"{marks[row]:3d} ┤" if row in marks else "    │", style="dim")
        for column in shown:
            lower, upper = (_dot(column, (dot + 0.5) * step, limits) for dot in (2 * row, 2 * row + 1))
            text.append(*_cell(lower, upper))
        if row:
            text.append("\n")
    return text


def _dot(column: Column, height: float, limits: Sequence[int]) -> str | None:
    """The colour at `height`: what is refused stands on top of everything in flight."""
    below = 0.0
    for index, in_flight in enumerate(column.in_flight):
        below += in_flight
        if height < below:
            return colour_of(index)
    return SHED_COLOUR if height < below + min(column.shed, SHED_ROOM) else None


def _cell(lower: str | None, upper: str | None) -> tuple[str, str]:
    if lower == upper:
        return (" ", "") if lower is None else ("█", lower)
    if upper is None:
        return "▄", lower or ""
    return ("▀", upper) if lower is None else ("▀", f"{upper} on {lower}")
