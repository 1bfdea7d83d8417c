"""What the schema says of one field, without wrapping: for the reader of files and for the reference."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

from gateway.config.scalars import show_value

KIND_OF_TYPE: dict[type, str] = {
    inspect.StrType: "text",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.LiteralType: "text",
}


class Shape:
    """A field's own type, its description, its `kind` of value and what else `extra` says."""

    def __init__(self, declared: inspect.Type) -> None:
        self.description = ""
        self.hints: dict[str, Any] = {}
        self.type = self._peel(declared)
        self.kind: str = self.hints.get("kind") or KIND_OF_TYPE.get(type(self.type), "")

    def _peel(self, declared: inspect.Type) -> inspect.Type:
        if isinstance(declared, inspect.Metadata):
            self.description = self.description or (declared.extra_json_schema or {}).get("description", "")
            self.hints = {**(declared.extra or {}), **self.hints}
            return self._peel(declared.type)
        if isinstance(declared, inspect.UnionType):
            (given,) = (member for member in declared.types if not isinstance(member, inspect.NoneType))
            return self._peel(given)
        return declared


def out_of_range(value: Any, shape: Shape) -> tuple[str, str] | None:
    """What is wrong with a value of the right kind: a message and a fix; None when nothing is."""
    limits = shape.type
    if isinstance(limits, inspect.LiteralType):
        return _not_a_choice(str(value), [str(choice) for choice in limits.values])
    if isinstance(limits, inspect.StrType):
        return _misspelled(value, limits, shape.hints.get("must", ""))
    if isinstance(limits, inspect.IntType | inspect.FloatType):
        return _beyond(value, limits, shape.kind)
    return None


def _not_a_choice(value: str, choices: list[str]) -> tuple[str, str] | None:
    if value in choices:
        return None
    close = get_close_matches(value.lower(), choices, n=1)
    return f"must be one of {', '.join(choices)}", f"did you mean '{close[0]}'?" if close else ""


def _misspelled(value: str, limits: inspect.StrType, must: str) -> tuple[str, str] | None:
    if limits.max_length is not None and len(value) > limits.max_length:
        return f"must have at most {limits.max_length} characters", ""
    if limits.pattern is not None and re.search(limits.pattern, value) is None:
        return f"must {must}", ""
    return None


def _beyond(value: float, limits: inspect.IntType | inspect.FloatType, kind: str) -> tuple[str, str] | None:
    if limits.ge is not None and value < limits.ge:
        wanted = f"at least {show_value(kind, limits.ge)}"
    elif limits.gt is not None and value <= limits.gt:
        wanted = f"above {show_value(kind, limits.gt)}"
    elif limits.le is not None and value > limits.le:
        wanted = f"at most {show_value(kind, limits.le)}"
    else:
        return None
    return f"must be {wanted}, not {show_value(kind, value)}", ""
