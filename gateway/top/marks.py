"""What `spillway top` and `spillway demo` draw alike: the tiers' colours, the bar of slots, milliseconds."""

from __future__ import annotations

from rich.text import Text

TIER_COLOURS = ("green", "yellow", "magenta", "cyan", "blue")


def colour_of(tier_index: int) -> str:
    return TIER_COLOURS[tier_index % len(TIER_COLOURS)]


def slots_bar(in_flight: int, limit: int, colour: str, cells: int) -> Text:
    """`in_flight` of `limit` as a bar of `cells` and in figures; without cells the figures alone."""
    filled = min(round(cells * in_flight / limit), cells) if limit else 0
    bar = Text("█" * filled, style=colour) + Text("░" * (cells - filled), style="dim")
    style = "bold red" if in_flight > limit else "bold" if in_flight >= limit else ""
    return bar.append(f"{' ' if cells else ''}{in_flight:2d}/{limit}", style=style)


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
