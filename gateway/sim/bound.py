"""The clairvoyant bound: the fewest requests that have to leave the preferred tier when nobody may wait.

Arrivals are swept in order. When more run than there are slots, the one that would end last is dropped: it
would hold its slot the longest, and whoever is kept in its place is gone no later (the greedy rule that is
optimal for keeping the most intervals on k machines; Faigle and Nawijn, "Note on scheduling intervals
on-line", 1995). It knows every duration beforehand, which no gateway does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from gateway.sim.endpoints import Endpoint, Site
from gateway.sim.ledger import Fate, Row

Span = tuple[float, float]


def dropped(spans: Iterable[Span], slots: int) -> int:
    """How many of `spans` (begin, end), sorted by their begin, cannot be kept on so many slots."""
    by_end: list[tuple[float, int]] = []
    by_last: list[tuple[float, int]] = []  # those that have ended stay: they are never the last to end
    gone: set[int] = set()
    running = count = 0
    for number, (begin_s, end_s) in enumerate(spans):
        while by_end and by_end[0][0] <= begin_s:
            _, ended = heappop(by_end)
            if ended in gone:
                gone.discard(ended)
            else:
                running -= 1
        heappush(by_end, (end_s, number))
        heappush(by_last, (-end_s, number))
        running += 1
        if running > slots:
            _, last = heappop(by_last)
            gone.add(last)
            running -= 1
            count += 1
    return count


def bound_of(rows: Sequence[Row], site: Site) -> int:
    """How many requests of a run must leave their preferred tier at least.

    How long each takes there is known where the load does not matter; else it is taken from `rows`, and the
    bound is an estimate. It knows no faults. Requests that prefer the same backends are one sweep; where two
    such groups share a backend, each is given all of it, so the bound is lower than what could be done.
    """
    groups: dict[tuple[Endpoint, ...], list[Span]] = {}
    lost = 0
    for row in sorted(rows, key=lambda row: row.number):
        if not row.preferred_tier:  # not let in, or nobody serves it
            lost += 1
            continue
        tiers = site.serving(row.arrival.model, row.residency)
        groups.setdefault(tiers[0], []).append((row.arrival.at_s, row.arrival.at_s + _takes_s(row, tiers[0])))
    return lost + sum(dropped(spans, sum(e.limit for e in group)) for group, spans in groups.items())


def _takes_s(row: Row, preferred: tuple[Endpoint, ...]) -> float:
    endpoint = preferred[0]
    if endpoint.is_load_dependent and row.fate is Fate.SERVED:
        return row.ended_s - row.arrival.at_s
    return endpoint.alone_s(row.number, row.arrival)
