"""Does one thing for each of a changing set of backends, again and again.

One at a time per backend, so many at a time for all. Each interval is drawn anew within ± 10 %, and the first
begins somewhere inside one: gateways that started together do not ask together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.health.targets import Target
from gateway.ports import Clock

log = logging.getLogger(__name__)

JITTER_SHARE = 0.1
_FULL_DRAW = float(2**64)

Do = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Round:
    """What is done for one backend. A changed one begins anew; an equal one goes on."""

    target: Target
    interval_s: float


def first_delay_s(interval_s: float, draw: int) -> float:
    """`draw` is uniform in [0, 2**64)."""
    return interval_s * (draw / _FULL_DRAW)


def next_delay_s(interval_s: float, took_s: float, draw: int) -> float:
    """From the end of one round, which took `took_s`, to the begin of the next."""
    jittered_s = interval_s * (1 - JITTER_SHARE + 2 * JITTER_SHARE * (draw / _FULL_DRAW))
    return max(jittered_s - took_s, 0.0)


class Rounds:
    """The rounds of one kind. `do` tells what it found; what it raises is a defect, and logged."""

    def __init__(self, do: Do, clock: Clock, draw: Callable[[], int], max_at_once: int) -> None:
        self._do = do
        self._clock = clock
        self._draw = draw
        self._slots = asyncio.Semaphore(max_at_once)
        self._running: dict[str, tuple[Round, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def backend_ids(self) -> set[str]:
        return set(self._running)

    def follow(self, rounds: Mapping[str, Round]) -> None:
        """From now on these and no others, by backend id."""
        for backend_id, (known, task) in list(self._running.items()):
            if rounds.get(backend_id) != known:
                del self._running[backend_id]
                self._end(task)
        loop = asyncio.get_running_loop()
        for backend_id, wanted in rounds.items():
            if backend_id not in self._running:
                self._running[backend_id] = (wanted, loop.create_task(self._repeat(wanted)))

    async def stop(self) -> None:
        """Ends them all and waits for their end."""
        self.follow({})
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()

    async def _repeat(self, wanted: Round) -> None:
        await asyncio.sleep(first_delay_s(wanted.interval_s, self._draw()))
        while True:
            began_s = self._clock()
            async with self._slots:
                try:
                    await self._do(wanted.target)
                except Exception:
                    log.exception("asking after %s failed", wanted.target.backend_id)
            took_s = self._clock() - began_s
            await asyncio.sleep(next_delay_s(wanted.interval_s, took_s, self._draw()))
