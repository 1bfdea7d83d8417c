"""A keep-alive peer repeats its head byte for byte, but for the length of the body.

Such a message need not be parsed again: the same bytes at the same place mean what they meant the first
time, when the strict parser read them. Only the digits of Content-Length may differ. This saves about half
of what a short request costs (benchmarks/hot_path.py), and can never accept what the parser would refuse.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,15})\r\n")


class RepeatedHead:
    """The last head of a connection, and where the digits of its Content-Length stand.

    How long a message is tells what these digits must be: so its whole head is known, and one comparison is
    enough.
    """

    __slots__ = ("_digits_at", "_digits_end", "_head", "_length")

    def __init__(self) -> None:
        self._head = b"\0"  # no message begins so
        self._length = -1
        self._digits_at = self._digits_end = 0

    def learn(self, message: bytes) -> None:
        """`message` begins with a whole head that the strict parser took; one of another form is not kept."""
        end = message.find(b"\r\n\r\n") + 4
        match = _LENGTH.search(message, 0, end - 2)
        if match is not None and end >= 4:
            self._head = message[:end]
            self._length = int(match[1])
            self._digits_at, self._digits_end = match.span(1)

    def body_start(self, message: bytes) -> int:
        """Where the body begins, if this is the same head and the body is whole; else 0."""
        head = self._head
        start = len(head)
        length = len(message) - start
        if length != self._length:
            at, end = self._digits_at, self._digits_end
            digits = b"%d" % length
            if more := len(digits) - (end - at):
                start += more
                length -= more
                digits = b"%d" % length
                if len(digits) - (end - at) != more:
                    return 0  # too near to a power of ten: the parser knows
            self._head = head = head[:at] + digits + head[end:]
            self._length = length
            self._digits_end = at + len(digits)
        return start if message[:start] == head else 0
