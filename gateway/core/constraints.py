"""Hard filters: what a request may not use, whatever its score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gateway.core.model import Cluster

# Of which labels a cluster must have one. None: a request that may go anywhere.
Residency = frozenset[str] | None


class ModelMatch(NamedTuple):
    """The cluster serves the model, by this `rule` (a configured name or pattern, or None for "any").

    `upstream_name` is set where its backends know the model by another name.
    """

    rule: str | None
    upstream_name: str | None


def match_model(models: Mapping[str, str | None], model: str | None) -> ModelMatch | None:
    """Does a cluster with these `models` serve `model`? An exact name wins over a pattern."""
    if not models:
        return ModelMatch(None, None)
    if model is None:
        return None
    if model in models:
        return ModelMatch(model, models[model])
    for pattern, upstream_name in models.items():
        if "*" in pattern and _fits(pattern, model):
            return ModelMatch(pattern, upstream_name)
    return None


def match_cluster(cluster: Cluster, model: str | None, residency: Residency) -> ModelMatch | None:
    """May a request for `model` that is kept to `residency` go to this cluster at all?"""
    if residency is not None and residency.isdisjoint(cluster.residency):
        return None
    return match_model(cluster.models, model)


def residency_in(text: str) -> frozenset[str]:
    """The labels in the value of `x-spillway-residency`: `eu`, or `eu, ch`."""
    return frozenset(label for part in text.lower().split(",") if (label := part.strip()))


def narrowed(residency: Residency, wanted: Residency) -> Residency:
    """What is left when a request wants less than it may: never more."""
    if residency is None or wanted is None:
        return wanted if residency is None else residency
    return residency & wanted


def kept_to(own: Residency, wanted: Residency, known: frozenset[str]) -> Residency:
    """Where a request may be answered: its key's `own` residencies, narrowed by what it asks, never widened.

    `known` are those that any cluster has. Others are left out: clients would fill memory with them.
    """
    return own if wanted is None else narrowed(own, wanted & known)


def _fits(pattern: str, model: str) -> bool:
    """`*` stands for any run of characters, none included; nothing else is special."""
    first, *middle, last = pattern.split("*")
    if not model.startswith(first):
        return False
    at = len(first)
    for piece in middle:
        found = model.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(model) - len(last) >= at and model.endswith(last)
