"""What the demo shows: a live table and chart on a terminal, one line a second anywhere else."""

from __future__ import annotations

import sys
from collections import deque
from typing import NamedTuple, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gateway.demo.chart import SHED_COLOUR, Column, chart
from gateway.demo.watch import Picture, TierNow
from gateway.top.marks import colour_of, milliseconds, slots_bar

BAR_CELLS = 20
# What stands around the chart: greeting, table, words, and the shell's prompt at the end.
ROWS_AROUND_CHART = 21
MIN_CHART_ROWS, MAX_CHART_ROWS = 5, 14
COLUMN_S = 0.5


class Frame(NamedTuple):
    """What is shown at one moment; `clients` is None when the demo sends no load of its own."""

    at_s: float
    picture: Picture
    ttfts_s: dict[str, float | None]
    clients: int | None


class Screen(Protocol):
    def show(self, frame: Frame) -> None: ...
    def close(self) -> None: ...


def open_screen() -> Screen:
    """The live one on a terminal that can draw it, else plain lines."""
    console = Console()
    draws = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    return LiveScreen(console) if draws else PlainScreen()


class PlainScreen:
    """One line a second, for pipes and logs."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def show(self, frame: Frame) -> None:
        if frame.at_s >= self._next_s:
            self._next_s = max(self._next_s + 1.0, frame.at_s)
            sys.stdout.write(plain_line(frame) + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        pass


def plain_line(frame: Frame) -> str:
    cells = [f"{frame.at_s:4.0f}s"]
    if frame.clients is not None:
        cells.append(f"clients {frame.clients:2d}")
    for tier in frame.picture.tiers:
        ttft = milliseconds(frame.ttfts_s.get(tier.name))
        now = f"{tier.in_flight}/{tier.limit} {tier.served_per_s:4.1f}/s ttft {ttft}"
        cells.append(f"{tier.name} {now} served {tier.served}")
    cells += [f"spilled {sum(frame.picture.spills.values())}", f"shed {frame.picture.shed}"]
    return " | ".join(cells)


class LiveScreen:
    """Draws over itself below the greeting; its last picture stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._columns: deque[Column] = deque()
        self._shed_before = 0
        self._next_column_s = 0.0
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def show(self, frame: Frame) -> None:
        if frame.at_s >= self._next_column_s:
            self._next_column_s = max(self._next_column_s + COLUMN_S, frame.at_s)
            self._add_column(frame.picture)
        self._live.update(Padding(self._page(frame), (0, 0, 0, 2)), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _add_column(self, picture: Picture) -> None:
        shed, self._shed_before = picture.shed - self._shed_before, picture.shed
        self._columns.append(Column(tuple(tier.in_flight for tier in picture.tiers), shed))
        while len(self._columns) > 400:
            self._columns.popleft()

    def _page(self, frame: Frame) -> RenderableType:
        rows = min(max(self._console.height - ROWS_AROUND_CHART, MIN_CHART_ROWS), MAX_CHART_ROWS)
        limits = [tier.limit for tier in frame.picture.tiers]
        picture = chart(list(self._columns), limits, rows=rows, width=min(self._console.width - 8, 96))
        return Group(table(frame), Text(), picture, Text(), headline(frame), spill_words(frame.picture))


def table(frame: Frame) -> Table:
    """One row per tier, and what was refused."""
    shown = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    shown.add_column("tier")
    shown.add_column("in flight / limit", min_width=BAR_CELLS + len(" 0/8 drained"), no_wrap=True)
    for heading in ("per s", "served", "share", "ttft p50"):
        shown.add_column(heading, justify="right", min_width=6)
    picture = frame.picture
    for index, tier in enumerate(picture.tiers):
        share = f"{100 * tier.served / picture.served:.0f} %" if picture.served else "-"
        ttft = milliseconds(frame.ttfts_s.get(tier.name))
        name = Text(tier.name, style=f"bold {colour_of(index)}")
        shown.add_row(
            name, _bar(tier, colour_of(index)), f"{tier.served_per_s:.1f}", str(tier.served), share, ttft
        )
    refused = Text("refused with 429, to come again", style="dim" if not picture.shed else "")
    shown.add_row(Text("shed", style=f"bold {SHED_COLOUR}"), refused, "", str(picture.shed))
    return shown


def _bar(tier: TierNow, colour: str) -> Text:
    bar = slots_bar(tier.in_flight, tier.limit, colour, BAR_CELLS)
    return bar.append(" drained", style="bold yellow") if tier.is_drained else bar


def headline(frame: Frame) -> Text:
    """What happens now, in one sentence."""
    text = Text(_now_words(frame.picture.tiers), style="bold")
    if frame.clients is not None:
        text = Text(f"{frame.clients:2d} clients. ", style="dim") + text
    return text


def _now_words(tiers: tuple[TierNow, ...]) -> str:
    open_tiers = [tier for tier in tiers if not tier.is_drained]
    roomy = next((tier for tier in open_tiers if tier.in_flight < tier.limit), None)
    if roomy is None:
        return "Every slot is taken: who comes now gets 429 and when to try again."
    if roomy is tiers[0]:
        lower = any(tier.in_flight for tier in tiers[1:])
        return f"{roomy.name} has room: {'new requests go there again' if lower else 'all goes there'}."
    passed = tiers[: tiers.index(roomy)]
    words = " and ".join(f"{tier.name} is {'drained' if tier.is_drained else 'full'}" for tier in passed)
    return f"{words}: requests spill to {roomy.name}."


def spill_words(picture: Picture) -> Text:
    """Every kind of spill so far, and why."""
    if not picture.spills:
        return Text("No request has spilled yet.", style="dim")
    kinds = (f"{source} → {to} {count} ({reason})" for (source, to, reason), count in picture.spills.items())
    return Text("Spilled: " + ", ".join(kinds), style="dim")
