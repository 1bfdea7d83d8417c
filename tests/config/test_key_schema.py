"""The JSON Schema of the keys: it takes what the gateway takes, and names a typo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.config.key_schema import config_key_schema

EXAMPLES = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
HERE = {"name": "here", "limit": 8, "backends": ["http://a:1"]}


@pytest.fixture(scope="module")
def schema() -> Any:
    return jsonschema.Draft7Validator(config_key_schema())


def complaints(schema: Any, config: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(config)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_configurations_fit(schema: Any, path: Path) -> None:
    assert complaints(schema, yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"cluster": []}, "$: Additional properties are not allowed ('cluster' was unexpected)"),
        ({"clusters": [{**HERE, "limits": 9}]}, "$.clusters[0]: Additional properties are not allowed"),
        ({"clusters": [{"limit": 8}]}, "$.clusters[0]: 'name' is a required property"),
        ({"clusters": [{**HERE, "backends": "http://a:1"}]}, "$.clusters[0].backends: 'http://a:1' is not"),
        ({"clusters": [{**HERE, "backends": [{"limit": 8}]}]}, "'url' is a required property"),
        ({"cluster_policy": "weigth"}, "$.cluster_policy: 'weigth' does not match"),
    ],
)
def test_a_typo_is_named(schema: Any, config: Any, complaint: str) -> None:
    assert [found for found in complaints(schema, config) if complaint in found]


@pytest.mark.parametrize(
    "config",
    [
        {"timeouts": None},
        {"cluster_policy": "${POLICY}"},
        {"workers": "${WORKERS}"},
        {"clusters": [{**HERE, "models": {"mine": "theirs"}, "backends": ["${URL}"]}]},
    ],
)
def test_what_only_the_gateway_can_judge_passes(schema: Any, config: Any) -> None:
    assert complaints(schema, config) == []
