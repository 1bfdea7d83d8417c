"""Numbers as the reports have them: rounded, and by rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank: the smallest value that at least this share of all do not exceed."""
    return ordered[max(ceil(share * len(ordered)), 1) - 1] if ordered else None


def quantiles(values: Iterable[float | None]) -> dict[str, float | None]:
    ordered = sorted(value for value in values if value is not None)
    return {name: rounded(quantile(ordered, share)) for name, share in QUANTILES.items()}
