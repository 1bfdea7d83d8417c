"""The keys of the configuration as a JSON Schema, for editors and for the chart's values.schema.json.

It knows names, sections, lists and choices, so that a typo is refused where no gateway is at hand. What
a value may be, and which values go together, only `spillway check` knows: it reads as the gateway does.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import inspect

from gateway.config.schema import Config
from gateway.config.shapes import Shape

JsonSchema = dict[str, Any]


def config_key_schema() -> JsonSchema:
    """The schema of the whole file. `clusters` is not required: `{}` is a good place to begin to type."""
    schema = _section(inspect.type_info(Config))
    schema.pop("required", None)
    return schema


def _section(section: inspect.Type) -> JsonSchema:
    assert isinstance(section, inspect.StructType)
    required = [field.encode_name for field in section.fields if field.required]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.encode_name: _described(field) for field in section.fields},
        **({"required": required} if required else {}),
    }


def _described(field: inspect.Field) -> JsonSchema:
    shape = Shape(field.type)
    return {"description": shape.description, **_value(shape)} if shape.description else _value(shape)


def _value(shape: Shape) -> JsonSchema:
    match shape.type:
        case inspect.StructType():
            # A section that is left empty in YAML is null.
            return {**_section(shape.type), "type": ["object", "null"]}
        case inspect.VarTupleType():
            return {"type": "array", "items": _item(Shape(shape.type.item_type))}
        case inspect.LiteralType() if not shape.hints.get("kind"):
            # Or a text that the environment completes.
            choices = "|".join(map(re.escape, map(str, shape.type.values)))
            return {"type": "string", "pattern": rf"^({choices}|.*\$\{{.*)$"}
    # Durations, sizes and ${NAME} are texts or numbers: only the gateway reads them.
    return {}


def _item(shape: Shape) -> JsonSchema:
    """An item of a list; a text may stand for a section, as a URL does for a backend."""
    if isinstance(shape.type, inspect.StructType):
        return {**_section(shape.type), "type": ["object", "string"]}
    return _value(shape)
