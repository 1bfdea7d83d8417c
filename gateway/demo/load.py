"""The wave: from few clients to more than the fleet has slots, and back, again and again."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from random import Random
from statistics import median

from gateway.demo.client import BadAnswer, ask

FEW, MANY = 2, 28  # three clusters of 8 slots serve 24
PERIOD_S = 24.0
RECENT_S = 5.0
# A refused client waits at least this, as OpenAI's own client libraries do.
MIN_BACKOFF_S = 1.0
PATH = "/v1/chat/completions"
BODY = b'{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'


def clients_at(at_s: float, period_s: float = PERIOD_S) -> int:
    """How many clients are busy `at_s` seconds into the wave."""
    height = (1 - math.cos(2 * math.pi * at_s / period_s)) / 2
    return round(FEW + (MANY - FEW) * height)


class Load:
    """Streaming clients, each with one request at a time; remembers the times to the first token."""

    def __init__(self, port: int, period_s: float) -> None:
        self._port = port
        self._period_s = period_s
        self._random = Random(1)
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._first_bytes: dict[str, deque[tuple[float, float]]] = {}
        self._tasks = [self._loop.create_task(self._client(number)) for number in range(MANY)]
        self.failed = 0

    @property
    def clients(self) -> int:
        return clients_at(self._loop.time() - self._started_s, self._period_s)

    def ttft_s(self, tier: str) -> float | None:
        """The median of the last seconds; None when nobody was served there."""
        now_s = self._loop.time()
        recent = [first for at_s, first in self._first_bytes.get(tier, ()) if now_s - at_s < RECENT_S]
        return median(recent) if recent else None

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _client(self, number: int) -> None:
        while True:
            if number < self.clients:
                await self._request()
            await asyncio.sleep(self._random.uniform(0.01, 0.08))

    async def _request(self) -> None:
        try:
            answer = await ask(self._port, PATH, BODY)
        except (OSError, BadAnswer):
            self.failed += 1
            await asyncio.sleep(MIN_BACKOFF_S)
            return
        if answer.status == 429:
            asked_s = int(answer.headers.get("retry-after-ms", "0")) / 1000
            await asyncio.sleep(max(asked_s, MIN_BACKOFF_S))
        elif answer.status != 200 or not _is_whole(answer.body):
            self.failed += 1
        else:
            tier = answer.headers["x-spillway-tier"]
            seen = self._first_bytes.setdefault(tier, deque(maxlen=200))
            seen.append((self._loop.time(), answer.first_byte_s))


def _is_whole(body: bytes) -> bool:
    """Both ends are there: the event stream's and the chunked coding's."""
    return b"[DONE]" in body and body.endswith(b"0\r\n\r\n")
