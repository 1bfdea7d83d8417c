"""Nodes to settings, guided by the schema. A bad value is noted and left out, and reading goes on."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

from msgspec import Struct, inspect
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from gateway.config.document import is_merge, is_null, line_of
from gateway.config.problems import BadValue, Problem
from gateway.config.rules import RULES
from gateway.config.scalars import READERS, Scalar, Surroundings, fill_in
from gateway.config.shapes import Shape, out_of_range

BROKEN = object()
# A message quotes what stands in the file, which may be a whole certificate.
MAX_MESSAGE_CHARS = 200

_A_NODE = {ScalarNode: "one value", SequenceNode: "a list", MappingNode: "a mapping"}


class Origin(NamedTuple):
    """Where a section stands in the file, and where each of its values does."""

    section: Struct
    path: str
    line: int
    lines: dict[str, int]


class Reading:
    """One pass over one file: `read` gives the value, `problems` what was wrong."""

    def __init__(self, source: str, around: Surroundings) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._around = around
        self._origins: dict[int, Origin] = {}
        # Keys misspelled with a clear suggestion: that they are missing is not said again.
        self._excused: set[str] = set()

    def read(self, node: Node, declared: inspect.Type, path: str) -> Any:
        """The value at `node`, or BROKEN after noting why not."""
        shape = Shape(declared)
        if isinstance(shape.type, inspect.StructType):
            return self._read_section(node, shape, path)
        if is_null(node):
            return self._note(node, path, "has no value", "give it one, or remove the key")
        if isinstance(shape.type, inspect.VarTupleType):
            return self._read_list(node, shape, path)
        if isinstance(shape.type, inspect.DictType):
            return self._read_models(node, shape, path)
        return self._read_scalar(node, shape, path)

    # --- for rules: problems of sections that were read ------------------------------------------------

    def complain(self, section: Struct, key: str, message: str, fix: str = "") -> None:
        """Notes a problem of a section's value (or of the section, with an empty key), once."""
        origin = self._origins[id(section)]
        if not self.has_problem(section, key):
            line = origin.lines.get(key, origin.line)
            self._add(line, _join(origin.path, key), message, fix)

    def has_problem(self, section: Struct, key: str) -> bool:
        """Is something wrong with that value already?"""
        path = _join(self._origins[id(section)].path, key)
        below = (path + ".", path + "[")
        return path in self._excused or any(p.path == path or p.path.startswith(below) for p in self.problems)

    def is_given(self, section: Struct, key: str) -> bool:
        """Does that value stand in the file, right or wrong?"""
        return key in self._origins[id(section)].lines

    def lines(self) -> dict[str, int]:
        """The line of each setting and section in the file, by its path such as `admin.listen`."""
        sections = {origin.path: origin.line for origin in self._origins.values()}
        return sections | {
            _join(origin.path, key): line
            for origin in self._origins.values()
            for key, line in origin.lines.items()
        }

    # --- sections ---------------------------------------------------------------------------------------

    def _read_section(self, node: Node, shape: Shape, path: str) -> Any:
        expected = cast(inspect.StructType, shape.type)
        shorthand = shape.hints.get("shorthand")
        lines: dict[str, int] = {}
        values: dict[str, Any] = {}
        fields = {field.encode_name: field for field in expected.fields}
        if shorthand and isinstance(node, ScalarNode):
            field = fields[shorthand]
            values[field.name] = self.read(node, field.type, path)
        elif isinstance(node, MappingNode) or is_null(node):
            for key, key_node, value_node in self._entries(node, path):
                lines[key] = line_of(value_node)
                if key in fields:
                    field = fields[key]
                    values[field.name] = self.read(value_node, field.type, _join(path, key))
                else:
                    self._note_unknown(key, key_node, path, list(fields))
        else:
            return self._note(node, path, f"must be a mapping, not {_A_NODE[type(node)]}")
        return self._build(expected, Origin(Struct(), path, line_of(node), lines), values)

    def _build(self, expected: inspect.StructType, origin: Origin, values: dict[str, Any]) -> Any:
        """The section with its good values; BROKEN when a required one is missing or bad."""
        good = {name: value for name, value in values.items() if value is not BROKEN}
        missing = [f for f in expected.fields if f.required and f.name not in good]
        for field in missing:
            path = _join(origin.path, field.encode_name)
            if field.name not in values and path not in self._excused:
                self._add(origin.line, path, "is required", "")
        if missing:
            return BROKEN
        section = expected.cls(**good)
        self._origins[id(section)] = origin._replace(section=section)
        if (rule := RULES.get(expected.cls)) is not None:
            rule(section, self)
        return section

    def _note_unknown(self, key: str, key_node: Node, path: str, known: list[str]) -> None:
        close = get_close_matches(key.lower(), known, n=1)
        if close:
            self._excused.add(_join(path, close[0]))
        fix = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(sorted(known))}"
        self._note(key_node, _join(path, key), "unknown key", fix)

    def _entries(self, node: Node, path: str) -> Iterator[tuple[str, Node, Node]]:
        """Keys with their nodes, each key once; entries taken over by `<<` come last."""
        seen: dict[str, int] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value if isinstance(node, MappingNode) else ():
            if is_merge(key_node):
                merged.append(value_node)
            elif not isinstance(key_node, ScalarNode):
                self._note(key_node, path, "has a key that is not plain text")
            elif (key := str(key_node.value)) in seen:
                self._note(
                    key_node, _join(path, key), f"is given twice, first in line {seen[key]}", "remove one"
                )
            else:
                seen[key] = line_of(key_node)
                yield key, key_node, value_node
        for value_node in merged:
            yield from self._merged(value_node, path, seen)

    def _merged(self, node: Node, path: str, seen: dict[str, int]) -> Iterator[tuple[str, Node, Node]]:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, MappingNode):
                self._note(source, path, "'<<' takes a mapping or a list of them")
                continue
            for key, key_node, value_node in self._entries(source, path):
                if key not in seen:
                    seen[key] = line_of(key_node)
                    yield key, key_node, value_node

    # --- lists, maps and single values --------------------------------------------------------------------

    def _read_list(self, node: Node, shape: Shape, path: str) -> Any:
        expected = cast(inspect.VarTupleType, shape.type)
        if not isinstance(node, SequenceNode):
            return self._note(
                node, path, f"must be a list, not {_A_NODE[type(node)]}", "begin each entry with '- '"
            )
        if len(node.value) < (expected.min_length or 0):
            return self._note(node, path, "must have at least 1 entry")
        values: list[Any] = []
        seen: set[Any] = set()
        for index, item in enumerate(node.value):
            at = f"{path}[{index}]"
            value = self.read(item, expected.item_type, at)
            if value is BROKEN:
                continue
            if shape.hints.get("unique") and value in seen:
                self._note(item, at, "is listed twice", "remove one")
            elif shape.hints.get("unique"):
                seen.add(value)
            values.append(value)
        return tuple(values)

    def _read_models(self, node: Node, shape: Shape, path: str) -> Any:
        """A list of names is a map in which the backends know each model by the same name."""
        if not isinstance(node, SequenceNode | MappingNode):
            return self._note(node, path, "must be a list of names, or a map, not one value", "write [name]")
        if not node.value:
            return self._note(
                node, path, "must have at least 1 entry", "leave the key out to serve any model"
            )
        models: dict[str, str | None] = {}
        if isinstance(node, MappingNode):
            for key, key_node, value_node in self._entries(node, path):
                at = _join(path, key)
                client_name = self._read_kind(key_node, "model_pattern", at)
                if is_null(value_node):
                    self._note(value_node, at, "has no value", "write the name that the backends know")
                else:
                    models[client_name] = self._read_kind(value_node, "model_name", at)
            return models
        for index, item in enumerate(node.value):
            name = self._read_kind(item, "model_pattern", f"{path}[{index}]")
            if name in models:
                self._note(item, f"{path}[{index}]", "is listed twice", "remove one")
            models[name] = None
        return models

    def _read_scalar(self, node: Node, shape: Shape, path: str) -> Any:
        value = self._read_kind(node, shape.kind, path)
        if value is not BROKEN and (wrong := out_of_range(value, shape)):
            return self._note(node, path, *wrong)
        return value

    def _read_kind(self, node: Node, kind: str, path: str) -> Any:
        if not isinstance(node, ScalarNode):
            return self._note(node, path, f"must be one value, not {_A_NODE[type(node)]}")
        scalar = Scalar("", "")
        try:
            scalar = fill_in(str(node.value), node.style is not None, self._around.environment)
            return READERS[kind](scalar, self._around)
        except BadValue as exc:
            return self._note(node, path, scalar.without_filled(exc.message), scalar.without_filled(exc.fix))

    def _note(self, node: Node, path: str, message: str, fix: str = "") -> object:
        self._add(line_of(node), path, message, fix)
        return BROKEN

    def _add(self, line: int, path: str, message: str, fix: str) -> None:
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[:MAX_MESSAGE_CHARS] + "..."
        self.problems.append(Problem(self._source, line, path, message, fix))


def _join(path: str, key: str) -> str:
    shown = key if key.isprintable() and len(key) <= 60 else f"{key[:60]!a}"
    return f"{path}.{shown}" if path and key else path or shown
