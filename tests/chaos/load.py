"""Clients that ask without a pause, each over one connection to its gateway, and keep what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from tests.chaos.loop_thread import END_S, LoopThread
from tests.proxy.dialogue import Client, post

ANSWER_S = 20.0
_CLUSTER = re.compile(r"\r\nx-spillway-cluster: *(\S+)")
_WHOLE = b"data: [DONE]\n\n\r\n0\r\n\r\n"
_LENGTH = re.compile(r"\r\ncontent-length: *(\d+)")


class Told(NamedTuple):
    """One answer. `status` 0: there was none, or it was cut. Times are of time.monotonic()."""

    sent_s: float
    took_s: float
    gateway: int
    status: int
    cluster: str | None
    hold_s: float

    @property
    def added_s(self) -> float:
        """How much longer it took than the backend held it."""
        return self.took_s - self.hold_s


class Asking(NamedTuple):
    """What a client asks for: how long its requests are held, and whether they are streams."""

    hold_s: Callable[[], float]
    is_stream: bool = False

    def request(self, hold_s: float) -> bytes:
        body = {"model": "m", "hold_ms": hold_s * 1000, "stream": self.is_stream}
        return post(json.dumps(body).encode())


def between(low_s: float, high_s: float, *, is_stream: bool = False) -> Asking:
    """Holds drawn evenly; the same ones in every run."""
    draw = random.Random(1)
    return Asking(lambda: draw.uniform(low_s, high_s), is_stream)


class Load:
    """Clients on a thread of their own, so that a test may wait for something while they go on.

    `ports` may change while they run: a gateway started anew.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.told: list[Told] = []
        self._under_way_since_s: dict[object, float] = {}
        self._is_over = False
        self._clients: list[Future[None]] = []
        self._thread = LoopThread()

    def add(self, clients: int, asking: Asking) -> None:
        """So many more clients in a closed loop, spread over the gateways in turn."""
        for number in range(clients):
            self._clients.append(self._thread.begin(self._run(number % len(self.ports), asking)))

    def roam(self, clients: int, asking: Asking) -> None:
        """So many more that ask at a gateway drawn anew for each request, over a connection to each."""
        for number in range(clients):
            self._clients.append(self._thread.begin(self._roam(random.Random(number), asking)))

    def ask(self, gateway: int, hold_s: float, *, is_stream: bool = False) -> Future[Told]:
        """One request on a connection of its own."""
        asking = Asking(lambda: hold_s, is_stream)
        return self._thread.begin(self._ask_alone(gateway, asking))

    def finish(self) -> None:
        """Every client ends with the request it is at. Raises what went wrong in a client."""
        self._is_over = True
        for client in self._clients:
            client.result(END_S)

    def close(self) -> None:
        self._is_over = True
        self._thread.close()

    def since(self, since_s: float) -> list[Told]:
        """What was told of requests sent since then."""
        return [told for told in list(self.told) if told.sent_s >= since_s]

    def has_ended(self, before_s: float) -> bool:
        """Whether every request sent before then has its answer."""
        return all(sent_s >= before_s for sent_s in self._under_way_since_s.copy().values())

    @property
    def statuses(self) -> Counter[int]:
        return Counter(told.status for told in list(self.told))

    async def _ask_alone(self, gateway: int, asking: Asking) -> Told:
        client = await Client.connect(self.ports[gateway])
        try:
            return await self._ask(gateway, asking, client)
        finally:
            client.close()

    async def _ask(self, gateway: int, asking: Asking, client: Client) -> Told:
        hold_s, sent_s = asking.hold_s(), time.monotonic()
        status, cluster = 0, None
        self._under_way_since_s[client] = sent_s
        try:
            await client.send(asking.request(hold_s))
            async with asyncio.timeout(hold_s + ANSWER_S):
                status, cluster = await _answer(client.reader)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
        finally:
            del self._under_way_since_s[client]
        told = Told(sent_s, time.monotonic() - sent_s, gateway, status, cluster, hold_s)
        self.told.append(told)
        return told

    async def _run(self, gateway: int, asking: Asking) -> None:
        while not self._is_over:
            port = self.ports[gateway]
            try:
                client = await Client.connect(port)
            except ConnectionError:
                await asyncio.sleep(0.05)  # its gateway is dead for now
                continue
            try:
                is_good = True
                while is_good and port == self.ports[gateway] and not self._is_over:
                    is_good = (await self._ask(gateway, asking, client)).status != 0
            finally:
                client.close()

    async def _roam(self, draw: random.Random, asking: Asking) -> None:
        clients = [await Client.connect(port) for port in self.ports]
        while not self._is_over:
            gateway = draw.randrange(len(clients))
            await self._ask(gateway, asking, clients[gateway])
        for client in clients:
            client.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str | None]:
    """Status and cluster of a whole answer. Raises IncompleteReadError when it is cut, however late."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status, cluster = int(head[9:12]), _CLUSTER.search(head)
    if (length := _LENGTH.search(head)) is not None:
        await reader.readexactly(int(length[1]))
    else:
        end = b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            data = await reader.read(65536)
            if not data:
                raise asyncio.IncompleteReadError(end, None)
            end = (end + data)[-len(_WHOLE) :]
        if end != _WHOLE:
            status = 0
    return status, cluster[1] if cluster is not None else None


@contextmanager
def loaded(ports: Sequence[int], clients: int = 0, asking: Asking | None = None) -> Iterator[Load]:
    """A load that runs inside the block; at its end every client has had its last answer."""
    load = Load(ports)
    try:
        if asking is not None:
            load.add(clients, asking)
        yield load
        load.finish()
    finally:
        load.close()
