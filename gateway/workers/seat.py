"""A seat is the place of one worker: whoever sits there, when it ends the next one sits down."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.config.schema import Config
from gateway.processes.restarts import Backoff, StartFailed, ending
from gateway.workers.process import WorkerProcess

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SeatPorts:
    """What a seat asks and tells. `start` begins a life, `ended` follows it; only `start` may raise."""

    start: Callable[[Seat], Awaitable[WorkerProcess]]
    became_ready: Callable[[Seat], Awaitable[None]]
    ended: Callable[[Seat], None]
    failed: Callable[[Seat, StartFailed], None]


class Seat:
    """`keep` sees to it that a worker sits here, until `end`."""

    def __init__(self, number: int, ports: SeatPorts) -> None:
        self.number = number
        self.life = 0
        self.is_ready = False
        self.is_ending = False
        # True unless its last worker had to cut something at the end.
        self.was_clean = True
        # How many lives in a row ended before they were ready.
        self.failed_starts = 0
        self._ports = ports
        self._process: WorkerProcess | None = None
        self._is_reopen_owed = False
        self._is_pausing = False
        self._task = asyncio.get_running_loop().create_task(self._keep())
        self._task.add_done_callback(self._left)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def adopt(self, config: Config, generation: int) -> None:
        """Hands a configuration to who is ready here. Raises NotAdopted."""
        if self.is_ready and self._process is not None:
            await self._process.adopt(config, generation)

    def reopen_log(self) -> None:
        """Hands SIGHUP on; to one that only starts, as soon as it listens to it."""
        if self.is_ready and self._process is not None:
            self._process.send(signal.SIGHUP)
        else:
            self._is_reopen_owed = True

    def end(self) -> asyncio.Task[None]:
        """Lets the worker drain and nobody follow; the task is done when it has ended."""
        self._end_with(signal.SIGTERM)
        return self._task

    def kill(self) -> None:
        self._end_with(signal.SIGKILL)

    def _end_with(self, number: signal.Signals) -> None:
        self.is_ending = True
        if self._process is not None:
            self._process.send(number)
        elif self._is_pausing:
            self._task.cancel()
        # Else a life is about to begin and will see that it is not wanted; cancelled, it might be left alone.

    def _left(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the place of worker %d is given up", self.number, exc_info=error)

    async def _keep(self) -> None:
        loop, backoff = asyncio.get_running_loop(), Backoff()
        while not self.is_ending:
            began_s = loop.time()
            try:
                what = f"ended with {ending(await self._live())}"
            except (StartFailed, OSError) as failure:
                what = str(failure)
                self.failed_starts += 1
                if not self.is_ending:
                    self._ports.failed(self, StartFailed(f"worker {self.number} {what}"))
            if self.is_ending:
                return
            pause_s = backoff.pause_s(loop.time() - began_s)
            when = f" in {pause_s:g} s" if pause_s else ""
            log.error("worker %d %s; it is started again%s", self.number, what, when)
            self._is_pausing = True
            await asyncio.sleep(pause_s)
            self._is_pausing = False

    async def _live(self) -> int:
        """One life; its exit code. Raises StartFailed or OSError when it was never ready."""
        try:
            self._process = process = await self._ports.start(self)
            if self.is_ending:
                process.send(signal.SIGKILL)
            await process.ready()
            self.is_ready, self.failed_starts = True, 0
            if self._is_reopen_owed:
                self._is_reopen_owed = False
                process.send(signal.SIGHUP)
            await self._ports.became_ready(self)
            code = await process.ended()
            self.was_clean = code == 0
            return code
        finally:
            self.is_ready, self._process = False, None
            self._ports.ended(self)
