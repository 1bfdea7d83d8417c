"""The composition root: the only file that knows every adapter, and the life of one gateway process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import time
from collections.abc import Callable
from functools import partial
from random import SystemRandom, getrandbits, seed
from typing import TYPE_CHECKING

from gateway.admin.one_gateway import OneGateway
from gateway.admin.ports import AdminPorts, AdminSettings, GatewayState, GatewayStatus, settings_of
from gateway.admin.server import AdminServer
from gateway.config.fixed import restart_needed
from gateway.config.fleet import fleet_of
from gateway.config.loading import Loaded
from gateway.config.problems import ConfigError, Problem
from gateway.config.schema import Config
from gateway.core.events import TICK_S
from gateway.core.fleet import (
    CloseIdleConnections,
    Drained,
    Effects,
    Event,
    Fleet,
    ReportCircuit,
    SendSyntheticProbe,
    SetLimits,
    ShareClosing,
    ShareOpening,
    Ticked,
    Undrained,
    UnknownName,
)
from gateway.health.checks import HealthChecks
from gateway.health.targets import Surroundings as HealthSurroundings
from gateway.health.targets import targets_of
from gateway.lifetime import Lifetime
from gateway.live_config import LiveConfig
from gateway.ports import ConfigStatus, StateStore
from gateway.processes.worker_place import WorkerPlace
from gateway.proxy.plane import DataPlane, Surroundings
from gateway.proxy.pool import pools_of
from gateway.proxy.server_tls import ServerTls
from gateway.proxy.tracing import TraceContexts
from gateway.proxy.writes import WriteBatch
from gateway.state.memory import MemoryStore
from gateway.telemetry.access_log import open_access_log
from gateway.telemetry.exposition import Exposition, GaugeSources
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer

if TYPE_CHECKING:
    from gateway.telemetry.spans import SpanSink

log = logging.getLogger(__name__)


class Gateway:
    """One gateway: `start`, then `serve` until told to stop, or `stop` at once. Raises OSError at start."""

    def __init__(self, config: Config, place: WorkerPlace | None = None, file: Loaded | None = None) -> None:
        """With a `file`, what `config` was loaded from, its changes are adopted while the gateway
        serves, and so are the backends that are found.
        """
        self._config = config
        self._place = place
        self._clock = time.monotonic
        self._fleet = Fleet()
        wall_clock = time.time  # noqa: TID251 - a log's ts is wall time, and so is what people are told
        self._metrics = Metrics(wall_clock)
        self._store = self._make_store()
        self._lifetime = Lifetime(self._finish)
        draw = _uniform_draws()
        self._live_config = LiveConfig(file, self._adopt, self._clock, wall_clock)
        self._drains: dict[str, float] = {}  # in force, also of names that nobody here bears
        self.generation = place.generation if place is not None else 1
        self._access_log = open_access_log(config.access_log, wall_clock, is_shared=place is not None)
        self._spans = _open_spans(config, wall_clock)
        self._writes = writes = WriteBatch(asyncio.get_running_loop())
        self._tls = ServerTls(config.tls) if config.tls is not None else None
        self._plane = DataPlane(
            config,
            pools_of(config, self._clock, writes),
            writes,
            Surroundings(
                view=self._fleet.view,
                apply=self.apply,
                store=self._store,
                telemetry=Observer(self._metrics, self._access_log, self._spans),
                clock=self._clock,
                draw=draw,
                tracing=_tracing(config, draw),
            ),
        )
        self._health = HealthChecks(
            HealthSurroundings(self._fleet.view, self.apply, self._store, self._clock, draw)
        )
        self._admin = self._make_admin()
        self.port = 0
        self.admin_port = 0

    def apply(self, event: Event) -> None:
        """Tells the fleet what happened, and does what it says is to be done: for most events nothing."""
        if effects := self._fleet.apply(event, self._clock()):
            self._carry_out(effects)
        if self._plane.holding.count:
            self._plane.waiting.review()

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case SetLimits(limits, caps):
                    self._store.set_limits(limits, caps)
                case SendSyntheticProbe(backend_id, generation):
                    self._health.try_half_open(backend_id, generation)
                case ShareOpening() | ShareClosing():
                    self._store.share_circuit(effect)
                case ReportCircuit():
                    self._report(effect)
                case CloseIdleConnections(backend_ids):
                    for backend_id in backend_ids:
                        if (pool := self._plane.pools.get(backend_id)) is not None:
                            pool.close_idle()

    def _report(self, change: ReportCircuit) -> None:
        backend_id, circuit, trigger, reason = change
        if trigger is None or reason is None:
            log.info("the circuit of %s is %s", backend_id, circuit)
            return
        log.warning("the circuit of %s is %s: %s, %s", backend_id, circuit, trigger, reason)
        self._metrics.record_opening(backend_id.partition("@")[0], backend_id, reason)

    def apply_and_share(self, event: Event) -> None:
        """An operator's event: what it says of drains is said to all gateways of the fleet."""
        self.apply(event)
        self._note_drain(event)
        match event:
            case Drained(name, until_s):
                self._store.share_drain(name, until_s - self._clock())
            case Undrained(name):
                self._store.share_drain(name, None)

    def _apply_heard(self, event: Event) -> None:
        """What other gateways told; they may know clusters that this one does not, or not yet."""
        self._note_drain(event)
        with contextlib.suppress(UnknownName):
            self.apply(event)

    def _note_drain(self, event: Event) -> None:
        match event:
            case Drained(name, until_s):
                self._drains[name] = until_s
            case Undrained(name):
                self._drains.pop(name, None)

    def _drain_who_came(self) -> None:
        """A drain is about a name: it holds for who bears it later, or comes back under it."""
        now_s, view = self._clock(), self._fleet.view
        self._drains = {name: until_s for name, until_s in self._drains.items() if until_s > now_s}
        for name, until_s in self._drains.items():
            state = view.clusters.get(name) or view.backends.get(name)
            if state is not None and state.drained_until_s is None:
                self.apply(Drained(name, until_s))

    async def start(self) -> None:
        config = self._config
        self.apply(fleet_of(config))
        for name, until_s in (self._place.drains if self._place else {}).items():
            self._apply_heard(Drained(name, until_s))
            self._store.assume_drain(name, until_s - self._clock())
        await self._store.start()
        await self._admin.start()
        self.admin_port = self._admin.port
        await self._live_config.find_backends(config)
        config = self._config
        tls = self._tls.context if self._tls is not None else None
        self.port = await self._plane.listen(
            config.listen.host, config.listen.port, tls, reuse_port=self._place is not None
        )
        self._health.follow(targets_of(config))
        self._tick()
        self._live_config.start()
        self._lifetime.state = GatewayState.READY

    def adopt(self, config: Config) -> None:
        """Another configuration in place of this one, at once and as a whole; an equal one changes nothing.

        What runs ends as it began; kept backends keep their connections, counters, circuits and drains.
        Raises ConfigError for what only a restart changes and OSError for certificates that can't be
        loaded: then all stays as it is. To be called while it serves, on its event loop.
        """
        if config == self._config:
            return
        if fixed := restart_needed(self._config, config):
            raise ConfigError([Problem("", 0, setting, why) for setting, why in fixed.items()])
        # First all that can fail, of which nothing is in force yet.
        pools = pools_of(config, self._clock, self._writes, self._plane.pools)
        targets = targets_of(config)
        self._health.prepare(targets)
        tls = self._tls.prepared(config.tls) if self._tls and config.tls else None
        picture = fleet_of(config)
        # Then nothing that can: there is no moment between the two pictures.
        self._config = config
        self._plane.follow(config, pools)
        self.apply(picture)
        self._drain_who_came()
        self._health.follow(targets)
        self._admin.follow(self._admin_settings())
        if self._tls is not None and config.tls is not None and tls is not None:
            self._tls.renew(config.tls, tls)

    async def _adopt(self, config: Config, generation: int) -> None:
        self.adopt(config)

    def heed_signals(self) -> None:
        """SIGTERM and SIGINT drain. SIGHUP reads the configuration and opens the access log anew."""
        self._lifetime.heed_signals(self._on_hangup)

    def _on_hangup(self) -> None:
        if self._access_log is not None:
            self._access_log.reopen()
        self._live_config.reload_soon()

    async def serve(self) -> None:
        """Until told to stop, and drained."""
        await self._lifetime.over()
        await self.stop()

    async def drain(self) -> bool:
        """Begins the end, or joins one that has begun. True when everything accepted was finished."""
        return await self._lifetime.drain()

    async def _finish(self) -> bool:
        return await self._plane.drain(self._config.drain_delay_s, self._config.drain_timeout_s)

    async def stop(self) -> None:
        await self._live_config.stop()
        await self._health.stop()
        await self._plane.close()
        await self._store.stop()
        await self._admin.stop()
        if self._access_log is not None:
            self._access_log.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)

    def _tick(self) -> None:
        self.apply(Ticked(getrandbits(64)))
        if not self._lifetime.is_over:
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _status(self) -> GatewayStatus:
        health = self._store.health()
        # A gateway without its store still serves: that is a detail of a ready one.
        detail = self._live_config.detail(self.config_status())
        if health.is_degraded:
            detail["store"] = f"degraded: {health.detail}"
        return GatewayStatus(self._lifetime.state, len(self._plane.exchanges), detail)

    def config_status(self) -> ConfigStatus:
        return self._live_config.status(self.generation)

    def _make_store(self) -> StateStore:
        state = self._config.state
        if state.url is None:
            return MemoryStore()
        # Only here: redis-py costs memory that a gateway by itself need not pay for.
        from gateway.state.keys import Keys
        from gateway.state.redis import RedisLink
        from gateway.state.shared import Company, SharedStore

        company = Company(
            clock=self._clock,
            draw=lambda: getrandbits(53) / 2**53,
            apply=self._apply_heard,
            latencies=lambda: self._fleet.take_latencies(self._clock()),
            observe_exchange=self._metrics.record_exchange,
        )
        link = RedisLink(state.url.reveal(), Keys(state.fleet).news)
        return SharedStore(link, state.fleet, company, expected_gateways=self._config.workers)

    def _admin_settings(self) -> AdminSettings:
        if self._place is not None:
            return AdminSettings(socket_path=self._place.admin_socket)
        return settings_of(self._config.admin)

    def _make_admin(self) -> AdminServer:
        access_log, spans = self._access_log, self._spans
        exposition = Exposition(
            self._metrics,
            GaugeSources(
                view=self._fleet.view,
                clock=self._clock,
                leases_held=self._store.leases_held,
                store_health=self._store.health,
                downstream_connections=lambda: self._plane.connection_count,
                tunnels=lambda: self._plane.tunnels,
                refused_connections=lambda: self._plane.door.refused,
                paused_reading=lambda: self._plane.paused,
                closed_connections=lambda: self._plane.closed,
                is_over_memory=lambda: self._plane.memory.is_over,
                buffered_bytes=lambda: self._plane.buffered_bytes,
                config_status=self.config_status,
                key_in_flight=lambda: self._plane.key_in_flight,
                waiting=lambda: self._plane.holding.count,
                discovery=self._live_config.found,
                access_log_dropped=lambda: access_log.dropped if access_log is not None else 0,
                spans_dropped=lambda: spans.dropped if spans is not None else 0,
            ),
        )
        return AdminServer(
            self._admin_settings(),
            OneGateway(
                AdminPorts(
                    view=self._fleet.view,
                    apply=self.apply_and_share,
                    status=self._status,
                    drain=self.drain,
                    render_metrics=exposition.render,
                    clock=self._clock,
                    reload=self._live_config.reload,
                    key_rules=self._plane.key_rules,
                )
            ),
        )


async def run(
    config: Config,
    announce: Callable[[Gateway], None],
    place: WorkerPlace | None = None,
    file: Loaded | None = None,
) -> bool:
    """Runs one gateway until it is told to stop; True when it finished all it had accepted.

    Raises OSError when it can't start.
    """
    _raise_file_limit()
    gateway = Gateway(config, place, file)
    await gateway.start()
    gateway.heed_signals()
    announce(gateway)
    # What has been made so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await gateway.serve()
    return await gateway.drain()


def _uniform_draws() -> Callable[[], int]:
    """64 random bits a call, from a generator seeded by the system."""
    seed(SystemRandom().getrandbits(128))
    return partial(getrandbits, 64)


class TracingMissing(OSError):
    """The configuration wants traces, and what sends them is not installed."""

    def __init__(self) -> None:
        super().__init__("`tracing` needs OpenTelemetry: pip install 'spillway[tracing]'")


def _open_spans(config: Config, wall_clock: Callable[[], float]) -> SpanSink | None:
    if config.tracing is None:
        return None
    try:
        # Only here: an extra, and memory that a gateway without traces need not pay for.
        from gateway.telemetry.spans import Collector, open_spans
    except ImportError as exc:
        raise TracingMissing from exc
    tracing = config.tracing
    headers = {header.name: header.secret.reveal() for header in tracing.headers if header.secret}
    collector = Collector(tracing.traces_url, tracing.service_name, tracing.max_queue, headers)
    return open_spans(collector, wall_clock)


def _tracing(config: Config, draw: Callable[[], int]) -> TraceContexts | None:
    settings = config.tracing
    if settings is None:
        return None
    return TraceContexts(draw, settings.sample_ratio, settings.follow_client)


def _raise_file_limit() -> None:
    """Two sockets per open stream: the soft limit of 1,024 would end at 500 streams."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
