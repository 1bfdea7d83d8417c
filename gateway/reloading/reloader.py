"""Who owns the configuration file while a gateway, or the parent of several, runs.

    file  ─ load ─→  Loaded  ─ complete ─→  effective Config  ─ adopt ─→  in force

`load` reads the file and all that it names; `complete` adds what is not in it (such as discovered backends);
`adopt` puts the whole in force, or raises. One at a time: who asks while one is under way gets the next one,
together with all others who ask meanwhile, so that the newest file wins.

A file that is refused changes nothing, and is not looked at again before it changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gateway.config.files import Stamps, stamps_of
from gateway.config.fixed import restart_needed
from gateway.config.loading import Loaded, load_whole
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.ports import Clock, ConfigStatus, ReloadOutcome

log = logging.getLogger(__name__)

# Files are looked at rather than watched (ADR 0021): a stat of each, a microsecond or two.
LOOK_EVERY_S = 1.0
# Who writes a file may not be at its end, and between two files of a pair there may be a moment: so they are
# to look the same twice in a row, and to be there, for at most so long.
SETTLE_S, MAX_SETTLE_S = 0.1, 2.0

T = TypeVar("T")


def _as_it_is(config: Config) -> Config:
    return config


def _nobody() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class ReloadPorts:
    """What a Reloader works with.

    `adopt(config, generation)` puts an effective configuration in force; it raises ConfigError or OSError,
    and has changed nothing then. `complete` makes the effective configuration of the file's; it may raise
    ConfigError. `behind` names who does not follow what is in force, and why. `wall_clock` is for people.
    """

    adopt: Callable[[Config, int], Awaitable[None]]
    wall_clock: Clock
    complete: Callable[[Config], Config] = _as_it_is
    behind: Callable[[], tuple[str, ...]] = _nobody


class Reloader:
    """`start`, then `reload` whenever somebody asks; `stop` in the end."""

    def __init__(self, first: Loaded, ports: ReloadPorts) -> None:
        self._path = Path(first.source)
        self._ports = ports
        self._loaded = first
        self._effective = ports.complete(first.config)
        self._files: Stamps = dict(first.files)
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Task[tuple[ReloadOutcome, ConfigStatus]] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_stopped = False
        self._generation = 1
        self._counts: Counter[ReloadOutcome] = Counter()
        self._refused: tuple[str, ...] = ()
        self._refused_s: float | None = None
        self._adopted_s: float | None = None

    @property
    def effective(self) -> Config:
        """What is in force."""
        return self._effective

    @property
    def status(self) -> ConfigStatus:
        behind = self._ports.behind()
        times_s = (self._adopted_s, self._refused_s)
        return ConfigStatus(self._generation, dict(self._counts), self._refused, behind, *times_s)

    def start(self) -> None:
        """Looks at the files from now on, while the configuration wants it."""
        self._spawn(self._watch())

    async def stop(self) -> None:
        """Ends what is under way; from then on nothing is read. Stopping twice is the same as once."""
        self._is_stopped = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    # --- what may be asked -------------------------------------------------------------------------------

    async def reload(self) -> tuple[ReloadOutcome, ConfigStatus]:
        """Reads the file again: what came of it, and what is in force then."""
        if self._is_stopped:
            return ReloadOutcome.UNCHANGED, self.status
        if self._waiting is None:
            self._waiting = self._spawn(self._take_turn())
        return await asyncio.shield(self._waiting)

    def reload_soon(self) -> None:
        """As `reload`, for who does not wait."""
        self._spawn(self.reload())

    async def refresh(self) -> None:
        """What `complete` adds has changed, the file has not. Raises what `complete` and `adopt` raise."""
        async with self._turn:
            effective = self._ports.complete(self._loaded.config)
            if effective != self._effective:
                await self._ports.adopt(effective, self._generation)
                self._effective = effective

    def refresh_soon(self) -> None:
        """As `refresh`, for who does not wait; what it raises is logged."""
        self._spawn(self.refresh())

    # --- one reading -------------------------------------------------------------------------------------

    async def _take_turn(self) -> tuple[ReloadOutcome, ConfigStatus]:
        async with self._turn:
            self._waiting = None  # who asks from now on may know of a newer file
            try:
                outcome = await self._read_and_adopt()
            except (ConfigError, OSError) as error:
                self._refuse(error)
                outcome = ReloadOutcome.REFUSED
            self._counts[outcome] += 1
            return outcome, self.status

    async def _read_and_adopt(self) -> ReloadOutcome:
        """Raises ConfigError or OSError."""
        files: Stamps = {}
        before = await self._looks()
        try:
            # In a thread: a large file takes a second, and the data plane shares this event loop.
            loaded = await asyncio.to_thread(load_whole, self._path, files)
        finally:
            # A file with a mistake may name fewer files than the one in force, and they too are seen now.
            self._files = before | files
        if fixed := restart_needed(self._loaded.config, loaded.config):
            fix = "restart, or take the change back"
            raise ConfigError([loaded.problem(setting, why, fix) for setting, why in fixed.items()])
        effective = self._ports.complete(loaded.config)
        is_new = effective != self._effective
        if is_new or self._ports.behind():
            await self._ports.adopt(effective, self._generation + is_new)
        self._loaded, self._effective, self._files = loaded, effective, files
        self._refused, self._refused_s = (), None
        if not is_new:
            return ReloadOutcome.UNCHANGED
        self._generation += 1
        self._adopted_s = self._ports.wall_clock()
        log.info("configuration %d is in force, from %s", self._generation, self._path)
        return ReloadOutcome.ADOPTED

    def _refuse(self, error: ConfigError | OSError) -> None:
        problems = error.problems if isinstance(error, ConfigError) else (error,)
        self._refused = tuple(map(str, problems))
        self._refused_s = self._ports.wall_clock()
        log.error("the configuration is refused and %d stays in force: %s", self._generation, error)

    # --- the files ---------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if self._ports.behind():
                    await self._hand_on_again()
                if self._loaded.config.watch:
                    await self._look()
            except Exception:
                log.exception("reading the configuration again failed")

    async def _hand_on_again(self) -> None:
        """To who did not take what is in force; for all others it is no change."""
        async with self._turn:
            await self._ports.adopt(self._effective, self._generation)

    async def _look(self) -> None:
        known = self._files
        if await self._looks() != known and known is self._files:
            await self._settled()
            await self.reload()

    async def _looks(self) -> Stamps:
        # In a thread: a file may be on a network file system that does not answer.
        return await asyncio.to_thread(stamps_of, tuple(self._files))

    async def _settled(self) -> None:
        """Waits until nobody writes any more, or for MAX_SETTLE_S."""
        loop = asyncio.get_running_loop()
        until_s, seen = loop.time() + MAX_SETTLE_S, await self._looks()
        while loop.time() < until_s:
            await asyncio.sleep(SETTLE_S)
            before, seen = seen, await self._looks()
            if seen == before and None not in seen.values():
                return

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reloading the configuration failed", exc_info=error)
