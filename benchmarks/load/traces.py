"""Reading a trace of arrivals: CSV with the columns t_seconds, input_tokens, output_tokens, or .gz of it."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("t_seconds", "input_tokens", "output_tokens")


class TraceError(Exception):
    """A trace that can't be replayed; the text names the file and the row (the header is row 1)."""


class Row(NamedTuple):
    """One request of a trace. Times are seconds since its start and never go back."""

    t_seconds: float
    input_tokens: int
    output_tokens: int


def read_trace(path: Path, first_s: float = 0.0, last_s: float = math.inf) -> list[Row]:
    """The rows from `first_s` to before `last_s`, their times counted from `first_s`. Raises TraceError."""
    try:
        rows = [row for row in _rows(path) if first_s <= row.t_seconds < last_s]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as exc:
        raise TraceError(f"{path}: can't be read: {exc}") from exc
    if not rows:
        raise TraceError(f"{path}: no rows" + (" in this slice" if first_s or last_s < math.inf else ""))
    return [row._replace(t_seconds=row.t_seconds - first_s) for row in rows]


def _rows(path: Path) -> Iterator[Row]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        header = [name.strip() for name in next(lines, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise TraceError(f"{path}, row 1: the header has no column {', '.join(missing)}")
        places = [header.index(name) for name in COLUMNS]
        latest_s = 0.0
        for number, cells in enumerate(lines, 2):
            if not cells:
                continue
            row = _row(cells, places, f"{path}, row {number}")
            if row.t_seconds < latest_s:
                raise TraceError(f"{path}, row {number}: t_seconds goes back to {row.t_seconds:g}")
            latest_s = row.t_seconds
            yield row


def _row(cells: list[str], places: list[int], where: str) -> Row:
    if len(cells) <= max(places):
        raise TraceError(f"{where}: {len(cells)} cells, which is too few")
    t_seconds, *tokens = (cells[place].strip() for place in places)
    try:
        at_s = float(t_seconds)
    except ValueError:
        at_s = math.nan
    if not 0 <= at_s < math.inf:
        raise TraceError(f"{where}: t_seconds: {t_seconds!r} is not a time of 0 or more")
    for name, text in zip(COLUMNS[1:], tokens, strict=True):
        if not (text.isascii() and text.isdigit()):
            raise TraceError(f"{where}: {name}: {text!r} is not a whole number of 0 or more")
    return Row(at_s, *map(int, tokens))
