"""Draws a picture: one table for each fleet, one for the gateways, as wide and high as there is room."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.top.marks import colour_of, milliseconds, slots_bar
from gateway.top.rows import DOWN, DRAINED, DRAINING, EJECTED, OK, FleetRows, GatewayRow, Picture, Row, fitted

Key = TypeVar("Key", bound=Hashable)

SHED_STYLE = "red"
# The heading of a table, what is left out of it, spills, sheds, a blank line, and whose it is.
LINES_AROUND_FLEET = 6
MIN_ROWS = 3
# Bars of slots, and how wide a terminal must be for each.
BARS = ((130, 20), (98, 10))
GENERATION_FROM_CELLS = 90


class _Column(NamedTuple):
    """`from_cells`: how wide the terminal must be for this column to be shown."""

    heading: str
    from_cells: int
    cell: Callable[[Row, int], Text]
    is_number: bool = True


def printable(text: str) -> str:
    """What comes from elsewhere must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def page(picture: Picture, width: int, height: int | None) -> RenderableType:
    """`height` None: as long as it takes."""
    parts: list[RenderableType] = []
    problems = _problems(picture)
    for fleet in picture.fleets:
        rows = fleet.rows
        if height is not None:
            around = len(picture.gateways) + len(problems) + 2 + LINES_AROUND_FLEET * len(picture.fleets)
            rows = fitted(rows, max((height - around) // len(picture.fleets), MIN_ROWS))
        if len(picture.fleets) > 1:
            parts.append(Text(printable(", ".join(fleet.urls)), style="bold"))
        parts += [_fleet_table(rows, width), *_left_out(fleet, rows), *_refusals(fleet), Text()]
    return Group(*parts, _gateway_table(picture, width), *problems)


def _problems(picture: Picture) -> list[Text]:
    away = [gateway for gateway in picture.gateways if gateway.problem]
    return [_line(f"{gateway.url}: {gateway.problem}", "red") for gateway in away]


def _line(text: str, style: str) -> Text:
    """One line, cut where the terminal ends."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _name(row: Row, _width: int) -> Text:
    style = f"bold {colour_of(row.tier_index)}" if row.depth == 0 else "dim" if row.depth == 2 else ""
    return Text("  " * row.depth + printable(row.name), style=style)


def _state(row: Row, _width: int) -> Text:
    bad = (EJECTED, DOWN)
    style = "dim" if row.state == OK else "red" if row.state in bad else "yellow"
    return Text(row.state, style=style)


def _slots(row: Row, width: int) -> Text:
    cells = next((cells for from_cells, cells in BARS if width >= from_cells), 0)
    return slots_bar(row.in_flight, row.limit, colour_of(row.tier_index), cells)


def _per_s(value: float | None, style: str = "") -> Text:
    return Text("") if value is None else Text(f"{value:.1f}", style=style if value else "dim")


def _ttft(row: Row, seconds: float | None) -> Text:
    return Text(milliseconds(seconds) if row.depth == 1 else "")


_COLUMNS = (
    _Column("tier / cluster / backend", 0, _name, is_number=False),
    _Column("state", 0, _state, is_number=False),
    _Column("in flight", 0, _slots, is_number=False),
    _Column("room", 90, lambda row, _: Text(str(row.room))),
    _Column("per s", 50, lambda row, _: _per_s(row.finished_per_s)),
    _Column("failed/s", 84, lambda row, _: _per_s(row.failed_per_s, "red")),
    _Column("ttft p50", 66, lambda row, _: _ttft(row, row.ttft_p50_s)),
    _Column("p95", 74, lambda row, _: _ttft(row, row.ttft_p95_s)),
    _Column("", 110, lambda row, _: Text(printable(row.note), style="yellow"), is_number=False),
)


def _fleet_table(rows: tuple[Row, ...], width: int) -> Table:
    columns = [column for column in _COLUMNS if width >= column.from_cells]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.heading, justify="right" if column.is_number else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        style = "dim" if row.state in (DRAINED, DRAINING) and row.depth else ""
        table.add_row(*(column.cell(row, width) for column in columns), style=style)
    return table


def _left_out(fleet: FleetRows, shown: tuple[Row, ...]) -> list[Text]:
    hidden = len(fleet.rows) - len(shown)
    if not hidden:
        return []
    ill = sum(row.depth == 2 and row.state != OK for row in fleet.rows if row not in shown)
    words = f"and {hidden} backends more, {f'{ill} of them not ok' if ill else 'all ok'}"
    return [Text(f"    {words}", style="yellow" if ill else "dim")]


def _refusals(fleet: FleetRows) -> list[Text]:
    spills = [
        f"{source} → {to} {per_s:.1f}/s ({reason})"
        for (source, to, reason), per_s in _largest_first(fleet.spills_per_s)
    ]
    sheds = [f"{per_s:.1f}/s ({reason})" for reason, per_s in _largest_first(fleet.sheds_per_s)]
    return [
        _line("spills: " + (", ".join(spills) or "none"), "" if spills else "dim"),
        _line("sheds:  " + (", ".join(sheds) or "none"), SHED_STYLE if sheds else "dim"),
    ]


def _largest_first(per_s: Mapping[Key, float]) -> list[tuple[Key, float]]:
    return sorted(per_s.items(), key=lambda entry: -entry[1])


def _gateway_table(picture: Picture, width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("gateway", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    for heading in ("in flight", "per s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("store", no_wrap=True)
    shows_generation = width >= GENERATION_FROM_CELLS and any(
        g.generation is not None for g in picture.gateways
    )
    if shows_generation:
        table.add_column("configuration", justify="right", no_wrap=True)
    for gateway in picture.gateways:
        generation = [Text(str(gateway.generation or ""))] if shows_generation else []
        table.add_row(*_gateway_cells(gateway), *generation)
    return table


def _gateway_cells(gateway: GatewayRow) -> tuple[Text, ...]:
    url = Text(printable(gateway.url))
    if gateway.state != OK:
        return url, Text(gateway.state, style="red" if gateway.problem else "dim"), Text(), Text(), Text()
    store = Text(gateway.store, style="yellow" if gateway.store == "degraded" else "")
    in_flight = Text(str(gateway.in_flight))
    return url, Text(OK, style="dim"), in_flight, _per_s(gateway.finished_per_s), store


# What scripts get when nobody says how wide: every column, and names whole.
PLAIN_CELLS = 140


def plain_console(console: Console) -> Console:
    """For anything but a terminal: no colour, and wide enough for every column."""
    return Console(
        file=console.file, width=max(console.width, PLAIN_CELLS), no_color=True, force_terminal=False
    )
