"""The tier table on the terminal: it grows while the load runs, or comes as a whole where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks.load.timeline import Second, cells, heads
from benchmarks.load.verdicts import Verdict

NEVER_TERMINAL_COLUMNS = 150  # wide enough for every column where nobody says how wide


class Screen:
    """`show` the lines known so far, as often as you like; `verdicts` once."""

    def __init__(self, console: Console, limits: dict[str, int], live: Live | None) -> None:
        self._console = console
        self._limits = limits
        self._live = live

    def show(self, seconds: Sequence[Second]) -> None:
        if self._live is not None:
            fitting = max(self._console.height - 6, 5)
            self._live.update(self._table(seconds[-fitting:]))

    def whole(self, seconds: Sequence[Second]) -> None:
        self._console.print(self._table(seconds))

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        shown = Table("what", "measured", "goal", "met", title="verdicts", title_justify="left")
        for one in verdicts:
            met = Text("yes", style="green") if one.is_met else Text("NO", style="bold red")
            shown.add_row(one.what, one.measured, one.goal, met)
        self._console.print(shown)

    def _table(self, seconds: Sequence[Second]) -> Table:
        shown = Table(box=None, header_style="bold", pad_edge=False)
        for head in heads(list(self._limits)):
            # Two lines of head make room for all columns on a terminal of 100.
            shown.add_column(head.replace(" ", "\n", 1), justify="right", no_wrap=True)
        for second in seconds:
            is_full = all(second.in_flight[tier] > 0.9 * limit for tier, limit in self._limits.items())
            spills = any(second.spills.values())
            style = "red" if second.refused else "magenta" if is_full else "yellow" if spills else ""
            shown.add_row(*cells(second, self._limits), style=style)
        return shown


@contextmanager
def open_screen(limits: dict[str, int]) -> Iterator[Screen]:
    console = Console()
    if not console.is_terminal:
        yield Screen(Console(width=NEVER_TERMINAL_COLUMNS), limits, None)
        return
    with Live(console=console, transient=True, refresh_per_second=2) as live:
        yield Screen(console, limits, live)
