"""From the start of a process that serves to its end: a gateway's, and that of the parent of several."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from gateway.admin.ports import GatewayState


class Lifetime:
    """Starting, ready, draining, over. To be made on the event loop."""

    def __init__(self, finish: Callable[[], Awaitable[bool]]) -> None:
        """`finish` lets what was accepted end: True when all of it did. It is called once."""
        self._finish = finish
        self._draining: asyncio.Task[bool] | None = None
        self._over = asyncio.Event()
        self.state = GatewayState.STARTING

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def over(self) -> None:
        """Returns when it was told to end, and has drained."""
        await self._over.wait()

    async def drain(self) -> bool:
        """Begins the end, or joins one that has begun. True when everything accepted was finished."""
        return await asyncio.shield(self.begin_drain())

    def begin_drain(self) -> asyncio.Task[bool]:
        if self._draining is None:
            self.state = GatewayState.DRAINING
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        return self._draining

    async def _drain(self) -> bool:
        was_clean = await self._finish()
        self._over.set()
        return was_clean

    def heed_signals(self, on_hangup: Callable[[], None]) -> None:
        """SIGTERM and SIGINT drain; SIGHUP is the caller's."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.begin_drain)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
