"""The data plane as a whole: what all connections and exchanges share, and the sweep over them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex

from gateway.core.fleet import Event, FleetView
from gateway.core.model import Reason
from gateway.ports import Clock, StateStore, Telemetry
from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import RequestHead
from gateway.proxy.paths import PathTable
from gateway.proxy.upstream import UpstreamPool

log = logging.getLogger(__name__)

# Deadlines are looked at this often: no deadline is later than this, and no byte sets a timer.
SWEEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. The first byte may take `first_byte_s` plus `first_byte_per_kib_s` for each KiB asked."""

    first_byte_s: float = 30.0
    first_byte_per_kib_s: float = 0.02
    stall_s: float = 15.0
    total_s: float = 600.0
    request_head_s: float = 10.0
    request_body_s: float = 30.0
    keep_alive_s: float = 75.0
    write_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    timeouts: Timeouts = field(default_factory=Timeouts)
    attempts: int = 3
    max_body_bytes: int = 32 * 1024 * 1024
    max_buffered_bytes: int = 512 * 1024 * 1024
    extra_paths: tuple[str, ...] = ()


class DataPlane:
    """Everything that the requests of one gateway share."""

    def __init__(
        self,
        settings: PlaneSettings,
        *,
        view: FleetView,
        apply: Callable[[Event], None],
        store: StateStore,
        telemetry: Telemetry,
        pools: Mapping[str, UpstreamPool],
        clock: Clock,
        draw: Callable[[], int],
        models_body: bytes,
    ) -> None:
        self.settings = settings
        self.timeouts = settings.timeouts
        self.max_body_bytes = settings.max_body_bytes
        self.paths = PathTable(settings.extra_paths)
        self.view = view
        self.apply = apply
        self.store = store
        self.telemetry = telemetry
        self.pools = pools
        self.clock = clock
        self.draw = draw
        self.models_body = models_body
        self.loop = asyncio.get_running_loop()
        self.exchanges: set[Exchange] = set()
        self.is_draining = False
        self.buffered_bytes = 0
        self._connections: set[DownstreamConnection] = set()
        self._out_of_bytes: deque[DownstreamConnection] = deque()
        self._servers: list[asyncio.Server] = []
        # Unique in the fleet without a call into the kernel per request.
        self._id_prefix = token_hex(8)
        self._id_count = itertools.count(1)
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    # --- listening and ending ------------------------------------------------------------------------

    async def listen(self, host: str, port: int, ssl_context: ssl.SSLContext | None = None) -> int:
        """Opens the data port and tells which it is (for port 0)."""
        scheme = b"http" if ssl_context is None else b"https"
        server = await self.loop.create_server(
            lambda: DownstreamConnection(self, scheme), host, port, ssl=ssl_context, backlog=4096
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def drain(self, timeout_s: float) -> bool:
        """No new connections; what was accepted is finished. False when some had to be cut."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.transport.close()
        deadline_s = self.clock() + timeout_s
        while self._connections and self.clock() < deadline_s:
            await asyncio.sleep(0.05)
        was_clean = not self.exchanges
        for exchange in tuple(self.exchanges):
            exchange.stop(Reason.SHUTDOWN)
        await asyncio.sleep(0.05)
        return was_clean

    async def close(self) -> None:
        self._sweeper.cancel()
        for connection in tuple(self._connections):
            connection.transport.abort()
        for pool in self.pools.values():
            pool.close_idle()
        await asyncio.sleep(0)

    def joined(self, connection: DownstreamConnection) -> None:
        self._connections.add(connection)

    def left(self, connection: DownstreamConnection) -> None:
        self._connections.discard(connection)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    # --- request ids ---------------------------------------------------------------------------------

    def request_id(self, head: RequestHead | None) -> str:
        """The client's own, if it is well formed, else a new one."""
        if head is not None and head.request_id is not None:
            return head.request_id.decode()
        return f"{self._id_prefix}{next(self._id_count):08x}"

    # --- the budget of buffered body bytes -----------------------------------------------------------

    def take_bytes(self, count: int) -> bool:
        """Counts buffered bytes; True when the sender must wait before it sends more."""
        self.buffered_bytes += count
        return self.buffered_bytes > self.settings.max_buffered_bytes

    def wait_for_bytes(self, connection: DownstreamConnection) -> None:
        self._out_of_bytes.append(connection)

    def give_back_bytes(self, count: int) -> None:
        self.buffered_bytes -= count
        while self._out_of_bytes and self.buffered_bytes <= self.settings.max_buffered_bytes:
            self._out_of_bytes.popleft().read_again()

    # --- the sweep -----------------------------------------------------------------------------------

    def _sweep(self) -> None:
        now_s = self.clock()
        try:
            for exchange in tuple(self.exchanges):
                exchange.check(now_s)
            for connection in tuple(self._connections):
                if now_s >= connection.deadline_s:
                    connection.expire()
            for pool in self.pools.values():
                pool.sweep(now_s)
        except Exception:
            log.exception("the sweep failed")
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
