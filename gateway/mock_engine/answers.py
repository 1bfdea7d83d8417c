"""Bodies of answers in the shapes of the OpenAI API: whole, and as server-sent events.

The text of a generation of n tokens is ``t0 t1 ... t(n-1)``: a lost, doubled or reordered chunk shows.
"""

import base64
import hashlib
import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import orjson

from gateway.mock_engine.fields import CHARS_PER_TOKEN, BadRequest, output_tokens_of, positive, text_length

DEFAULT_OUTPUT_TOKENS = 16
DEFAULT_DIMENSIONS = 8
DONE = b"data: [DONE]\n\n"

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MODEL_PATHS = frozenset({CHAT, COMPLETIONS, EMBEDDINGS})


class Answer(Protocol):
    """An answer still to be generated: its size in tokens, and its bytes."""

    input_tokens: int
    output_tokens: int
    is_streamed: bool
    finish_reason: str

    def body(self) -> bytes:
        """The whole answer as one JSON document."""

    def chunk(self, index: int) -> bytes:
        """The event or events that carry token `index`, counted from 0."""

    def tail(self) -> bytes:
        """What follows the last token."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What makes one answer distinct: its number in this process, and Unix seconds."""

    number: int
    created: int


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error as OpenAI's API shapes it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def models_body(models: tuple[str, ...], owner: str) -> bytes:
    """GET /v1/models."""
    return orjson.dumps({"object": "list", "data": [model_entry(model, owner) for model in models]})


def model_entry(model: str, owner: str) -> dict[str, Any]:
    """One entry of /v1/models."""
    return {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": owner}


def read_answer(path: str, document: Mapping[str, Any], model: str, stamp: Stamp) -> Answer:
    """The answer to generate for one of MODEL_PATHS. Raises BadRequest."""
    if path == EMBEDDINGS:
        return EmbeddingsAnswer(document, model)
    return TextAnswer(CHAT_SHAPE if path == CHAT else COMPLETION_SHAPE, document, model, stamp)


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the chat and the completion endpoint differ."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    prompt_field: str


CHAT_SHAPE = Shape("chatcmpl", "chat.completion", "chat.completion.chunk", "messages")
COMPLETION_SHAPE = Shape("cmpl", "text_completion", "text_completion", "prompt")
# Stands for the token's text in a chunk that is encoded once and filled in per token.
_HOLE = "\ue000"
_HOLE_BYTES = _HOLE.encode()


class TextAnswer:
    """An answer of /v1/chat/completions or /v1/completions."""

    def __init__(self, shape: Shape, document: Mapping[str, Any], model: str, stamp: Stamp) -> None:
        if shape.prompt_field not in document:
            raise BadRequest(f"{shape.prompt_field}: missing", shape.prompt_field)
        self._shape = shape
        self._model = model
        self._created = stamp.created
        self._id = f"{shape.id_prefix}-mock-{stamp.number}"
        self.input_tokens = max(1, text_length(document[shape.prompt_field]) // CHARS_PER_TOKEN)
        asked_tokens = output_tokens_of(document)
        self.output_tokens = DEFAULT_OUTPUT_TOKENS if asked_tokens is None else asked_tokens
        self.finish_reason = "stop" if asked_tokens is None else "length"
        self.is_streamed = document.get("stream") is True
        options = document.get("stream_options")
        self._includes_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._before, self._after = b"", b""

    def body(self) -> bytes:
        """The whole answer."""
        text = _text(self.output_tokens)
        choice: dict[str, Any] = {"index": 0}
        if self._shape is CHAT_SHAPE:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice["logprobs"] = None
        choice["finish_reason"] = self.finish_reason
        document = self._document(self._shape.whole_object, [choice])
        document["usage"] = self._usage()
        return orjson.dumps(document)

    def chunk(self, index: int) -> bytes:
        """Token `index`; before the first a chat's role, with the last the finish reason."""
        if index == self.output_tokens - 1:
            delta = self._delta(f"t{index} ", self.finish_reason)
            return self._opening(index) + b"data: " + orjson.dumps(delta) + b"\n\n"
        if not self._before:
            event = b"data: " + orjson.dumps(self._delta(_HOLE, None)) + b"\n\n"
            self._before, self._after = event.rsplit(_HOLE_BYTES, 1)
        return self._opening(index) + b"%bt%d %b" % (self._before, index, self._after)

    def tail(self) -> bytes:
        """Usage, if asked for, and the end mark."""
        if not self._includes_usage:
            return DONE
        document = self._document(self._shape.chunk_object, [])
        document["usage"] = self._usage()
        return b"data: " + orjson.dumps(document) + b"\n\n" + DONE

    def _opening(self, index: int) -> bytes:
        if index or self._shape is not CHAT_SHAPE:
            return b""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return b"data: " + orjson.dumps(self._document(self._shape.chunk_object, [choice])) + b"\n\n"

    def _delta(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        part: dict[str, Any] = {"delta": {"content": text}} if self._shape is CHAT_SHAPE else {"text": text}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": finish_reason}
        return self._document(self._shape.chunk_object, [choice])

    def _document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class EmbeddingsAnswer:
    """An answer of /v1/embeddings: vectors derived from each input's hash."""

    output_tokens = 1  # the engine needs one step after the prefill at most; nothing is decoded
    is_streamed = False
    finish_reason = "stop"

    def __init__(self, document: Mapping[str, Any], model: str) -> None:
        if "input" not in document:
            raise BadRequest("input: missing", "input")
        inputs = document["input"]
        is_many = isinstance(inputs, list) and inputs and not isinstance(inputs[0], int)
        self._inputs = inputs if is_many else [inputs]
        self._model = model
        self._is_base64 = document.get("encoding_format") == "base64"
        self._dimensions = positive(document, "dimensions") or DEFAULT_DIMENSIONS
        self.input_tokens = max(1, sum(map(text_length, self._inputs)) // CHARS_PER_TOKEN)

    def body(self) -> bytes:
        """The whole answer."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._embedding(text)}
            for index, text in enumerate(self._inputs)
        ]
        usage = {"prompt_tokens": self.input_tokens, "total_tokens": self.input_tokens}
        return orjson.dumps({"object": "list", "data": data, "model": self._model, "usage": usage})

    def chunk(self, index: int) -> bytes:
        """Never streamed."""
        raise NotImplementedError

    def tail(self) -> bytes:
        """Never streamed."""
        raise NotImplementedError

    def _embedding(self, text: object) -> str | list[float]:
        digest = hashlib.sha256(orjson.dumps(text)).digest()
        cycle = itertools.islice(itertools.cycle(digest), self._dimensions)
        vector = [byte / 128.0 - 1.0 for byte in cycle]
        if not self._is_base64:
            return vector
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class EchoAnswer:
    """An answer that says what arrived: the echo header, and every path without a shape of its own."""

    output_tokens = 1
    is_streamed = False
    finish_reason = "stop"

    def __init__(self, document: Mapping[str, Any], input_bytes: int) -> None:
        self._document = document
        self.input_tokens = max(1, input_bytes // CHARS_PER_TOKEN)

    def body(self) -> bytes:
        """The whole answer."""
        return orjson.dumps(self._document)

    def chunk(self, index: int) -> bytes:
        """Never streamed."""
        raise NotImplementedError

    def tail(self) -> bytes:
        """Never streamed."""
        raise NotImplementedError


@lru_cache(maxsize=256)
def _text(tokens: int) -> str:
    return "".join(f"t{index} " for index in range(tokens))
