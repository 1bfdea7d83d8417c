"""docs/redis-keys.md, from the top of gateway/state/keys.py."""

import inspect
import re
from textwrap import dedent

from docgen.page import NOTE, cell
from gateway.state import keys


def redis_keys() -> str:
    first, _, rest = (keys.__doc__ or "").strip().partition(" One fleet's")
    rows = "".join(f"| `{word}` | {cell(follows)} |\n" for word, follows in _news())
    return f"""{NOTE}<!-- Source: gateway/state/keys.py -->

# Redis keys

{first} One fleet's{"".join(_block(block) for block in rest.split(chr(10) * 2))}## The news channel

Each message is an array: its kind, the gateway that tells it, and what follows.

| kind | what follows, and why |
|---|---|
{rows}
How to set a Redis up for this: [share limits](how-to/share-limits.md).
"""


def _block(text: str) -> str:
    """Indented lines are the schema itself."""
    return f"```\n{dedent(text)}\n```\n\n" if text.startswith("    ") else f"{text}\n\n"


def _news() -> list[tuple[str, str]]:
    """The kinds with their comments, which are the only place where the messages are told."""
    found = re.findall(r'= "(\w+)"  # (.+)', inspect.getsource(keys.NewsKind))
    assert len(found) == len(keys.NewsKind), "a kind of news has no comment beside it"
    return found
