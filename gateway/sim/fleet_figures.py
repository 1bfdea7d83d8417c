"""How well several gateways shared the limits, in numbers for the reports."""

from __future__ import annotations

from gateway.sim.figures import Figures, rounded
from gateway.sim.ledger import Fate, Ledger


def fleet_figures_of(ledger: Ledger) -> Figures:
    """False spills and sheds are those for which there was a slot, only not at their gateway.

    `peak` is the most that ran at a backend at a time, whoever sent it; `degraded_s` are gateway-seconds.
    """
    missed = [row.fate for row in ledger.rows if row.is_false_spill]
    sheds = missed.count(Fate.SHED)
    return {
        "gateways": ledger.gateways,
        "is_shared": ledger.is_shared,
        "exchanges": ledger.exchanges,
        "degraded_s": rounded(sum(ledger.degraded.area)),
        "false_spills": len(missed) - sheds,
        "false_sheds": sheds,
        "backends": {
            endpoint.id: {"limit": endpoint.limit, "peak": endpoint.most_in_flight}
            for endpoint in ledger.site.endpoints.values()
        },
    }


def degraded_course(ledger: Ledger) -> list[float]:
    """How many gateways were without their store on average, by time bucket."""
    level, count = ledger.degraded, int(ledger.ended_s / ledger.site.occupancy.bucket_s) + 1
    return [round(area / ledger.site.occupancy.bucket_s, 3) for area in level.area[:count]]


def fullest_backend(fleet: Figures) -> tuple[str, int, int]:
    """Its id, its peak and its limit: the one that came closest to its limit, or passed it furthest."""
    backends = fleet["backends"]
    fullest = max(
        backends, key=lambda backend_id: backends[backend_id]["peak"] / backends[backend_id]["limit"]
    )
    return fullest, backends[fullest]["peak"], backends[fullest]["limit"]
