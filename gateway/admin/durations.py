"""How long a drain lasts, as people write it."""

from __future__ import annotations

from gateway.config.problems import BadValue
from gateway.config.units import parse_duration


def parse_drain_s(text: str) -> float:
    """Seconds from what the configuration takes for a duration. Raises ValueError, also for zero."""
    try:
        seconds = parse_duration(text.strip())
    except BadValue as exc:
        raise ValueError("; ".join(part for part in (exc.message, exc.fix) if part)) from exc
    if seconds <= 0:
        raise ValueError(f"must be above zero, not {text!r}")
    return seconds
