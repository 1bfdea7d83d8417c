"""A request to explain, as the command line and the query of `/api/v1/explain` give it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ExplainQuery:
    """`model` None: the request names none. `draw` None: the likeliest of many.

    `key`: the name of the client key's owner, never the key. None: whoever is kept to nothing.
    """

    model: str | None
    headers: tuple[Header, ...] = ()
    draw: int | None = None
    key: str | None = None

    @property
    def path(self) -> str:
        """Where an admin port tells it."""
        query = [("model", self.model)] if self.model is not None else []
        query += [("header", f"{name}:{value}") for name, value in self.headers]
        query += [("draw", str(self.draw))] if self.draw is not None else []
        query += [("key", self.key)] if self.key is not None else []
        return "/api/v1/explain" + ("?" + urlencode(query) if query else "")


def parse_header(text: str) -> Header:
    """`name:value`. Raises ValueError."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"must be name:value, such as x-spillway-deadline:30, not {text!r}")
    return name.strip(), value.strip()


def parse_draw(text: str) -> int:
    """64 bits. Raises ValueError."""
    # isdecimal alone lets digits of other scripts pass, and int() reads a text of any length.
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < 2**64):
        raise ValueError("must be a whole number below 2**64")
    return int(text)
