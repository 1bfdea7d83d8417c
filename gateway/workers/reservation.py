"""The data port, reserved for the workers: none of them could hold it while another one starts."""

from __future__ import annotations

import asyncio
import os
import socket

from gateway.config.addresses import Address


class Reservation:
    """Sockets that are bound and do not listen: the kernel gives them no connection."""

    def __init__(self, address: Address, sockets: list[socket.socket]) -> None:
        self.address = address
        self._sockets = sockets

    def close(self) -> None:
        for held in self._sockets:
            held.close()


async def reserve(wanted: Address) -> Reservation:
    """Port 0 becomes a port of the system's choice. Raises OSError for one that somebody listens on."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    port, held = wanted.port, list[socket.socket]()
    try:
        for family, *_, address in dict.fromkeys(found):
            host = str(address[0])
            if port:
                # With SO_REUSEPORT alone a second Spillway would take half of the first one's connections.
                _bound(family, host, port, is_shared=False).close()
            held.append(_bound(family, host, port, is_shared=True))
            port = held[-1].getsockname()[1]
    except OSError:
        Reservation(wanted, held).close()
        raise
    return Reservation(Address(wanted.host, port), held)


def _bound(family: int, host: str, port: int, is_shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # as asyncio's own servers: [::] is not 0.0.0.0 too
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError as exc:
        bound.close()
        reason = os.strerror(exc.errno or 0)
        raise OSError(exc.errno, f"cannot listen on {Address(host, port)}: {reason}") from exc
    return bound
