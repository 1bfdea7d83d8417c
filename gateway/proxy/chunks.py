"""Chunked bodies: where the parts of one end, and which segments are one whole chunk as we would write it.

A client's body is fed to the parser part by part: llhttp judges the syntax but tells neither how much a chunk
promises nor how long its extension is. Fed line by line, both are known before the bytes they announce come.
"""

from __future__ import annotations

import re

# By the length of a segment, how it begins if it is exactly one chunk as we frame it: the size in lower-case
# hex, no leading zero, no extension. A length gives one size at most. Where it gives none, as for the last
# chunk of size 0, the entry is longer than the segment, so that nothing begins so.
MAX_WHOLE_CHUNK_BYTES = 4096  # events are smaller
WHOLE_CHUNK_STARTS = [bytes(length + 1) for length in range(MAX_WHOLE_CHUNK_BYTES + 1)]
for _size in range(1, MAX_WHOLE_CHUNK_BYTES):
    _start = b"%x\r\n" % _size
    if (_length := len(_start) + _size + 2) <= MAX_WHOLE_CHUNK_BYTES:
        WHOLE_CHUNK_STARTS[_length] = _start

# Sizes by their line, as they come to be known; a backend must not fill memory with them.
_sizes: dict[bytes, int] = {}
_MAX_KNOWN_SIZES = 4096


def plain_chunks(data: bytes) -> tuple[bytes, int]:
    """Several whole chunks, or one in another spelling: as we frame them, and how many bytes they carry.

    `data` begins between two chunks and ends with a line end. Empty when there is anything else in it: an
    extension, the last chunk, a part of a chunk.
    """
    length = len(data)
    if length <= MAX_WHOLE_CHUNK_BYTES:
        start = WHOLE_CHUNK_STARTS[length]
        if data[: len(start)].lower() == start:  # hyper writes A for a
            return start + data[len(start) :], length - len(start) - 2
    at = carried = 0
    while at < length:
        line_end = data.find(b"\r\n", at, at + 6)
        if line_end < 0:
            return b"", 0
        line = data[at:line_end]
        size = _sizes.get(line) or _learn_size(line)
        at = line_end + size + 4
        if not size or data[at - 2 : at] != b"\r\n":
            return b"", 0
        carried += size
    return data, carried


def _learn_size(line: bytes) -> int:
    """0 for a line that is not just as we would write it."""
    try:
        size = int(line, 16)
    except ValueError:
        return 0
    if b"%x" % size != line:  # what int() takes besides: blanks, signs, 0x, zeros, _, capitals
        return 0
    if len(_sizes) < _MAX_KNOWN_SIZES:
        _sizes[line] = size
    return size


_SIZE = re.compile(rb"[0-9A-Fa-f]+")


# A size with its extension, and all trailers together: nobody who means well sends more.
MAX_SIZE_LINE_BYTES = 4096
MAX_TRAILER_BYTES = 8190


class ChunkedBody:
    """Follows the framing of one chunked body.

    `promised_bytes` is what all size lines so far announce; `framing_bytes` counts size lines with their
    extensions, and trailers. Once `is_overlong`, a size line or the trailers are larger than they may be.
    """

    __slots__ = (
        "_data_left",
        "_is_in_trailers",
        "_line",
        "_trailer_bytes",
        "framing_bytes",
        "is_overlong",
        "promised_bytes",
    )

    def __init__(self) -> None:
        self._data_left = 0  # of the chunk that runs, with its line end
        self._line = b""
        self._is_in_trailers = False
        self._trailer_bytes = 0
        self.is_overlong = False
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
        if self._is_in_trailers:
            self._trailer_bytes += end - at
            self.is_overlong = self._trailer_bytes > MAX_TRAILER_BYTES
            return end
        self._line += data[at : min(end, at + MAX_SIZE_LINE_BYTES + 1)]
        if len(self._line) > MAX_SIZE_LINE_BYTES:
            self.is_overlong = True
        elif self._line.endswith(b"\n"):
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
