"""Asks the gateways, each for itself: one that hangs keeps nobody from seeing the others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import aiohttp

from gateway.top.rates import NO_RATES, History
from gateway.top.rows import GatewayNow
from gateway.top.samples import FLEET_PATH, METRICS_PATH, NotSpillway, read_sample

ANSWER_TIMEOUT_S = 2.0
# A fleet of a thousand backends says about 2 MiB.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_PROBLEM_CHARS = 80


class _Refused(Exception):
    """It answers, but not with the page: why."""


def session(token: str | None) -> aiohttp.ClientSession:
    """No proxy from the environment: the admin port is on this machine or in this network."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    return aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False)


class Follower:
    """What is known of one gateway. `clock` gives monotonic seconds."""

    def __init__(self, url: str, window_s: float, clock: Callable[[], float]) -> None:
        self.url = url
        self._history = History(window_s)
        self._clock = clock
        self._problem = ""
        self._away_since_s = 0.0

    async def look(self, asking: aiohttp.ClientSession) -> None:
        """One look; what goes wrong becomes the gateway's state."""
        try:
            pages = [await _get(asking, self.url + path) for path in (FLEET_PATH, METRICS_PATH)]
            self._history.add(read_sample(pages[0], pages[1], self._clock()))
        except (OSError, TimeoutError, aiohttp.ClientError, NotSpillway, _Refused) as exc:
            if not self._problem:
                self._away_since_s = self._clock()
            self._problem = _words(exc)
            self._history.forget()
        else:
            self._problem = ""

    async def follow(self, asking: aiohttp.ClientSession, interval_s: float) -> None:
        """For ever."""
        while True:
            await self.look(asking)
            await asyncio.sleep(interval_s)

    @property
    def now(self) -> GatewayNow:
        latest = self._history.latest
        since_s = self._clock() - self._away_since_s if self._problem else 0.0
        rates = self._history.rates if latest is not None else NO_RATES
        return GatewayNow(self.url, latest, rates, self._problem, since_s)


async def _get(asking: aiohttp.ClientSession, url: str) -> bytes:
    # A redirect would carry the token to wherever it leads.
    async with asking.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise _Refused(f"it answers {answer.status} at {answer.url.path}")
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise NotSpillway(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
        return bytes(body)


def _words(exc: BaseException) -> str:
    if isinstance(exc, TimeoutError):
        return f"no answer within {ANSWER_TIMEOUT_S:g} s"
    if isinstance(exc, aiohttp.ClientConnectorError) and exc.os_error.errno:
        return os.strerror(exc.os_error.errno)
    return (str(exc) or type(exc).__name__)[:MAX_PROBLEM_CHARS]
