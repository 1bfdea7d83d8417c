"""A keep-alive peer repeats its head byte for byte, but for the length of the body.

Such a message need not be parsed again: the same bytes at the same place mean what they meant the first
time, when the strict parser read them. Only the digits of Content-Length may differ. This saves about half
of what a short request costs (benchmarks/hot_path.py), and can never accept what the parser would refuse.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})\r\n")
_MAX_DIGITS = 15


class RepeatedHead:
    """The last head of a connection, split around the digits of its Content-Length."""

    __slots__ = ("_after", "_before")

    def __init__(self) -> None:
        self._before = b"\0"  # no message begins so
        self._after = b""

    def learn(self, message: bytes) -> None:
        """`message` begins with a whole head that the strict parser took; one of another form is not kept."""
        end = message.find(b"\r\n\r\n") + 4
        match = _LENGTH.search(message, 0, end - 2)
        if match is not None and end >= 4:
            self._before = message[: match.start(1)]
            self._after = message[match.end(1) : end]

    def body_start(self, message: bytes) -> int:
        """Where the body begins, if this is the same head and the body is whole; else 0."""
        before, after = self._before, self._after
        if not message.startswith(before):
            return 0
        digits_at = len(before)
        digits_end = message.find(b"\r", digits_at, digits_at + _MAX_DIGITS + 1)
        if digits_end < 0 or not message.startswith(after, digits_end):
            return 0
        digits = message[digits_at:digits_end]
        start = digits_end + len(after)
        return start if digits.isdigit() and int(digits) == len(message) - start else 0
