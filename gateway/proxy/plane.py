"""The data plane as a whole: what all connections and exchanges share, and the sweep over them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import ssl
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from secrets import randbits

from gateway.config.schema import Config
from gateway.core.admission import KeyRules
from gateway.core.events import SWEEP_S
from gateway.core.fleet import BytesSeen, Event, FleetView
from gateway.core.model import Reason
from gateway.core.retries import ExtraAttempts
from gateway.ports import Clock, StateStore, Telemetry
from gateway.proxy.door import Door
from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.errors import Refusal
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import RequestHead
from gateway.proxy.large_bodies import LargeBodies
from gateway.proxy.listening import DataPort
from gateway.proxy.memory import MemoryGuard
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.settings import settings_of
from gateway.proxy.tracing import TraceContexts
from gateway.proxy.waiting_room import WaitingRoom
from gateway.proxy.writes import WriteBatch

log = logging.getLogger(__name__)

# At the end: what a client has sent, on a connection that is still idle to us, arrives within so long.
ON_ITS_WAY_S = 0.1
# Of a sweep, in one turn of the loop, and until its next one: an answer takes a few turns, few of which are
# to meet a turn of a sweep. A sweep that takes long pauses no more: thousands are late together.
SWEEP_TURN_S, SWEEP_PAUSE_S, SWEEP_LEISURE_S = 0.0001, 0.001, 0.1
# Connections whose deadline is looked at in one go, some 20 us.
SWEEP_LOOK = 256


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the data plane works with. `draw` gives 64 uniform bits; `apply` tells the fleet an event."""

    view: FleetView
    apply: Callable[[Event], None]
    store: StateStore
    telemetry: Telemetry
    clock: Clock
    draw: Callable[[], int]
    tracing: TraceContexts | None = None


class DataPlane:
    """Everything that the requests of one gateway share."""

    # Each request reads some forty of them, and with more than thirty a plain object keeps them in a dict.
    __slots__ = (
        "_connections",
        "_ids",
        "_is_empty",
        "_out_of_bytes",
        "_port",
        "_sweeper",
        "apply",
        "buffered_bytes",
        "clock",
        "closed",
        "door",
        "draw",
        "exchanges",
        "extra",
        "holding",
        "is_draining",
        "large_bodies",
        "loop",
        "memory",
        "paused",
        "pools",
        "progressed",
        "settings",
        "store",
        "telemetry",
        "tracing",
        "tunnels",
        "view",
        "waiting",
        "writes",
    )

    def __init__(
        self,
        config: Config,
        pools: Mapping[str, UpstreamPool],
        writes: WriteBatch,
        around: Surroundings,
    ) -> None:
        self.settings = settings_of(config)
        self.pools = pools
        self.view = around.view
        self.apply = around.apply
        self.store = around.store
        self.telemetry = around.telemetry
        self.clock = around.clock
        self.draw = around.draw
        self.tracing = around.tracing
        self.loop = asyncio.get_running_loop()
        self.writes = writes
        self.exchanges: set[Exchange] = set()
        self.waiting = WaitingRoom(self.loop, self.view, self.store, self.clock)
        self.holding = self.waiting.holding
        self.extra = ExtraAttempts()
        self.settings.set_budget(self.extra)
        self.progressed: set[str] = set()  # backends whose answers went on since the last sweep
        self.is_draining = False
        self.buffered_bytes = 0
        self.tunnels = 0
        self.large_bodies = LargeBodies()
        self.memory = MemoryGuard()
        self.door = Door(lambda: self.settings, self.memory)
        # Why clients were not read for a while, and why they were closed without an answer: see catalogue.py.
        self.paused: Counter[str] = Counter(pipelined=0, max_buffered=0)
        self.closed: Counter[str] = Counter(write=0, idle=0)
        self._connections = self.door.inside
        self._out_of_bytes: deque[DownstreamConnection] = deque()
        self._is_empty: asyncio.Event | None = None
        self._port = DataPort(
            lambda scheme: DownstreamConnection(self, scheme), self.settings.timeouts.write_s
        )
        # Unique in the fleet without a call into the kernel per request: in hexadecimal 16 digits of this
        # gateway's own, and 8 that count.
        self._ids = itertools.count((1 << 63 | randbits(63)) << 32)
        self._sweeper: asyncio.Handle = self.loop.call_later(SWEEP_S, self._sweep)

    # --- another configuration -----------------------------------------------------------------------

    def follow(self, config: Config, pools: Mapping[str, UpstreamPool]) -> None:
        """From now on these, for what begins now. What runs at backends that have left runs to its end."""
        before, self.pools = self.pools, pools
        self.settings = settings_of(config, self.settings)
        self.settings.set_budget(self.extra)
        self._port.follow(self.settings.timeouts.write_s)
        for pool in pools.values():
            pool.follow(config)
        for backend_id, pool in before.items():
            if pools.get(backend_id) is not pool:
                pool.retire()
        self.give_back_bytes(0)  # there may be room for more bytes now

    # --- listening and ending ------------------------------------------------------------------------

    async def listen(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None, *, reuse_port: bool = False
    ) -> int:
        """Opens the data port and tells which it is (for port 0); with `reuse_port` others share it."""
        return await self._port.open(host, port, ssl_context, is_shared=reuse_port)

    async def drain(self, delay_s: float, timeout_s: float) -> bool:
        """Ends what is served: every answer ends its connection, and after `delay_s` no new ones are taken.

        What was accepted is finished within `timeout_s` from then on. False when some had to be cut.
        """
        self.is_draining = True
        # A client that sends on an idle connection while it is closed gets no answer: so they stay too.
        await asyncio.sleep(delay_s)
        await self._port.close_the_door()
        await asyncio.sleep(ON_ITS_WAY_S)
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.close()
        if self._connections:
            self._is_empty = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), timeout_s)
        was_clean = not self.exchanges
        for exchange in tuple(self.exchanges):
            exchange.stop(Reason.SHUTDOWN)
        await asyncio.sleep(0.05)  # for the last events to reach their clients
        return was_clean

    async def close(self) -> None:
        self._sweeper.cancel()
        self.waiting.close()
        self._port.close()
        for connection in (*self._connections, *self.door.answered):
            connection.transport.abort()
        for pool in self.pools.values():
            pool.close_idle()
        await asyncio.sleep(0)
        self.large_bodies.close()

    def joined(self, connection: DownstreamConnection) -> Refusal | None:
        """A client has connected; a refusal when it may not."""
        return self.door.enter(connection)

    def left(self, connection: DownstreamConnection) -> None:
        self.door.leave(connection)
        if self._is_empty is not None and not self._connections:
            self._is_empty.set()

    @property
    def gateways(self) -> int:
        """That share what is limited for the whole fleet, this one included, as last heard."""
        return self.store.health().gateways

    @property
    def key_in_flight(self) -> dict[str, int]:
        """Requests in flight here, by the name of their client key."""
        keys = self.settings.keys
        return {name: use.in_flight for name, use in keys.uses.items()} if keys is not None else {}

    def key_rules(self) -> dict[str, KeyRules]:
        """By the names of client keys, as they are in force."""
        keys = self.settings.keys
        return {name: use.rules for name, use in keys.uses.items()} if keys is not None else {}

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    # --- request ids ---------------------------------------------------------------------------------

    def request_id(self, head: RequestHead | None) -> str:
        """The client's own, if it is well formed, else a new one."""
        if head is not None and head.request_id is not None:
            return head.request_id.decode()
        return hex(next(self._ids))[2:]

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

    def _end_standstill(self) -> None:
        """Bodies half read that fill the budget would wait for each other: the longest waiting may end.

        Only when no whole request holds bytes, which it will give back; and only one at a time.
        """
        if not self._out_of_bytes or self.buffered_bytes <= self.settings.max_buffered_bytes:
            return
        half_read = sum(connection.body_bytes for connection in self._connections)
        if half_read < self.buffered_bytes or any(c.may_exceed_budget for c in self._connections):
            return
        while self._out_of_bytes:
            connection = self._out_of_bytes.popleft()
            if connection in self._connections:
                connection.may_exceed_budget = True
                connection.read_again()
                return

    # --- the sweep -----------------------------------------------------------------------------------

    def _sweep(self) -> None:
        now_s = self.clock()
        self._go_on_sweeping(self._swept(now_s), now_s + SWEEP_LEISURE_S)

    def _go_on_sweeping(self, sweep: Iterator[None], leisure_until_s: float) -> None:
        """As far as it gets in one turn; the rest in later ones, with everybody else's work between."""
        end_s = self.clock() + SWEEP_TURN_S
        try:
            for _ in sweep:
                if (now_s := self.clock()) > end_s:
                    pause_s = SWEEP_PAUSE_S if now_s < leisure_until_s else 0.0
                    self._sweeper = self.loop.call_later(
                        pause_s, self._go_on_sweeping, sweep, leisure_until_s
                    )
                    return
        except Exception:
            log.exception("the sweep failed")
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    def _swept(self, now_s: float) -> Iterator[None]:
        """Yields after everything that may take long."""
        self.memory.look(self.settings.max_memory_bytes, now_s)
        for exchange in tuple(self.exchanges):
            if exchange in self.exchanges:
                exchange.check(now_s)
                yield
        if self.progressed:
            self.apply(BytesSeen(tuple(self.progressed)))
            self.progressed.clear()
        inside, answered = self._connections, self.door.answered
        everybody = (*inside, *answered)
        for start in range(0, len(everybody), SWEEP_LOOK):
            for late in [one for one in everybody[start : start + SWEEP_LOOK] if now_s >= one.deadline_s]:
                if now_s >= late.deadline_s and (late in inside or late in answered):
                    late.expire()
                    yield
            yield
        for pool in self.pools.values():
            pool.sweep(now_s)
        self._end_standstill()
