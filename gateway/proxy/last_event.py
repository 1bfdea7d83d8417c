"""The end of an event stream that ends with its connection: only `data: [DONE]` tells it from a cut one.

A killed engine's kernel closes its connections as politely as an engine that has finished. Where the framing
does not say where a body ends, a FIN proves nothing (FAULTS RS-41, SS-03).
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Longer than the marker with a generous number of line ends behind it.
_TAIL_BYTES = 64
_DONE = re.compile(rb"[\r\n]data: ?\[DONE\][\r\n]*\Z")


class LastEvent:
    """Passes a stream on and remembers the end of it, however the pieces are cut."""

    __slots__ = ("_tail", "_write")

    def __init__(self, write: Callable[[bytes], None], begun: bytes) -> None:
        self._write = write
        self._tail = (b"\n" + begun)[-_TAIL_BYTES:]  # the first line begins where a line ends

    def write(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        self._write(chunk)

    @property
    def is_done(self) -> bool:
        """A line of its own, the last one: the same text inside an event's JSON does not count."""
        return _DONE.search(self._tail) is not None
