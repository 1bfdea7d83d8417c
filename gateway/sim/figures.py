"""A ledger in numbers: what the reports show, as plain dicts in a fixed order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from gateway.core.breaker import Trigger
from gateway.core.model import PlanReason
from gateway.sim.ledger import Fate, Ledger, Row
from gateway.sim.scenario import PriceConfig, Scenario

# Requests that leave the preferred tier though it has a free slot are one spell when they come this close.
SPELL_S = 2.0
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
NO_PRICE = PriceConfig()

Figures = dict[str, Any]


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank: the smallest value that at least this share of all do not exceed."""
    return ordered[max(ceil(share * len(ordered)), 1) - 1] if ordered else None


def rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def figures_of(ledger: Ledger, scenario: Scenario) -> Figures:
    """All about one run but its course over time."""
    rows = ledger.rows
    fates = Counter(row.fate for row in rows)
    away = sum(not row.is_at_home for row in rows)
    tiers = _by_tier(ledger, scenario)
    costs = [tier["cost"] for tier in tiers.values() if tier["cost"] is not None]
    return {
        "requests": len(rows),
        "off_preferred": away,
        "off_preferred_share": rounded(away / len(rows)),
        **{fate.value: fates[fate] for fate in Fate},
        "flaps": flaps_of(rows),
        "spills": _counted(row.why for row in rows if row.fate is Fate.SERVED and row.why is not None),
        "failures": _counted(row.why for row in rows if row.fate is Fate.FAILED),
        "sheds": _counted(row.why for row in rows if row.fate is Fate.SHED),
        "retries": ledger.retries,
        "retries_denied": ledger.denied,
        "hedges": ledger.hedges,
        "circuits_opened": sum(
            change.circuit == "open" and change.trigger != Trigger.TOLD for change in ledger.circuits
        ),
        "held": sum(row.held_s > 0 for row in rows),
        "held_s": _quantiles(row.held_s for row in rows if row.held_s > 0),
        "ttft_s": _quantiles(row.ttft_s for row in rows if row.fate is Fate.SERVED),
        "duration_s": _quantiles(row.ended_s - row.arrival.at_s for row in rows if row.fate is Fate.SERVED),
        "cost": rounded(sum(costs)) if costs else None,
        "tiers": tiers,
    }


def course_of(ledger: Ledger) -> Figures:
    """What happened over time: arrivals by where they ended, and slots in use, by time bucket."""
    occupancy = ledger.site.occupancy
    bucket_s = occupancy.bucket_s
    count = int(ledger.ended_s / bucket_s) + 1
    requests = {tier: [0] * count for tier in occupancy.levels}
    lost = {fate.value: [0] * count for fate in (Fate.FAILED, Fate.SHED)}
    for row in ledger.rows:
        at = int(row.arrival.at_s / bucket_s)
        if row.fate is Fate.SERVED and row.endpoint is not None:
            requests[row.endpoint.place.tier][at] += 1
        else:
            lost[row.fate.value][at] += 1
    levels = occupancy.levels.items()
    return {
        "span_s": rounded(ledger.ended_s),
        "bucket_s": bucket_s,
        "requests": {**requests, **lost},
        "in_flight_mean": {
            tier: [round(a / bucket_s, 3) for a in level.area[:count]] for tier, level in levels
        },
        "in_flight_peak": {tier: level.peaks[:count] for tier, level in levels},
        "circuits": [{**change._asdict(), "at_s": rounded(change.at_s)} for change in ledger.circuits],
    }


def flaps_of(rows: Sequence[Row]) -> int:
    """How often the preferred tier was left although it was well and had a free slot.

    Spells less than SPELL_S apart are one: what counts is the change of mind, not each request. Probes of a
    half-open circuit and hedges go where they go for another reason.
    """
    count, last_s = 0, float("-inf")
    for row in rows:
        if row.left_room and row.why not in (PlanReason.PROBE, PlanReason.HEDGED):
            count += row.arrival.at_s - last_s > SPELL_S
            last_s = row.arrival.at_s
    return count


def _by_tier(ledger: Ledger, scenario: Scenario) -> dict[str, Figures]:
    served: dict[str, list[Row]] = {tier: [] for tier in ledger.site.occupancy.levels}
    for row in ledger.rows:
        if row.fate is Fate.SERVED and row.endpoint is not None:
            served[row.endpoint.place.tier].append(row)
    limits = Counter[str]()
    for endpoint in ledger.site.endpoints.values():
        limits[endpoint.place.tier] += endpoint.limit
    return {
        tier: {
            "requests": len(rows),
            "share": rounded(len(rows) / len(ledger.rows)),
            "limit": limits[tier],
            "in_flight_mean": rounded(sum(level.area) / max(ledger.ended_s, 1e-9)),
            "in_flight_peak": max(level.peaks, default=0),
            "ttft_s": _quantiles(row.ttft_s for row in rows),
            "duration_s": _quantiles(row.ended_s - row.arrival.at_s for row in rows),
            "cost": rounded(_cost_of(tier, rows, ledger, scenario)),
        }
        for (tier, rows), level in zip(served.items(), ledger.site.occupancy.levels.values(), strict=True)
        if limits[tier]
    }


def _cost_of(tier: str, rows: Sequence[Row], ledger: Ledger, scenario: Scenario) -> float | None:
    """Hours of what was up, and tokens of what was served; None where the scenario names no price."""
    priced: Mapping[str, PriceConfig | None] = {
        e.place.cluster: scenario.cluster(e.place.cluster).price
        for e in ledger.site.endpoints.values()
        if e.place.tier == tier
    }
    if not any(priced.values()):
        return None
    cost = 0.0
    for endpoint in ledger.site.endpoints.values():
        if endpoint.place.tier == tier:
            price = priced[endpoint.place.cluster] or NO_PRICE
            cost += price.per_hour * endpoint.up_s(ledger.ended_s) / 3600
    for row in rows:
        assert row.endpoint is not None
        price = priced[row.endpoint.place.cluster] or NO_PRICE
        cost += row.arrival.input_tokens * price.per_million_input / 1e6
        cost += row.arrival.output_tokens * price.per_million_output / 1e6
    return cost


def _quantiles(values: Any) -> dict[str, float | None]:
    ordered = sorted(value for value in values if value is not None)
    return {name: rounded(quantile(ordered, share)) for name, share in QUANTILES.items()}


def _counted(reasons: Any) -> dict[str, int]:
    return dict(sorted(Counter(str(reason) for reason in reasons).items()))
