"""Open-loop load on a gateway process, what each request saw, and what the fleet page says meanwhile."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, NamedTuple

from tests.proxy.dialogue import Client, post
from tests.proxy.processes import GatewayProcess

POLL_S = 0.01
# The admin port answers only to names of this machine.
_ASK = b"GET /api/v1/fleet HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_CLUSTER = re.compile(rb"x-spillway-cluster: (\S+)")
_BACKEND = re.compile(rb"x-spillway-backend: (\S+)")


class Told(NamedTuple):
    """What one request saw. `ttft_s` is None when it got no byte at all."""

    at_s: float
    status: int
    cluster: str
    backend: str
    ttft_s: float | None
    is_whole: bool

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.is_whole

    @property
    def had_bytes(self) -> bool:
        """Bytes of an answer were sent, so that nothing could be tried elsewhere."""
        return self.status == 200


def completion(number: int, prompt_bytes: int = 20, tokens: int = 20) -> bytes:
    """A chat completion; every other one is a stream."""
    messages = [{"role": "user", "content": "x" * prompt_bytes}]
    body = {"model": "m", "messages": messages, "max_tokens": tokens, "stream": number % 2 == 0}
    return json.dumps(body).encode()


class Load:
    """Sends `rate` requests a second as long as its `with` block lasts, and waits for the last of them."""

    def __init__(self, port: int, rate: float, body_of: Callable[[int], bytes] = completion) -> None:
        self._port, self._rate, self._body_of = port, rate, body_of
        self._tasks: set[asyncio.Task[None]] = set()
        self.told: list[Told] = []

    async def __aenter__(self) -> Load:
        self._sender = asyncio.get_running_loop().create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sender.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(*self._tasks)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        for number in count():
            await asyncio.sleep(max(start_s + number / self._rate - loop.time(), 0.0))
            task = loop.create_task(self._ask(number))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.exception():  # an error of the test itself stays, and is raised by `gather`
            self._tasks.discard(task)

    async def _ask(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        at_s, head, body, ttft_s = loop.time(), b"", b"", None
        client = await Client.connect(self._port)
        try:
            await client.send(post(self._body_of(number), "Connection: close"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            ttft_s = loop.time() - at_s
            body = await client.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            client.close()
        # Streams and whole answers of this size both come to an end that can be seen.
        is_whole = body.endswith((b"data: [DONE]\n\n\r\n0\r\n\r\n", b"}"))
        status = int(head[9:12]) if head else 0
        self.told.append(Told(at_s, status, _named(_CLUSTER, head), _named(_BACKEND, head), ttft_s, is_whole))

    @property
    def bad(self) -> list[Told]:
        return [told for told in self.told if not told.is_good]

    def began(self, from_s: float, to_s: float = float("inf")) -> list[Told]:
        return [told for told in self.told if from_s <= told.at_s < to_s]

    def clusters(self, from_s: float, to_s: float = float("inf")) -> Counter[str]:
        return Counter(told.cluster for told in self.began(from_s, to_s))


def _named(pattern: re.Pattern[bytes], head: bytes) -> str:
    match = pattern.search(head)
    return match[1].decode() if match else ""


class FleetPage:
    """One gateway's /api/v1/fleet over a connection that is kept: asking costs a millisecond."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def backends(self, tier: int = 0) -> list[Any]:
        await self._client.send(_ASK)
        page = (await self._client.answer(10)).json()
        return [backend for cluster in page["tiers"][tier]["clusters"] for backend in cluster["backends"]]

    async def limits(self) -> list[int]:
        """The effective limits of the primary tier: a circuit that is not closed leaves a tenth."""
        return [backend["limit"] for backend in await self.backends()]

    async def when(self, predicate: Callable[[Sequence[int]], bool], within_s: float) -> float:
        """The loop's time at which `limits` first fulfilled the predicate."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + within_s
        while not predicate(limits := await self.limits()):
            assert loop.time() < deadline_s, f"after {within_s:.1f} s the limits are {limits}"
            await asyncio.sleep(POLL_S)
        return loop.time()


@asynccontextmanager
async def fleet_page(gateway: GatewayProcess) -> AsyncIterator[FleetPage]:
    client = await Client.connect(gateway.other_ports[0])
    try:
        yield FleetPage(client)
    finally:
        client.close()
