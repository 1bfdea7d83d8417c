"""What became of each tenant's requests, and of those for each residency: where the trace names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.core.constraints import residency_in
from gateway.sim.ledger import Fate, Row
from gateway.sim.quantiles import quantiles

# Of a column that not every row fills: those that leave it empty.
NOT_TOLD = ""

Groups = dict[str, dict[str, Any]]


def by_tenant(rows: Sequence[Row]) -> Groups:
    """Empty when the trace names no tenant."""
    return _grouped(rows, lambda row: row.arrival.tenant)


def by_residency(rows: Sequence[Row]) -> Groups:
    """By what a request asks for, however it is written; empty when the trace names no residency."""
    names: dict[str, str] = {}

    def asked(row: Row) -> str | None:
        text = row.arrival.residency
        if text is None:
            return None
        if text not in names:
            names[text] = ", ".join(sorted(residency_in(text)))
        return names[text]

    return _grouped(rows, asked)


def _grouped(rows: Sequence[Row], name_of: Callable[[Row], str | None]) -> Groups:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(name_of(row) or NOT_TOLD, []).append(row)
    if groups.keys() <= {NOT_TOLD}:
        return {}
    return {name: _figures(groups[name]) for name in sorted(groups)}


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    fates = Counter(row.fate for row in rows)
    served = [row for row in rows if row.fate is Fate.SERVED and row.endpoint is not None]
    return {
        "requests": len(rows),
        "off_preferred": sum(not row.is_at_home for row in rows),
        **{fate.value: fates[fate] for fate in Fate},
        "sheds": dict(sorted(Counter(str(row.why) for row in rows if row.fate is Fate.SHED).items())),
        "clusters": dict(
            sorted(Counter(row.endpoint.place.cluster for row in served if row.endpoint is not None).items())
        ),
        "ttft_s": quantiles(row.ttft_s for row in served),
    }


MAX_SHOWN = 20

HEADS = ("requests", "off preferred", "shed", "failed", "served by", "refused")


def shown(groups: Groups) -> tuple[list[tuple[str, ...]], int]:
    """A row of cells under a name and HEADS for each of the MAX_SHOWN largest groups, and how many more."""
    by_size = sorted(groups.items(), key=lambda pair: (-pair[1]["requests"], pair[0]))
    cells = [(name or "(none)", *_cells(group)) for name, group in by_size[:MAX_SHOWN]]
    return cells, len(by_size) - len(cells)


def _cells(group: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (f"{group[key]:,}" for key in ("requests", "off_preferred", "shed", "failed"))
    return (*numbers, _counts(group["clusters"]), _counts(group["sheds"]))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "-"
