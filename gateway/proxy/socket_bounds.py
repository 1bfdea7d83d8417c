"""What the kernel may keep for one connection, so that a side that does not read costs no more than that.

Left alone it keeps up to net.ipv4.tcp_wmem (4 MiB) of an answer for a client that reads nothing, for minutes
after the connection is closed, and takes as much and more from its backend. A few hundred such clients use up
the memory for TCP that all connections of a machine share; then everybody's packets are dropped
(benchmarks/README.md, slow_clients).
"""

from __future__ import annotations

import asyncio
import socket
import struct

# Written and not sent yet. What is on its way comes on top, bounded by the other side's window: so no link is
# slower for it, however long. Half of it is what a loop that is late by 1 ms sends at 500 Mbit/s.
UNSENT_BYTES = 128 * 1024
# Received and not read yet; the kernel doubles it for its own overhead. Over 70 ms, Europe to America, this
# much a round trip is 22 Mbit/s or more on each connection.
UNREAD_BYTES = 192 * 1024
_THROW_AWAY = struct.pack("ii", 1, 0)


def bound_accepted(listener: socket.socket, write_s: float) -> None:
    """For what `listener` accepts from now on: the connections inherit it.

    The kernel itself ends one whose client has read nothing for `write_s`: after a close nobody else would.
    """
    _bound(listener)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(int(write_s * 1000), 1))


def bound_made(transport: asyncio.BaseTransport) -> None:
    """For a connection that we have made."""
    if not transport.is_closing():
        _bound(transport.get_extra_info("socket"))


def reset(transport: asyncio.Transport) -> None:
    """Closes at once, and has the kernel throw away what it was to send: nobody reads it."""
    if (connected := transport.get_extra_info("socket")) is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _THROW_AWAY)
    transport.abort()


def _bound(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
