"""Who comes first: clusters inside a tier, backends inside a cluster.

Each policy only *orders*; nothing is left out, so a plan always names every place with a slot.
A policy takes the members and a `draw` (uniform in [0, 2**64)), so that a decision can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.core.view import BackendState, ClusterState

# Clusters are chosen by the top 24 bits of the draw.
_CLUSTER_SHIFT = 40
_FRACTION = 1.0 / 2**24


def order_backends(backends: Sequence[BackendState], draw: int, now_s: float) -> Sequence[BackendState]:
    """Power of two choices on (in_flight + 1) x peak EWMA / weight, among those with headroom.

    Mitzenmacher's two choices avoid the herd that the least-loaded rule makes with stale numbers.
    """
    if len(backends) == 1:
        return backends
    roomy = [backend for backend in backends if backend.in_flight < backend.limit]
    full = [backend for backend in backends if backend.in_flight >= backend.limit]
    if len(roomy) > 1:
        first, second = _two_of(len(roomy), draw)
        one, other = roomy[first], roomy[second]
        if other.cost(now_s) < one.cost(now_s):
            one, other = other, one
        roomy = [one, other, *(b for b in roomy if b is not one and b is not other)]
    return roomy + full


def _two_of(count: int, draw: int) -> tuple[int, int]:
    """Two different indexes below `count`; their order is random too.

    From bits 0-19 and 20-39 of the draw: the choice of the cluster has the bits above for itself.
    """
    first = (draw & 0xFFFFF) % count
    second = (draw >> 20 & 0xFFFFF) % (count - 1)
    return first, second + (second >= first)


def by_weight(clusters: Sequence[ClusterState], draw: int) -> Sequence[ClusterState]:
    """The first by weighted chance, the others by falling weight."""
    if len(clusters) == 1:
        return clusters
    mark = (draw >> _CLUSTER_SHIFT) * _FRACTION * sum(cluster.weight for cluster in clusters)
    chosen = clusters[-1]
    for cluster in clusters:
        mark -= cluster.weight
        if mark < 0:
            chosen = cluster
            break
    others = sorted((c for c in clusters if c is not chosen), key=lambda c: -c.weight)
    return [chosen, *others]


def by_least_loaded(clusters: Sequence[ClusterState], draw: int) -> Sequence[ClusterState]:
    """By the share of the limit in use, ties at random."""
    if len(clusters) == 1:
        return clusters
    start = (draw >> _CLUSTER_SHIFT) % len(clusters)
    turned = [*clusters[start:], *clusters[:start]]
    return sorted(turned, key=lambda cluster: cluster.load)


ClusterPolicy = Callable[[Sequence["ClusterState"], int], Sequence["ClusterState"]]

CLUSTER_POLICIES: dict[str, ClusterPolicy] = {
    "weight": by_weight,
    "least_loaded": by_least_loaded,
}
