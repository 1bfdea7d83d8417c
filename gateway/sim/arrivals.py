"""Requests as they arrive: read from a trace, each mistake in it with its row and a fix."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from gateway.core.constraints import residency_in

REQUIRED = ("t_seconds", "input_tokens", "output_tokens")
OPTIONAL = ("model", "tenant", "residency")
MAX_TOKENS = 10_000_000
# Whoever has more has written the time of day, in seconds since 1970 perhaps.
MAX_SPAN_S = 31 * 86_400.0
HEADER = ",".join(REQUIRED) + "[," + ",".join(OPTIONAL) + "]"


class Arrival(NamedTuple):
    """One request: when it comes, counted from the start of the trace, and how long it is."""

    at_s: float
    input_tokens: int
    output_tokens: int
    model: str | None = None
    tenant: str | None = None
    residency: str | None = None


class TraceError(Exception):
    """The trace cannot be used: one line that names the file, the row (the header is row 1) and the fix."""

    def __init__(self, source: str, row: int, message: str, fix: str = "") -> None:
        place = f"{source}:{row}" if row else source
        super().__init__(f"{place}: {message}{f'; {fix}' if fix else ''}")


def read_trace(path: Path) -> list[Arrival]:
    """The arrivals of a CSV file, gzip or not. Raises TraceError."""
    source = str(path)
    try:
        with path.open("rb") as file:
            is_gzip = file.peek(2)[:2] == b"\x1f\x8b"  # and not seek: it may be a pipe
            content = gzip.GzipFile(fileobj=file) if is_gzip else file
            with io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
                return list(_read(csv.reader(text, strict=True), source))
    except FileNotFoundError:
        raise TraceError(source, 0, "does not exist", "look at its path") from None
    except IsADirectoryError:
        raise TraceError(source, 0, "is a directory", "name the file in it") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise TraceError(source, 0, "is damaged or cut off gzip data", "copy the file again") from None
    except UnicodeDecodeError:
        raise TraceError(source, 0, "is not UTF-8 text", "give a CSV file, gzip or not") from None
    except OSError as error:
        raise TraceError(source, 0, f"cannot be read: {error.strerror or error}") from None


def _read(reader: Iterator[list[str]], source: str) -> Iterator[Arrival]:
    rows = _counted(reader, source)
    _, header = next(rows, (0, []))
    if not header:
        raise TraceError(source, 0, "is empty", f"the first row must be {HEADER}")
    if not all(map(str.isprintable, header)):
        raise TraceError(source, 0, "is not a CSV file", "give one, plain or gzip")
    parse = _parser_of([name.strip() for name in header], source)
    last_s, found = 0.0, False
    for number, row in rows:
        if not row:
            continue  # a blank line
        try:
            arrival = parse(row)
        except _BadRow as bad:
            raise TraceError(source, number, *bad.args) from None
        if arrival.at_s < last_s:
            message = f"t_seconds {arrival.at_s:g} is before that of the row above ({last_s:g})"
            raise TraceError(source, number, message, "sort the rows by time")
        last_s, found = arrival.at_s, True
        yield arrival
    if not found:
        raise TraceError(source, 0, "has no rows below its header", "record some requests first")


def _counted(reader: Iterator[list[str]], source: str) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            yield number, row
    except csv.Error as error:
        raise TraceError(source, number + 1, f"is not valid CSV: {error}", "look for a stray quote") from None


class _BadRow(Exception):
    """A message and a fix."""


def _parser_of(header: Sequence[str], source: str) -> Callable[[list[str]], Arrival]:
    if _is_number(header[0]):
        raise TraceError(source, 1, "there is no header above the values", f"put one there: {HEADER}")
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in REQUIRED + OPTIONAL]
    if missing or unknown or len(set(header)) != len(header):
        what = (
            f"lacks the column {missing[0]}, it has {_shown(','.join(header))}"
            if missing
            else f"has an unknown column {unknown[0]!r}"
            if unknown
            else "names a column twice"
        )
        raise TraceError(source, 1, f"the header {what}", f"write {HEADER}")
    at, inputs, outputs = (header.index(name) for name in REQUIRED)
    extras = [header.index(name) if name in header else None for name in OPTIONAL]

    def parse(row: list[str]) -> Arrival:
        if len(row) != len(header):
            values = f"{len(row)} value{'' if len(row) == 1 else 's'}"
            raise _BadRow(f"has {values} for {len(header)} columns", "give each column one, between commas")
        seconds = _seconds(row[at])
        tokens = _tokens("input_tokens", row[inputs], 0), _tokens("output_tokens", row[outputs], 0)
        words = [row[e].strip() or None if e is not None else None for e in extras]
        if (residency := words[-1]) is not None and not residency_in(residency):
            raise _BadRow(f"residency names no label: {residency!r}", "write one, as eu, or leave it empty")
        return Arrival(seconds, *tokens, *words)

    return parse


def _seconds(text: str) -> float:
    seconds = float(text) if _is_number(text) else None
    if seconds is None:
        raise _BadRow(f"t_seconds must be a number, not {_shown(text)}", "write seconds, as 12.5")
    if not isfinite(seconds) or seconds < 0:
        raise _BadRow(f"t_seconds must be 0 or more, not {_shown(text)}", "count from the start of the trace")
    if seconds > MAX_SPAN_S:
        raise _BadRow(
            f"t_seconds {_shown(text)} is more than {MAX_SPAN_S / 86_400:.0f} days",
            "count from the start of the trace: take the first row's time off all of them",
        )
    return seconds


def _tokens(name: str, text: str, at_least: int) -> int:
    if _WHOLE.fullmatch(text) is None:
        raise _BadRow(f"{name} must be a whole number, not {_shown(text)}", "write a count, as 129")
    tokens = int(text)
    if not at_least <= tokens <= MAX_TOKENS:
        raise _BadRow(
            f"{name} must be from {at_least} to {MAX_TOKENS}, not {tokens}", "drop the row or mend it"
        )
    return tokens


# Python would read 1_000 too, and digits of any script.
_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,40}\s*", re.ASCII)


def _is_number(text: str) -> bool:
    if "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    """As it stands there, in one line and short."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
