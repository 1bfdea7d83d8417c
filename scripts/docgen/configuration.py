"""docs/configuration.md, from the types that the configuration is read into."""

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from docgen.page import NOTE, cell
from gateway.config.scalars import show_value
from gateway.config.schema import Config
from gateway.config.shapes import Shape

CONFIGURATION = f"""{NOTE}<!-- Source: gateway/config/schema.py and the schemas beside it -->

# Configuration

One YAML file. `spillway check -c FILE` names every mistake in it with its line and a fix. The smallest useful
file is `config/minimal.yaml`; `config/full.yaml` shows every key with its default.

- An unknown key is an error: a typo never becomes a default.
- **Durations** are a number and a unit: `250ms`, `2s`, `5m`, `1h`.
- **Sizes** are bytes, or a number with `KiB`, `MiB`, `GiB` or `TiB`: `700KiB`.
- `${{NAME}}` in a value is filled in from the environment; a variable that is not set is an error.
  `$${{` is a plain `${{`. Inside `{{ }}` and `[ ]` YAML needs quotes around it: `{{limit: "${{LIMIT}}"}}`.
- Paths of files are relative to the configuration file. They must be readable, and are
  read again [with this file](how-to/change-the-configuration.md).
- YAML anchors, aliases and merge keys (`<<: *name`) work; YAML 1.1's guesses do not: `off`, `10:30` or `010`
  are read as what the key expects.
"""


def configuration() -> str:
    sections = "".join(_section(*section) for section in _sections("", inspect.type_info(Config), ""))
    return CONFIGURATION + sections


def _sections(path: str, section: inspect.StructType, meaning: str) -> Iterator[tuple[str, Any, str]]:
    yield path, section, meaning or (section.cls.__doc__ or "")
    for field in section.fields:
        shape = Shape(field.type)
        below = f"{path}.{field.encode_name}".lstrip(".")
        if isinstance(shape.type, inspect.StructType):
            yield from _sections(below, shape.type, shape.description)
        elif isinstance(shape.type, inspect.VarTupleType):
            item = Shape(shape.type.item_type)
            if isinstance(item.type, inspect.StructType):
                yield from _sections(below + "[]", item.type, "")


def _section(path: str, section: inspect.StructType, meaning: str) -> str:
    rows = "".join(_row(field) for field in section.fields)
    heading = f"`{path}`" if path else "Top level"
    return f"\n## {heading}\n\n{meaning}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}"


def _row(field: inspect.Field) -> str:
    shape = Shape(field.type)
    meaning = shape.description or (shape.type.cls.__doc__ or "").split("\n")[0]
    cells = (f"`{field.encode_name}`", _type_of(shape), _default_of(field, shape), meaning)
    return "| " + " | ".join(cell(text) for text in cells) + " |\n"


WORDS = {
    "access_log": "text",
    "address": "host:port",
    "backend_url": "URL",
    "dns_name": "DNS name",
    "file": "path of a file",
    "header_name": "header name",
    "hedge_after": "`p95` or duration",
    "host": "host name",
    "integer": "whole number",
    "live_file": "path of a file",
    "model_name": "text",
    "models": "list or map",
    "network": "network",
    "plain_path": "path",
    "port_of_slice": "name or number of a port",
    "request_path": "path",
    "secret": "secret text",
    "secret_file": "path of a file",
    "state_url": "secret URL",
    "state_url_file": "path of a file",
    "url_prefix": "path",
}


def _type_of(shape: Shape) -> str:
    if isinstance(shape.type, inspect.StructType):
        return "mapping, see below"
    if isinstance(shape.type, inspect.VarTupleType):
        item = Shape(shape.type.item_type)
        return "list of " + (
            "mappings, see below" if isinstance(item.type, inspect.StructType) else _type_of(item)
        )
    if isinstance(shape.type, inspect.LiteralType):
        return " or ".join(f"`{choice}`" for choice in shape.type.values)
    return WORDS.get(shape.kind, shape.kind) + _range_of(shape)


def _range_of(shape: Shape) -> str:
    limits = shape.type
    if not isinstance(limits, inspect.IntType | inspect.FloatType):
        return ""
    bounds = (("from", limits.ge), ("above", limits.gt), ("to", limits.le))
    words = [f"{word} {show_value(shape.kind, bound)}" for word, bound in bounds if bound is not None]
    return f", {' '.join(words)}" if words else ""


def _default_of(field: inspect.Field, shape: Shape) -> str:
    if field.required:
        return "required"
    if isinstance(shape.type, inspect.StructType | inspect.DictType) or field.default is None:
        return "—"
    if isinstance(field.default, tuple):
        return f"`[{', '.join(map(str, field.default))}]`"
    return f"`{show_value(shape.kind, field.default)}`"
