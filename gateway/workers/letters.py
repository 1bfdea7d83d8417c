"""What goes through the socket between the parent and a worker. It holds secrets: no argument, no file.

The first letter is the worker's configuration and place; it answers `ready`. Each further one is a
configuration to adopt, with a number that the answer repeats: `adopted 3`, or `refused 3 because ...`.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import Any

from gateway.config.schema import Config

READY = b"ready\n"
# A line that the parent reads whole; a reason can name every problem of a large file.
MAX_REASON_CHARS = 2000
_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Letter:
    """A configuration that is to be adopted; `generation` is what the operator knows it by."""

    number: int
    config: Config
    generation: int


def framed(content: object) -> bytes:
    written = pickle.dumps(content)
    return _LENGTH.pack(len(written)) + written


class Letters:
    """Takes letters out of a stream of bytes, however it is cut."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> None:
        self._begun += data

    def next(self) -> Any:
        """The next letter that is whole, or None."""
        if len(self._begun) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._begun)[0]
        if len(self._begun) < end:
            return None
        written = bytes(self._begun[_LENGTH.size : end])
        del self._begun[:end]
        return pickle.loads(written)


def adopted(number: int) -> bytes:
    return b"adopted %d\n" % number


def refused(number: int, reason: str) -> bytes:
    shown = " ".join(reason.split())[:MAX_REASON_CHARS]
    return f"refused {number} {shown}\n".encode("utf-8", "replace")


def read_answer(line: bytes) -> tuple[int, str | None]:
    """Its number, and why it was refused, if it was. Raises ValueError for what is no answer."""
    verdict, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
    number, _, reason = rest.partition(" ")
    if verdict not in ("adopted", "refused"):
        raise ValueError(f"no answer to a letter: {verdict!r}")
    return int(number), reason if verdict == "refused" else None
