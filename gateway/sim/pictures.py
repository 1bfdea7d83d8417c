"""Pictures of a run as SVG: stacked areas, lines and bars, with axes that read well. Text in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 920, 254
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 28, 34

# Told apart by colour-blind readers too (Okabe and Ito); a tier has its colour in every picture.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
LOST_COLOURS = {"failed": "#D55E00", "shed": "#7a7a7a"}

Series = Mapping[str, Sequence[float]]


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """The tiers' colours in their order; what is lost has its own."""
    tiers = (name for name in names if name not in LOST_COLOURS)
    return {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(tiers)} | LOST_COLOURS


class Axes:
    """A frame from (0, 0) to (`x_most`, `y_most`) in the picture's own units."""

    def __init__(self, x_most: float, y_most: float, x_label: str, y_label: str) -> None:
        self.x_most = x_most or 1.0
        self.y_most = rounded_up(y_most or 1.0)
        self._labels = x_label, y_label

    def x(self, value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_most, 2)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.y_most, 2)

    def drawing(self) -> Iterator[str]:
        x_label, y_label = self._labels
        for tick in ticks(self.y_most):
            at = self.y(tick)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
            yield f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{number(tick)}</text>'
        for tick in ticks(self.x_most, 8):
            at = self.x(tick)
            yield f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(tick)}</text>'
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>'
        yield f'<text x="4" y="10">{escape(y_label)}</text>'


def ticks(most: float, about: int = 4) -> list[float]:
    """Round numbers from 0 to `most`, about so many."""
    step = 10.0 ** floor(log10(most / about)) if most > 0 else 1.0
    for factor in (1, 2, 5, 10):
        if most / (step * factor) <= about:
            step *= factor
            break
    return [round(step * n, 10) for n in range(int(most / step + 1e-9) + 1)]


def rounded_up(most: float) -> float:
    """The least mark of an axis that is not below `most`."""
    marks = ticks(most)
    step = marks[1] if len(marks) > 1 else most
    return marks[-1] if marks[-1] >= most else round(marks[-1] + step, 10)


class Clock(NamedTuple):
    """The unit in which a time axis reads best, and how many seconds it has."""

    unit: str
    seconds: float


def clock_of(span_s: float) -> Clock:
    if span_s > 3 * 3600:
        return Clock("hours", 3600.0)
    return Clock("minutes", 60.0) if span_s > 600 else Clock("seconds", 1.0)


def number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def stacked(series: Series, step: float, x_label: str, y_label: str) -> str:
    """Areas one on the other, in the order given; each value stands for `step` of the x axis."""
    count = max(map(len, series.values()))
    sums = [sum(values[at] for values in series.values()) for at in range(count)]
    axes = Axes(count * step, max(sums, default=0.0), x_label, y_label)
    colours = colours_of(series)
    below = [0.0] * count
    shapes: list[str] = []
    for name, values in series.items():
        if not any(values):
            continue
        above = [b + v for b, v in zip(below, values, strict=True)]
        edge = [*_stairs(above, step, axes), *reversed(list(_stairs(below, step, axes)))]
        points = " ".join(f"{x},{y}" for x, y in edge)
        shapes.append(
            f'<polygon points="{points}" fill="{colours[name]}"><title>{escape(name)}</title></polygon>'
        )
        below = above
    return _svg([*axes.drawing(), *shapes], {name: colours[name] for name in series if any(series[name])})


def against_limits(
    means: Series, peaks: Series, limits: Mapping[str, float], step: float, x_label: str
) -> str:
    """Lines of the mean, pale stairs of the peak, and each tier's limit dashed, if it is within sight."""
    used = [name for name in means if any(peaks[name])]
    highest = max((max(peaks[name]) for name in used), default=0.0)
    within = {name: limits[name] for name in used if limits[name] <= 1.5 * highest}
    most = max([highest, *within.values()]) * 1.05
    axes = Axes(max(map(len, means.values())) * step, most, x_label, "slots in use")
    colours = colours_of(means)
    shapes: list[str] = []
    for name in used:
        for values, kind in ((peaks[name], "peak"), (means[name], "mean")):
            points = " ".join(f"{x},{y}" for x, y in _stairs(values, step, axes))
            shapes.append(f'<polyline class="{kind}" points="{points}" stroke="{colours[name]}"/>')
    for name, limit in within.items():
        at = axes.y(limit)
        shapes.append(
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"'
            f' stroke="{colours[name]}">'
            f"<title>limit of {escape(name)}: {number(limit)}</title></line>"
        )
    legend = {f"{name}, limit {number(limits[name])}": colours[name] for name in used}
    return _svg([*axes.drawing(), *shapes], legend)


def bars(values: Mapping[str, float], unit: str, highlight: str) -> str:
    """One horizontal bar for each name, `highlight` in another colour."""
    most = max([*values.values(), 1e-9])
    height, left = 26, 130
    rows: list[str] = []
    for at, (name, value) in enumerate(values.items()):
        width = round((WIDTH - left - 110) * value / most, 2)
        colour = COLOURS[0] if name == highlight else "#9aa5b1"
        y = at * height + 4
        rows.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        rows.append(f'<rect x="{left}" y="{y}" width="{width}" height="{height - 8}" fill="{colour}"/>')
        rows.append(f'<text x="{left + width + 6}" y="{y + 14}">{value:.2f} {escape(unit)}</text>')
    return _svg(rows, {}, len(values) * height + 8)


def curves(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Points joined by lines, from their own smallest x on."""
    points = [point for line in series.values() for point in line]
    least = min(x for x, _ in points)
    axes = _ShiftedAxes(least, max(x for x, _ in points), max(y for _, y in points) * 1.05, x_label, y_label)
    shapes: list[str] = []
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(series)}
    for name, line in series.items():
        places = [(axes.x(x), axes.y(y)) for x, y in line]
        joined = " ".join(f"{x},{y}" for x, y in places)
        shapes.append(f'<polyline class="mean" points="{joined}" stroke="{colours[name]}"/>')
        for (x, y), (value, share) in zip(places, line, strict=True):
            title = f"{escape(name)} at {number(value)}: {share:.2f}"
            shapes.append(
                f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colours[name]}"><title>{title}</title></circle>'
            )
    return _svg([*axes.drawing(), *shapes], colours)


class _ShiftedAxes(Axes):
    """The x axis begins at `x_least`."""

    def __init__(self, x_least: float, x_most: float, y_most: float, x_label: str, y_label: str) -> None:
        super().__init__(x_most - x_least, y_most, x_label, y_label)
        self._x_least = x_least

    def x(self, value: float) -> float:
        return super().x(value - self._x_least)

    def drawing(self) -> Iterator[str]:
        for line in super().drawing():
            if f'y="{HEIGHT - BOTTOM + 16}"' not in line:
                yield line
        for tick in ticks(self.x_most + self._x_least, 10):
            if tick >= self._x_least:
                yield (
                    f'<text x="{self.x(tick)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
                    f"{number(tick)}</text>"
                )


def _stairs(values: Sequence[float], step: float, axes: Axes) -> Iterator[tuple[float, float]]:
    for at, value in enumerate(values):
        height = axes.y(value)
        yield axes.x(at * step), height
        yield axes.x((at + 1) * step), height


def _svg(shapes: Iterable[str], legend: Mapping[str, str], height: int = HEIGHT) -> str:
    keys = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in legend.items()
    )
    drawn = "".join(shapes)
    picture = f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{drawn}</svg>'
    return f'<figure>{picture}<figcaption class="legend">{keys}</figcaption></figure>'
