"""The fleet pages of several workers as one: what is in flight is added, what is left is worked out anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Page = dict[str, Any]

# A circuit is shown as whoever sees it worst sees it.
_WORSE = ("closed", "half_open", "open")


def merge_pages(pages: Sequence[Page]) -> Page:
    """One page of the same shape. All come from one configuration, so they name the same clusters."""
    total = sum(page["in_flight"] for page in pages)
    tiers = [_tier(parts, total) for parts in zip(*(page["tiers"] for page in pages), strict=True)]
    return {**pages[0], "tiers": tiers, **_sums(tiers, total)}


def _tier(parts: Sequence[Page], total: int) -> Page:
    clusters = [_cluster(each, total) for each in zip(*(part["clusters"] for part in parts), strict=True)]
    return {**parts[0], "clusters": clusters, **_sums(clusters, total)}


def _cluster(parts: Sequence[Page], total: int) -> Page:
    backends = [_backend(each, total) for each in zip(*(part["backends"] for part in parts), strict=True)]
    is_down = any(part["down"] for part in parts)
    return {**parts[0], "backends": backends, **_sums(backends, total), **_drain(parts), "down": is_down}


def _backend(parts: Sequence[Page], total: int) -> Page:
    in_flight = sum(part["in_flight"] for part in parts)
    # The limit is the backend's, whoever asks: the workers share it.
    limit = max(part["limit"] for part in parts)
    return {
        **parts[0],
        "in_flight": in_flight,
        "limit": limit,
        "headroom": max(limit - in_flight, 0),
        "share": _share(in_flight, total),
        **_drain(parts),
        # Each worker has measured its own requests only: the slowest view is the safe one.
        "circuit": max((part["circuit"] for part in parts), key=lambda c: _WORSE.index(c["state"])),
        "latency_ewma_ms": max(part["latency_ewma_ms"] for part in parts),
    }


def _sums(members: Sequence[Page], total: int) -> Page:
    in_flight = sum(member["in_flight"] for member in members)
    return {
        "in_flight": in_flight,
        "limit": sum(member["limit"] for member in members),
        "headroom": sum(member["headroom"] for member in members),
        "share": _share(in_flight, total),
    }


def _share(in_flight: int, total: int) -> float:
    return round(in_flight / total, 4) if total else 0.0


def _drain(parts: Sequence[Page]) -> Page:
    """Drained when all are: one that still takes new work is not out of work."""
    is_drained = all(part["drained"] for part in parts)
    lefts_s = [part["drained_for_s"] for part in parts]
    has_end = is_drained and None not in lefts_s
    return {"drained": is_drained, "drained_for_s": max(lefts_s) if has_end else None}
