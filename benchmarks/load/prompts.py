"""What the clients ask: sizes drawn from log-normal distributions, and bodies of about that size."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple

CHARS_PER_TOKEN = 4  # the usual rule of thumb for English


class Sizes(NamedTuple):
    """Of one request, in tokens."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Lognormal:
    """Whole numbers from `least` to `most`; half of the draws lie below the median."""

    median: float
    sigma: float
    least: int
    most: int

    def draw(self, random: Random) -> int:
        drawn = round(random.lognormvariate(math.log(self.median), self.sigma))
        return min(max(drawn, self.least), self.most)


@dataclass(frozen=True)
class Mix:
    """How large the requests of one kind are."""

    input_tokens: Lognormal
    output_tokens: Lognormal

    def draw(self, random: Random) -> Sizes:
        return Sizes(self.input_tokens.draw(random), self.output_tokens.draw(random))


_SHORT_ANSWER = Lognormal(8, 0.3, 4, 16)
# Prompts like those of chats and of documents; answers short enough that a run of a minute holds thousands.
CHAT = Mix(Lognormal(200, 0.8, 10, 4_000), _SHORT_ANSWER)
BATCH = Mix(Lognormal(400, 0.6, 50, 4_000), Lognormal(10, 0.3, 5, 20))
EMBEDDINGS = Mix(Lognormal(120, 0.6, 10, 2_000), Lognormal(1, 0.0, 1, 1))
LONG_PROMPT = Mix(Lognormal(8_000, 0.5, 2_000, 32_000), _SHORT_ANSWER)


def chat_body(model: str, sizes: Sizes) -> bytes:
    """A streamed chat."""
    messages = [{"role": "user", "content": _text(sizes.input_tokens)}]
    return _encoded(model, messages=messages, max_tokens=max(sizes.output_tokens, 1), stream=True)


def completion_body(model: str, sizes: Sizes) -> bytes:
    """An answer in one piece."""
    return _encoded(model, prompt=_text(sizes.input_tokens), max_tokens=max(sizes.output_tokens, 1))


def embeddings_body(model: str, sizes: Sizes) -> bytes:
    return _encoded(model, input=_text(sizes.input_tokens))


def _encoded(model: str, **fields: object) -> bytes:
    return json.dumps({"model": model, **fields}).encode()


@lru_cache(maxsize=256)
def _text(tokens: int) -> str:
    return "abc " * max(tokens, 1)
