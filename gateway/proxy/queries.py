"""The model in the query of a target, where a request has no body: found once, and replaced at its place."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus

from gateway.proxy.errors import invalid

# Some readers end a parameter at `;` too. Where that would show them another model, nobody is believed.
_PARAMETER = re.compile(rb"[^&;]+")


def model_in_query(target: bytes) -> str | None:
    """The parameter `model`. Raises Refusal 400 for one that two readers may read differently."""
    span = _model_span(target)
    return (
        None if span is None else unquote_plus(target[span[0] : span[1]].decode("latin-1"), errors="replace")
    )


def with_query_model(target: bytes, model: bytes) -> bytes:
    """The same target with another model; without one where it names none."""
    span = _model_span(target)
    return target if span is None else target[: span[0]] + quote(model, safe="").encode() + target[span[1] :]


def _model_span(target: bytes) -> tuple[int, int] | None:
    """Where the value stands, as it is written."""
    query_at = target.find(b"?") + 1
    if not query_at:
        return None
    found = None
    for parameter in _PARAMETER.finditer(target, query_at):
        name, _, value = parameter[0].partition(b"=")
        if unquote_plus(name.decode("latin-1"), errors="replace") != "model":
            continue
        if found is not None or target[parameter.start() - 1 : parameter.start()] == b";":
            raise invalid("'model' is given more than once, or behind a ';'.", param="model")
        found = parameter.end() - len(value), parameter.end()
    if found is not None and target[found[1] : found[1] + 1] == b";":
        raise invalid("'model' must not be followed by ';'.", param="model")
    return found
