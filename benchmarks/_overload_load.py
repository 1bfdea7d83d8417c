"""The load generator of overload.py, a process of its own: it prints one JSON object.

usage: python benchmarks/_overload_load.py PORT closed CLIENTS SECONDS
       python benchmarks/_overload_load.py PORT open RATE SECONDS

closed: each client asks again as soon as it has its answer. open: evenly spaced, whatever happened before,
over connections that are kept; one more is opened when none is idle.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import NamedTuple

import uvloop

PATIENCE_S = 5.0
BODY = json.dumps({"model": "m", "prompt": "x" * 500, "max_tokens": 1}).encode()
REQUEST = (
    b"POST /v1/completions HTTP/1.1\r\nhost: gw.local\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"x-request-id: *(\S+)", re.IGNORECASE)
_CODE = re.compile(rb'"code": ?"(\w+)"')


class Told(NamedTuple):
    """One answer; times count from the load's start. `what`: 200, the error's code, or "lost"."""

    what: str
    due_s: float
    sent_s: float
    ended_s: float
    request_id: str


class Client(asyncio.Protocol):
    """One connection, kept as long as the gateway keeps it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self.asked: tuple[float, float] | None = None  # due and sent
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def ask(self, due_s: float) -> None:
        self.asked = due_s, self._load.now_s()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        self._received = b""
        code = _CODE.search(body)
        status = head[9:12].decode()
        request_id = _REQUEST_ID.search(head)
        what = status if status == "200" or code is None else code[1].decode()
        self._tell(what, request_id[1].decode() if request_id else "")
        self._load.is_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.asked is not None:
            self._tell("lost")

    def _tell(self, what: str, request_id: str = "") -> None:
        assert self.asked is not None
        self._load.told.append(Told(what, *self.asked, self._load.now_s(), request_id))
        self.asked = None


class Load:
    """`is_closed`: a client that is free asks at once. Else it waits for its turn."""

    def __init__(self, port: int, *, is_closed: bool) -> None:
        self._port = port
        self._is_closed = is_closed
        self._loop = asyncio.get_running_loop()
        self._idle: list[Client] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._start_s = time.monotonic()  # uvloop's own clock has milliseconds only
        self._is_over = False
        self.clients: list[Client] = []
        self.told: list[Told] = []

    def now_s(self) -> float:
        return time.monotonic() - self._start_s

    async def closed(self, clients: int, seconds: float) -> None:
        for _ in range(clients):
            await self._connect(self.now_s())
        await asyncio.sleep(seconds)
        await self._end()

    async def open(self, rate: float, seconds: float) -> None:
        """Every turn of the loop sends all that is due."""
        number = 0
        while (now_s := self.now_s()) < seconds:
            while (due_s := number / rate) <= now_s:
                number += 1
                self._begin(due_s)
            await asyncio.sleep(max(number / rate - self.now_s(), 0.0))
        await self._end()

    def _begin(self, due_s: float) -> None:
        if self._idle:
            self._idle.pop().ask(due_s)
            return
        task = self._loop.create_task(self._connect(due_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, due_s: float) -> None:
        _, client = await self._loop.create_connection(lambda: Client(self), "127.0.0.1", self._port)
        self.clients.append(client)
        client.ask(due_s)

    def is_free(self, client: Client) -> None:
        if not self._is_closed:
            self._idle.append(client)
        elif not self._is_over:
            client.ask(self.now_s())

    async def _end(self) -> None:
        self._is_over = True
        deadline_s = self.now_s() + PATIENCE_S
        while self.now_s() < deadline_s and (  # noqa: ASYNC110
            self._connecting or any(client.asked for client in self.clients)
        ):
            await asyncio.sleep(0.02)
        for client in self.clients:
            client.transport.abort()
        await asyncio.sleep(0.05)


async def main(port: int, kind: str, amount: float, seconds: float) -> None:
    load = Load(port, is_closed=kind == "closed")
    await (load.closed(int(amount), seconds) if kind == "closed" else load.open(amount, seconds))
    print(json.dumps({"seconds": seconds, "connections": len(load.clients), "told": load.told}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
