"""What the kernel knows of one connection: whether something came unasked, and what the peer has not got.

A byte that a backend writes before it has a request can't answer it. Whoever reads it later, behind the
request, would take it for the answer; the kernel still knows better (ADR 0044).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import sys
import termios

# Of a socket: the bytes written to it that the peer has not acknowledged (SIOCOUTQ). Elsewhere it means
# another thing, or nothing.
_UNACKNOWLEDGED = termios.TIOCOUTQ if sys.platform == "linux" else None
_NONE = b"\0\0\0\0"
# 0 asks for delayed acknowledgements. Linux only.
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class Wire:
    """The socket below a transport. Each question is one call into the kernel, of less than a microsecond."""

    __slots__ = ("_arrivals", "_count", "_fd", "_socket")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._fd = self._socket.fileno()
        self._arrivals: select.poll | None = None
        self._count = bytearray(_NONE)

    def is_silent(self) -> bool:
        """Whether nothing, not even an end, lies in the kernel that this loop has not come to read yet."""
        poll = self._arrivals
        if poll is None:
            poll = self._arrivals = select.poll()
            poll.register(self._fd, select.POLLIN)
        return not poll.poll(0)

    def unread_bytes(self) -> int:
        """What was written and had not reached the peer's kernel when it sent what has come last.

        Every segment of TCP acknowledges all that had arrived when it was sent, whether its program
        has looked yet or not. 0 where the system does not tell.
        """
        if _UNACKNOWLEDGED is None:
            return 0
        try:
            fcntl.ioctl(self._fd, _UNACKNOWLEDGED, self._count)
        except OSError:
            return 0
        return 0 if self._count == _NONE else int.from_bytes(self._count, sys.byteorder)

    def acknowledge_every_other(self) -> None:
        """Of small segments that come quickly one after another, every second is acknowledged (ADR 0048).

        Without this each event that is read costs a segment of its own to say so. It ends with the first
        event whose successor the kernel awaits in vain, for 40 ms.
        """
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):  # not TCP
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)
