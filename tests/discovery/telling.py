"""Somebody to be told what a source has found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import getrandbits

from gateway.config.discovered import Discovered
from gateway.discovery.source import Source, Surroundings

AROUND = Surroundings(time.monotonic, lambda: getrandbits(64))
WITHIN_S = 5.0


class Told:
    """What was said, in order."""

    def __init__(self) -> None:
        self.answers: list[Discovered] = []
        self.failures: list[str] = []
        self.confirmations = 0

    def found(self, found: Discovered) -> None:
        self.answers.append(found)

    def confirmed(self) -> None:
        self.confirmations += 1

    def failed(self, reason: str) -> None:
        self.failures.append(reason)

    @property
    def urls(self) -> list[str]:
        """Of the last answer."""
        return sorted(str(b.url) for b in self.answers[-1].backends) if self.answers else ["nothing yet"]

    async def has(self, *urls: str) -> Discovered:
        await until(lambda: self.urls == sorted(urls), lambda: f"{self.urls}, {self.failures}")
        return self.answers[-1]

    async def fails(self, reason: str, times: int = 1) -> None:
        await until(lambda: sum(reason in f for f in self.failures) >= times, lambda: str(self.failures))


async def until(is_so: Callable[[], bool], shown: Callable[[], str] = str) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"has not come to pass: {shown()}")
        await asyncio.sleep(0.005)


@asynccontextmanager
async def following(source: Source) -> AsyncIterator[Told]:
    told = Told()
    task = asyncio.get_running_loop().create_task(source.follow(told))
    try:
        yield told
        assert not task.done(), "a source ends only when it is told to"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
