"""Hard filters: what a request may not use, whatever its score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


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
