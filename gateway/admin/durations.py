"""Durations as people write them."""

from __future__ import annotations

import re
from math import isfinite

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)


def parse_duration_s(text: str) -> float:
    """Seconds from `250ms`, `60s`, `5m` or `1h`. Raises ValueError, also for zero."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not (seconds > 0 and isfinite(seconds)):
        raise ValueError(f"{text!r} is not a duration above zero, such as 250ms, 60s, 5m or 1h")
    return seconds
