"""What wakes the tick of a shared store before its time."""

from __future__ import annotations

import asyncio


class Alarm:
    """An event for one task, with a time after which it goes on all the same.

    As asyncio.timeout around Event.wait, at half the price: each gateway naps twenty times a second.
    """

    __slots__ = ("_is_set", "_nap")

    def __init__(self) -> None:
        self._is_set = False
        self._nap: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._nap is not None:
            _end(self._nap)

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    async def nap(self, for_s: float) -> None:
        """Until it is set, for so long at most."""
        if self._is_set:
            return
        loop = asyncio.get_running_loop()
        self._nap = nap = loop.create_future()
        timer = loop.call_later(for_s, _end, nap)
        try:
            await nap
        finally:
            timer.cancel()
            self._nap = None


def _end(nap: asyncio.Future[None]) -> None:
    if not nap.done():
        nap.set_result(None)
