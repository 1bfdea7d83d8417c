"""Durations, sizes and rates as people write them: `5m`, `32MiB`, `50/s`. Format and parse are inverses."""

from __future__ import annotations

import re
from decimal import Decimal

from gateway.config.problems import BadValue
from gateway.core.admission import Rate

# `hedge.after: p95`, in place of a duration.
AT_P95 = 0.0

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_PERIODS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"([0-9]{1,9}) ?/ ?([A-Za-z]+)", re.ASCII)
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


def parse_rate(text: str) -> Rate:
    """Requests in a time, from `50/s`, `600/m` or `10000/h`. Raises BadValue."""
    match = _RATE.fullmatch(text)
    if match is None:
        fix = f"did you mean '{text}/s'?" if text.isdecimal() else "write requests and a time: 50/s, 600/m"
        raise BadValue(f"must be a rate, not {text!r}", fix)
    requests, unit = int(match[1]), match[2]
    if unit not in _PERIODS_S:
        raise BadValue(f"has an unknown unit {unit!r}", "use s, m or h")
    if requests < 1:
        raise BadValue("must be at least 1 request", "remove the key to take all its access away")
    return Rate(requests, _PERIODS_S[unit])


def format_rate(rate: Rate) -> str:
    """The text that `parse_rate` reads back as `rate`."""
    return f"{rate.requests}/{next(unit for unit, s in _PERIODS_S.items() if s == rate.period_s)}"
