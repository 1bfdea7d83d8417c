"""Reading the fields of a request's JSON body: each reader names the field that it refuses."""

from collections.abc import Mapping
from typing import Any

import orjson

MAX_OUTPUT_TOKENS = 1_000_000
CHARS_PER_TOKEN = 4  # the usual rule of thumb for English


class BadRequest(ValueError):
    """The request's body cannot be served; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def read_document(body: bytes) -> dict[str, Any]:
    """The decoded JSON body. Raises BadRequest."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"the body is not valid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return document


def model_of(document: Mapping[str, Any], default: str) -> str:
    """The model asked for. Raises BadRequest when it is not a string."""
    model = document.get("model", default)
    if not isinstance(model, str):
        raise BadRequest("model: must be a string", "model")
    return model


def output_tokens_of(document: Mapping[str, Any]) -> int | None:
    """How many tokens the request allows; None when it does not say. Raises BadRequest."""
    for field in ("max_completion_tokens", "max_tokens"):
        tokens = positive(document, field)
        if tokens is not None:
            return tokens
    return None


def positive(document: Mapping[str, Any], field: str) -> int | None:
    """A field that counts something, if present. Raises BadRequest."""
    value = document.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_OUTPUT_TOKENS:
        raise BadRequest(f"{field}: must be an integer from 1 to {MAX_OUTPUT_TOKENS}", field)
    return value


def text_length(value: object) -> int:
    """Characters of text anywhere inside a prompt; a number counts as one token."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int | float):
        return CHARS_PER_TOKEN
    if isinstance(value, dict):
        return text_length(value.get("content", value.get("text", "")))
    if isinstance(value, list):
        return sum(map(text_length, value))
    return 0
