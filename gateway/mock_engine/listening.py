"""A port that can be made to refuse connections and to accept them again, without ever losing it."""

import asyncio
import errno
import socket
from collections.abc import Callable

BACKLOG = 4096
RELEASE_TURNS = 100  # turns of the loop that a closed listener may take to give its port back


class ListeningPort:
    """One TCP port. While refusing, its socket is bound but does not listen: connects are refused."""

    def __init__(self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        self._protocol_factory = protocol_factory
        self._host = host
        self._socket = _bound_socket(host, port)
        self._server: asyncio.AbstractServer | None = None
        self.number: int = self._socket.getsockname()[1]

    async def accept(self) -> None:
        """Listen."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                self._protocol_factory, sock=self._socket, backlog=BACKLOG
            )

    async def refuse(self) -> None:
        """Stop listening and keep the port. Open connections stay."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for _ in range(RELEASE_TURNS):
            await asyncio.sleep(0)
            try:
                self._socket = _bound_socket(self._host, self.number)
                return
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
        raise RuntimeError(f"port {self.number} was not given back")

    def close(self) -> None:
        """Give the port back."""
        if self._server is not None:
            self._server.close()
        else:
            self._socket.close()


def _bound_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio's own loop leaves Nagle's algorithm on, and tokens come 40 ms late.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
