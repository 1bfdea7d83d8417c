"""Durations and sizes as people write them: `250ms`, `5m`, `32MiB`. Format and parse are inverses."""

from __future__ import annotations

import re
from decimal import Decimal

from gateway.config.problems import BadValue

# `hedge.after: p95`, in place of a duration.
AT_P95 = 0.0

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
# Enough digits for any float written out, few enough that a hostile number costs no time.
_MEASURE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,40})?) ?([A-Za-z]*)", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds from `250ms`, `2s`, `1.5m`, `1h`. Raises BadValue."""
    match = _MEASURE.fullmatch(text)
    if match is None:
        raise BadValue(f"must be a duration, not {text!r}", "write a number and a unit: 250ms, 2s, 5m or 1h")
    number, unit = match.groups()
    if not unit:
        raise BadValue(f"must have a unit, not {text!r}", f"did you mean '{number}s'?")
    if unit not in _SECONDS:
        raise BadValue(f"has an unknown unit {unit!r}", "use ms, s, m or h")
    return float(Decimal(number) * _SECONDS[unit])


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as exactly `seconds`."""
    exact = Decimal(repr(seconds))
    for unit in ("h", "m", "s", "ms"):
        count = exact / _SECONDS[unit]
        if count and count == count.to_integral_value() and count * _SECONDS[unit] == exact:
            return f"{count:f}{unit}" if count.as_tuple().exponent == 0 else f"{int(count)}{unit}"
    return f"{exact:f}s" if exact else "0s"


def parse_size(text: str) -> int:
    """Bytes from `32MiB`, `700KiB`, `1.5GiB` or a plain number. Raises BadValue."""
    match = _MEASURE.fullmatch(text)
    if match is None:
        raise BadValue(f"must be a size, not {text!r}", "write bytes, or a number with KiB, MiB or GiB")
    number, unit = match.groups()
    factor = _BYTES.get(unit or "B")
    if factor is None:
        raise BadValue(f"has an unknown unit {unit!r}", _size_fix(number, unit))
    size = Decimal(number) * factor
    if size != size.to_integral_value():
        raise BadValue(f"must be a whole number of bytes, not {text!r}")
    return int(size)


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back as exactly `size`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def _size_fix(number: str, unit: str) -> str:
    for known in ("KiB", "MiB", "GiB", "TiB"):
        if unit[0].upper() == known[0] and unit.lower() in (
            known[0].lower(),
            known[0].lower() + "b",
            known.lower(),
        ):
            return f"did you mean '{number}{known}'?"
    return "use KiB, MiB or GiB"
