"""The sockets of the data port: opened once, and closed so that nobody who got through the door is lost."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

from gateway.proxy.socket_bounds import bound_accepted

BACKLOG = 4096
# For those who come in last: nobody waits longer for one who does not say hello.
HANDSHAKE_S = 2.0
# For all others. Who has not said hello is not counted as a connection yet.
TLS_HELLO_S = 10.0


class DataPort:
    """`open`, then `close`; or first `close_the_door`, which takes in who waits at it."""

    def __init__(self, make: Callable[[bytes], asyncio.Protocol], write_s: float) -> None:
        """`make(scheme)` gives the protocol of a new connection; the scheme is b"http" or b"https"."""
        self._make = make
        self._servers: list[tuple[asyncio.Server, ssl.SSLContext | None]] = []
        self._write_s = write_s

    def follow(self, write_s: float) -> None:
        """`timeouts.write`, for connections that are made from now on."""
        self._write_s = write_s
        for server, _ in self._servers:
            for listener in server.sockets:
                bound_accepted(listener, write_s)

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None, *, is_shared: bool) -> int:
        """Tells which port it is (for port 0). Raises OSError. `is_shared`: other processes have it too."""
        server = await asyncio.get_running_loop().create_server(
            self._factory(tls),
            host,
            port,
            ssl=tls,
            backlog=BACKLOG,
            reuse_port=is_shared or None,
            ssl_handshake_timeout=TLS_HELLO_S if tls is not None else None,
        )
        self._servers.append((server, tls))
        self.follow(self._write_s)
        return int(server.sockets[0].getsockname()[1])

    async def close_the_door(self) -> None:
        """Takes no new connections, and those that the kernel has taken for us already are served.

        To their clients these are open: closed unseen, they would be reset with a request on its way.
        """
        servers, self._servers = self._servers, []
        for server, tls in servers:
            # Who holds the queue of waiting connections is whoever holds the socket: so does a copy of it.
            queues = [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
            server.close()
            waiting = [connection for queue in queues for connection in _all_of(queue)]
            if waiting:
                await asyncio.gather(*(_take(one, self._factory(tls), tls) for one in waiting))

    def close(self) -> None:
        for server, _ in self._servers:
            server.close()

    def _factory(self, tls: ssl.SSLContext | None) -> Callable[[], asyncio.Protocol]:
        scheme = b"http" if tls is None else b"https"
        return lambda: self._make(scheme)


def _all_of(queue: socket.socket) -> list[socket.socket]:
    """Accepts all that wait, and closes the queue."""
    accepted: list[socket.socket] = []
    with queue:
        queue.setblocking(False)
        while True:
            try:
                connection, _ = queue.accept()
            except OSError:  # none is left; or the process has no more descriptors
                return accepted
            accepted.append(connection)


async def _take(
    connection: socket.socket, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
) -> None:
    """What fails here is the connection's own: a client that is gone, or speaks no TLS."""
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            await asyncio.get_running_loop().connect_accepted_socket(factory, connection, ssl=tls)
    except OSError:  # ssl.SSLError and TimeoutError are such
        connection.close()
