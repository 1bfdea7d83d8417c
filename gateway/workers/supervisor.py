"""The parent of the workers. It carries no request: it starts, watches and ends them, and shows them as one.

What it owns, in the order in which it begins (and in reverse ends): the private directory, the data port's
reservation, the private Redis where the configuration names none, the admin port, the workers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import time
from collections.abc import Callable

import msgspec

from gateway.admin.all_workers import AllWorkers, WorkersPorts, WorkerView, drains_in_force
from gateway.admin.ports import GatewayState, settings_of
from gateway.admin.server import AdminServer
from gateway.config.fleet import clusters_of
from gateway.config.loading import Loaded
from gateway.config.schema import Config
from gateway.config.secrets import Secret
from gateway.core.fleet import Event, Fleet, FleetConfigured
from gateway.lifetime import Lifetime
from gateway.live_config import LiveConfig
from gateway.processes.directory import PrivateDirectory
from gateway.processes.restarts import StartFailed
from gateway.processes.worker_place import WorkerPlace
from gateway.state.private_server import PrivateServer, find_server
from gateway.telemetry.merging import WorkerMetrics
from gateway.workers.process import NotAdopted, WorkerProcess
from gateway.workers.reservation import Reservation, reserve
from gateway.workers.seat import Seat, SeatPorts

log = logging.getLogger(__name__)

# After drain_delay and drain_timeout: for the last events to reach their clients, and the log its file.
END_GRACE_S = 5.0
# In a row, of each worker: with the pauses between them some five seconds in which nobody serves.
MAX_FAILED_STARTS = 5


class Supervisor:
    """`start`, then `serve` until told to stop; `stop` in the end whatever happened."""

    def __init__(self, config: Config, file: Loaded | None = None) -> None:
        """With a `file`, what `config` was loaded from, its changes are handed to all workers."""
        self._config = config
        wall_clock = time.time  # noqa: TID251 - what people are told is wall time
        self._clock = time.monotonic
        # One for all workers: they are handed what it finds with the rest of the configuration.
        self._live_config = LiveConfig(
            file, self._adopt, self._clock, wall_clock, lambda: tuple(self._behind.values())
        )
        self._generation = 1
        self._behind: dict[int, str] = {}  # by the number of the seat, why
        # Only for its names and its drains: no request is ever told to it.
        self._fleet = Fleet()
        self._fleet.apply(_picture_of(config), self._clock())
        self._metrics = WorkerMetrics(self._live_config.status, self._live_config.found)
        self._lifetime = Lifetime(self._finish)
        self._lives = itertools.count(1)
        self._drains_at_birth: dict[int, dict[str, float]] = {}
        self._config_at_birth: dict[int, Config] = {}
        self._seats: list[Seat] = []
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: StartFailed | None = None
        self._directory = PrivateDirectory()
        self._reservation: Reservation | None = None
        self._redis: PrivateServer | None = None
        self._pages = AllWorkers(self._ports())
        self._admin = AdminServer(settings_of(config.admin), self._pages)
        self._admin_port = 0

    @property
    def port(self) -> int:
        assert self._reservation is not None, "not started"
        return self._reservation.address.port

    @property
    def admin_port(self) -> int:
        return self._admin_port

    # --- the life of the whole ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when every worker serves. Raises OSError or StartFailed."""
        self._reservation = await reserve(self._config.listen)
        if self._config.state.url is None:
            self._redis = PrivateServer(find_server(), self._directory.path)
            await self._redis.start()
        await self._admin.start()
        self._admin_port = self._admin.port
        # Workers are born with the backends that are found.
        await self._live_config.find_backends(self._config)
        ports = SeatPorts(self._begin_life, self._became_ready, self._life_ended, self._start_failed)
        self._seats = [Seat(number, ports) for number in range(1, self._config.workers + 1)]
        await self._started
        self._live_config.start()
        self._lifetime.state = GatewayState.READY

    async def serve(self) -> None:
        """Until told to stop. Raises StartFailed when no worker can be started any more."""
        await self._lifetime.over()
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> bool:
        """Begins the end, or joins one that has begun. True when everything accepted was finished."""
        return await self._lifetime.drain()

    async def _finish(self) -> bool:
        config = self._config
        await self._end_workers(config.drain_delay_s + config.drain_timeout_s + END_GRACE_S)
        return all(seat.was_clean for seat in self._seats)

    async def stop(self) -> None:
        """Ends what runs, at once, and leaves nothing behind."""
        await self._live_config.stop()
        await self._end_workers(0.0)
        await self._admin.stop()
        if self._redis is not None:
            await self._redis.stop()
        if self._reservation is not None:
            self._reservation.close()
        self._directory.remove()

    async def _end_workers(self, within_s: float) -> None:
        """Lets them drain; kills those that have not ended in time."""
        endings = [seat.end() for seat in self._seats]
        if not endings:
            return
        _, late = await asyncio.wait(endings, timeout=within_s)
        if late:
            for seat in self._seats:
                seat.kill()
            await asyncio.wait(endings)

    def heed_signals(self) -> None:
        self._lifetime.heed_signals(self._on_hangup)

    def _on_hangup(self) -> None:
        for seat in self._seats:
            seat.reopen_log()
        self._live_config.reload_soon()

    # --- the configuration -------------------------------------------------------------------------------

    async def _adopt(self, config: Config, generation: int) -> None:
        """Puts it in force here and at every worker that is ready; who starts later is born with it."""
        self._config, self._generation = config, generation
        self._fleet.apply(_picture_of(config), self._clock())
        self._admin.follow(settings_of(config.admin))
        await asyncio.gather(*(self._hand_on(seat) for seat in self._seats if seat.is_ready))

    async def _hand_on(self, seat: Seat) -> None:
        life = seat.life
        try:
            await seat.adopt(self._config_of_workers(), self._generation)
            self._behind.pop(seat.number, None)
        except NotAdopted as why:
            told = f"worker {seat.number} {why}"
            if seat.life == life and self._behind.get(seat.number) != told:
                self._behind[seat.number] = told
                log.error("%s, and works by an older configuration", told)

    # --- the workers ---------------------------------------------------------------------------------------

    async def _begin_life(self, seat: Seat) -> WorkerProcess:
        seat.life = life = next(self._lives)
        drains = drains_in_force(self._fleet.view, self._clock())
        self._drains_at_birth[life] = drains
        self._metrics.joined(life)
        self._config_at_birth[life] = self._config
        place = WorkerPlace(seat.number, self._socket_of(seat), drains, self._generation)
        return await WorkerProcess.start(self._config_of_workers(), place)

    async def _became_ready(self, seat: Seat) -> None:
        if self._config_at_birth.pop(seat.life) is not self._config:
            await self._hand_on(seat)
        await self._pages.catch_up(self._view_of(seat), self._drains_at_birth.pop(seat.life))
        if not self._started.done() and all(one.is_ready for one in self._seats):
            self._started.set_result(None)

    def _life_ended(self, seat: Seat) -> None:
        self._drains_at_birth.pop(seat.life, None)
        self._config_at_birth.pop(seat.life, None)
        self._behind.pop(seat.number, None)
        self._metrics.departed(seat.life, was_restarted=not seat.is_ending)

    def _start_failed(self, seat: Seat, failure: StartFailed) -> None:
        """At the start one is too many: it is a mistake. Later the others go on, while there are any."""
        if not self._started.done():
            self._started.set_exception(failure)
        elif all(one.failed_starts >= MAX_FAILED_STARTS for one in self._seats):
            self._failure = failure
            self._lifetime.begin_drain()

    def _config_of_workers(self) -> Config:
        config = self._config
        assert self._reservation is not None
        state = config.state if self._redis is None else config.state.at(Secret(self._redis.url))
        return msgspec.structs.replace(config, listen=self._reservation.address, state=state)

    def _socket_of(self, seat: Seat) -> str:
        return self._directory.socket(f"worker-{seat.number}")

    def _view_of(self, seat: Seat) -> WorkerView:
        return WorkerView(seat.number, seat.life, seat.pid, self._socket_of(seat), seat.is_ready)

    # --- the admin port ------------------------------------------------------------------------------------

    def _ports(self) -> WorkersPorts:
        return WorkersPorts(
            workers=lambda: [self._view_of(seat) for seat in self._seats],
            state=lambda: self._lifetime.state,
            detail=self._detail,
            view=self._fleet.view,
            apply=self._apply,
            drain=self.drain,
            render_metrics=self._metrics.render,
            clock=self._clock,
            reload=self._live_config.reload,
        )

    def _apply(self, event: Event) -> None:
        self._fleet.apply(event, self._clock())

    def _detail(self) -> dict[str, object]:
        detail = self._live_config.detail(self._live_config.status())
        if self._redis is not None:
            detail["private_redis"] = "running" if self._redis.is_running else "starting"
        return detail


def _picture_of(config: Config) -> FleetConfigured:
    return FleetConfigured(clusters_of(config), config.tiers, config.cluster_policy)


async def run(config: Config, announce: Callable[[Supervisor], None], file: Loaded | None = None) -> None:
    """Runs the workers until told to stop. Raises OSError or StartFailed when they can't start."""
    if not sys.platform.startswith("linux"):
        # Elsewhere SO_REUSEPORT does not spread connections, and no child ends with a parent that is killed.
        raise StartFailed("workers above 1 needs Linux")
    supervisor = Supervisor(config, file)
    supervisor.heed_signals()
    starting = asyncio.get_running_loop().create_task(supervisor.start())
    ending = asyncio.get_running_loop().create_task(supervisor.serve())
    try:
        await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            announce(supervisor)
            await ending
    finally:
        for task in (starting, ending):
            task.cancel()
        await asyncio.gather(starting, ending, return_exceptions=True)
        await supervisor.stop()
