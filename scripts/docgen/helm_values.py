"""docs/helm-values.md and the part of the chart's values schema that is the gateway's own, from the chart."""

import json
from collections.abc import Iterator

from docgen.page import NOTE, ROOT, cell
from gateway.config.key_schema import config_key_schema

CHART = "helm/spillway"
VALUES_SCHEMA = f"{CHART}/values.schema.json"


def values_schema() -> str:
    """The chart's schema as it stands, with the part that is the gateway's own made anew."""
    schema = json.loads((ROOT / VALUES_SCHEMA).read_text(encoding="utf-8"))
    schema["properties"]["config"] = config_key_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def helm_values() -> str:
    values = (ROOT / CHART / "values.yaml").read_text(encoding="utf-8").rstrip()
    schema = json.loads((ROOT / VALUES_SCHEMA).read_text(encoding="utf-8"))
    own = {key: below for key, below in schema["properties"].items() if key != "config"}
    rows = "".join(f"| `{path}` | {cell(words)} |\n" for path, words in _accepted("", own))
    return f"""{NOTE}<!-- Source: {CHART}/values.yaml and {VALUES_SCHEMA} -->

# Helm values

What the chart can be told, with its defaults; [install with Helm](how-to/install-with-helm.md) tells how. A key that
is not here, or a value that is not accepted, ends `helm install` before anything is changed. What stands below `config`
is [the configuration](configuration.md).

## Defaults

```yaml
{values}
```

## What is accepted

Keys that take any text, list or map of their kind are left out.

| key | accepted |
|---|---|
{rows}"""


def _accepted(path: str, properties: dict[str, dict[str, object]]) -> Iterator[tuple[str, str]]:
    for key, schema in properties.items():
        below = schema.get("properties")
        name = f"{path}.{key}".lstrip(".")
        if isinstance(below, dict):
            yield from _accepted(name, below)
        elif words := _words(schema):
            yield name, words


def _words(schema: dict[str, object]) -> str:
    if isinstance(choices := schema.get("enum"), list):
        return " or ".join(f"`{choice}`" if choice else "nothing" for choice in choices)
    if schema.get("type") == "boolean":
        return "`true` or `false`"
    bounds = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
    words = [f"{word} {schema[key]}" for key, word in bounds if key in schema]
    if "pattern" in schema:
        words += ["or"] * bool(words) + [f"text like `{schema['pattern']}`"]
    return " ".join(words)
