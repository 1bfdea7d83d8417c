"""Where the parts of a chunked body end, so that each is fed to the parser alone.

llhttp judges the syntax but tells neither how much a chunk promises nor how long its extension is. Fed
line by line, both are known before the bytes they announce have come.
"""

from __future__ import annotations

import re

_SIZE = re.compile(rb"[0-9A-Fa-f]+")


class ChunkedBody:
    """Follows the framing of one chunked body.

    `promised_bytes` is what all size lines so far announce; `framing_bytes` counts size lines with their
    extensions, and trailers.
    """

    __slots__ = ("_data_left", "_is_in_trailers", "_line", "framing_bytes", "promised_bytes")

    def __init__(self) -> None:
        self._data_left = 0  # of the chunk that runs, with its line end
        self._line = b""
        self._is_in_trailers = False
        self.framing_bytes = 0
        self.promised_bytes = 0

    def part_end(self, data: bytes, at: int) -> int:
        """Where the size line, chunk or trailer line that goes on at `at` ends; at most len(data)."""
        if self._data_left:
            end = min(len(data), at + self._data_left)
            self._data_left -= end - at
            return end
        end = data.find(b"\n", at) + 1 or len(data)
        self.framing_bytes += end - at
        if not self._is_in_trailers:
            self._line += data[at:end]
            if self._line.endswith(b"\n"):
                self._begin_chunk()
        return end

    def _begin_chunk(self) -> None:
        # A line without a size is not HTTP: the parser will say so when it is fed.
        match = _SIZE.match(self._line)
        size = int(match[0], 16) if match is not None else 0
        self._line = b""
        self._is_in_trailers = size == 0
        self._data_left = size + 2 if size else 0
        self.promised_bytes += size
