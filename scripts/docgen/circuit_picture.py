"""docs/circuit-breaker.svg: the breaker's table as a picture that needs no script and nobody else's server."""

from math import hypot

from gateway.core.breaker import TRANSITIONS, Circuit

PLACES = {Circuit.CLOSED: (150, 100), Circuit.OPEN: (650, 100), Circuit.HALF_OPEN: (400, 420)}
RADIUS = 52
BEND = 40  # How far an arrow leaves the straight line, so that those of both ways do not meet.
LINE = 17  # Between two lines of a label.
# On a ground of its own: the page behind may be light or dark.
STYLE = """
  .ground { fill: #ffffff; }
  circle { fill: #e8f0fe; stroke: #1a4f9c; stroke-width: 2; }
  path { fill: none; stroke: #444; stroke-width: 1.6; marker-end: url(#head); }
  text { font: 14px sans-serif; fill: #222; }
  .state { font-weight: bold; text-anchor: middle; dominant-baseline: central; }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<polygon points="0,0 10,5 0,10" fill="#444"/></marker>'
)
Point = tuple[float, float]


def circuit_picture() -> str:
    signs: dict[tuple[Circuit, Circuit], list[str]] = {}
    for (before, sign), after in TRANSITIONS.items():
        signs.setdefault((before, after), []).append(sign)
    arrows = "".join(_arrow(before, after, labels) for (before, after), labels in signs.items())
    states = "".join(
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}"/><text class="state" x="{x}" y="{y}">{state}</text>\n'
        for state, (x, y) in PLACES.items()
    )
    x, y = PLACES[Circuit.CLOSED]
    start = f'<path d="M {x - RADIUS - 50} {y} L {x - RADIUS - 2} {y}"/>\n'
    return (
        "<!-- Made by scripts/generate-docs from gateway/core/breaker.py -->\n"
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 540" role="img" '
        'aria-label="The states of a circuit and the signs that lead from one to the other">\n'
        f'<style>{STYLE}</style>\n<defs>{HEAD}</defs>\n<rect class="ground" width="800" height="540" rx="8"/>\n'
        f"{start}{arrows}{states}</svg>\n"
    )


def _arrow(before: Circuit, after: Circuit, labels: list[str]) -> str:
    if before is after:
        x, y = PLACES[before]
        path = f"M {x - 24} {y + 48} C {x - 45} {y + 110}, {x + 45} {y + 110}, {x + 24} {y + 48}"
        return f'<path d="{path}"/>\n' + _label((x + 44, y + 86), "start", labels)
    (x1, y1), (x2, y2) = PLACES[before], PLACES[after]
    length = hypot(x2 - x1, y2 - y1)
    # To the left of the way from one to the other, as seen by who walks it.
    aside = ((y2 - y1) / length, (x1 - x2) / length)
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    bend = _moved(middle, aside, 2 * BEND)
    first, last = _edge((x1, y1), bend), _edge((x2, y2), bend)
    path = f"M {first[0]:.0f} {first[1]:.0f} Q {bend[0]:.0f} {bend[1]:.0f} {last[0]:.0f} {last[1]:.0f}"
    anchor = "middle" if abs(aside[0]) < 0.2 else "start" if aside[0] > 0 else "end"
    # Beside a steep arrow a label needs room for its height only; above or below a flat one, for all lines.
    far = BEND + 16 + abs(aside[1]) * LINE * len(labels) / 2
    return f'<path d="{path}"/>\n' + _label(_moved(middle, aside, far), anchor, labels)


def _label(place: Point, anchor: str, lines: list[str]) -> str:
    x, y = place
    top = y - LINE * (len(lines) - 1) / 2 + 5
    return "".join(
        f'<text x="{x:.0f}" y="{top + LINE * row:.0f}" text-anchor="{anchor}">{line}</text>\n'
        for row, line in enumerate(lines)
    )


def _edge(center: Point, towards: Point) -> Point:
    """Where the way from the middle of a state leaves its circle."""
    length = hypot(towards[0] - center[0], towards[1] - center[1])
    way = ((towards[0] - center[0]) / length, (towards[1] - center[1]) / length)
    return _moved(center, way, RADIUS + 2)


def _moved(point: Point, direction: Point, far: float) -> Point:
    return point[0] + direction[0] * far, point[1] + direction[1] * far
