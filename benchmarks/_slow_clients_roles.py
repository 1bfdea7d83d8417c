"""The other processes of slow_clients.py: the backends, and the clients that are slow."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from typing import Any, NamedTuple

import uvloop

LARGE_ANSWER_BYTES = 8 * 2**20
# What a socket of a slow client, and one of a backend, may have the kernel keep for it. The kernel of this
# machine holds both ends of each connection; without this the far ends, which are other machines elsewhere,
# fill its memory for TCP before the gateway's ends do.
FAR_END_BYTES = 16 * 1024
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
AT_ONCE = 200  # connections that are begun together
GIVE_UP_AFTER_S = 30.0  # of what is not closed so long after its deadline


def post(body: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- a backend ----------------------------------------------------------------------------------------


def backend(told: Any) -> None:
    raise_file_limit()
    uvloop.run(_backend(told))


async def _backend(told: Any) -> None:
    part = b"y" * 2**16

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                size = LARGE_ANSWER_BYTES if b"large" in body else 500
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
                for at in range(0, size, len(part)):
                    writer.write(part[: size - at])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FAR_END_BYTES)  # its connections inherit it
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(serve, sock=listener, backlog=4096)
    told.send(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


# --- the slow ones ------------------------------------------------------------------------------------


class Closed(NamedTuple):
    """One that is closed: when, by time.perf_counter, which all processes share, and after how long."""

    at_s: float
    after_s: float

    @classmethod
    def now(cls, began_s: float) -> Closed:
        now_s = time.perf_counter()
        return cls(now_s, now_s - began_s)


class SlowSender(asyncio.Protocol):
    """Says `first`, and reads on."""

    def __init__(self, first: bytes, closed: list[Closed]) -> None:
        self._first, self._closed = first, closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._began_s = time.perf_counter()
        transport.write(self._first)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.append(Closed.now(self._began_s))


async def connected(port: int) -> socket.socket:
    """With a small window, so that the kernel does not take the whole answer in the client's place."""
    end = socket.socket()
    end.setblocking(False)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FAR_END_BYTES)
    await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
    return end


def attack(orders: Any) -> None:
    raise_file_limit()
    uvloop.run(_attack(orders))


async def _attack(orders: Any) -> None:
    """Tells when all are connected; and, when all that read are closed or it gives up, of each that is."""
    port, counts, deadline_s = orders.recv()
    loop = asyncio.get_running_loop()
    closed: list[list[Closed]] = [[], []]
    firsts = (HEAD, post(b"x" * 5000)[:-4000])
    non_readers: list[socket.socket] = []

    async def join(kind: int) -> None:
        end = await connected(port)
        if kind == 2:
            end.send(post(b'{"model":"large"}'))
            non_readers.append(end)
        else:
            await loop.create_connection(lambda: SlowSender(firsts[kind], closed[kind]), sock=end)

    # The non-readers first: what they ask for is moved until it stands still.
    for kind in (2, 0, 1):
        for start in range(0, counts[kind], AT_ONCE):
            await asyncio.gather(*(join(kind) for _ in range(min(AT_ONCE, counts[kind] - start))))
    orders.send("all are there")
    end_s = loop.time() + deadline_s + GIVE_UP_AFTER_S
    while loop.time() < end_s and [len(one) for one in closed] != list(counts[:2]):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    orders.send(closed)
    await asyncio.Event().wait()  # who reads nothing does not leave either
