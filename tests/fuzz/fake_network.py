"""A whole gateway without a socket: the data port's and the backend's real protocols on transports in memory.

What a client sends goes in, what reaches the backend and the client comes out, in a few turns of the event
loop. So a fuzzer tries hundreds of inputs a second, and each runs through all that a live one does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import h11

from gateway.app import Gateway
from gateway.config.fleet import fleet_of
from gateway.config.loading import parse
from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.upstream import UpstreamConnection

GOOD_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Type: application/json\r\n\r\ntrue"
# The circuit stays closed, or most inputs of a hostile backend would be refused unseen.
_CONFIG = """
access_log: 'off'
max_body: 64KiB
hold: {max_wait: 0s}
retry: {attempts: 1}
breaker: {consecutive: 100000, min_samples: 100000}
clusters: [{name: here, limit: 64, backends: ['http://127.0.0.1:9']}]
"""
_TURNS = 400


# Whoever looks whether something waits in the kernel finds nothing: what waits is in `_pending`.
_SILENT = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class FakeTransport(asyncio.Transport):
    """Bytes in memory. What is fed while reading is paused waits, as it would in the kernel."""

    def __init__(self, protocol: asyncio.Protocol, on_write: Callable[[bytes], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", 40_000), "socket": _SILENT})
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._on_write = on_write
        self._is_paused = False
        self._pending: deque[bytes] = deque()
        self._is_closing = False
        self._is_lost = False
        self.has_sent_eof = False
        protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        if self._is_paused or self._pending:
            self._pending.append(data)
        elif data and not self._is_closing:
            self._protocol.data_received(data)

    def _deliver(self) -> None:
        while self._pending and not self._is_paused and not self._is_closing:
            self._protocol.data_received(self._pending.popleft())

    def lose(self) -> None:
        """The other side is gone."""
        self._is_closing = True
        if not self._is_lost:
            self._is_lost = True
            self._protocol.connection_lost(None)

    @property
    def is_behind(self) -> bool:
        """Whether something that was fed has not been read."""
        return bool(self._pending) and not self._is_closing

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._loop.call_soon(self._deliver)

    def write(self, data: Any) -> None:
        assert not self.has_sent_eof, "written after the end was said"
        if not self._is_closing:
            self._on_write(bytes(data))

    def write_eof(self) -> None:
        self.has_sent_eof = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True
        self._loop.call_soon(self.lose)

    abort = close


class Forwarded(NamedTuple):
    """One request as it reached the backend: every byte of it, and h11's reading."""

    raw: bytes
    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class _Backend:
    """Reads with h11, which must find one whole request after the other; answers by the world's scripts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._parser = h11.Connection(h11.SERVER)
        self._raw = b""
        self._events: list[Any] = []
        self.transport: FakeTransport

    def on_write(self, data: bytes) -> None:
        self._raw += data
        self._parser.receive_data(data)
        while (event := self._parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            self._events.append(event)
            if isinstance(event, h11.EndOfMessage):
                head, *parts, _ = self._events
                assert not self._parser.trailing_data[0], "more than one request was written at once"
                body = b"".join(bytes(part.data) for part in parts)
                self._world.forwarded.append(
                    Forwarded(self._raw, head.method, head.target, list(head.headers), body)
                )
                self._raw, self._events, self._parser = b"", [], h11.Connection(h11.SERVER)
                self._answer()
                return

    def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        script = self._world.scripts.popleft() if self._world.scripts else None
        for segment in script or (GOOD_ANSWER,):
            loop.call_soon(self.transport.feed, segment)
        if script is not None:
            loop.call_soon(self._end)

    def _end(self) -> None:
        if self.transport.is_behind:
            asyncio.get_running_loop().call_soon(self._end)
        else:
            self.transport.lose()


class _Faults(logging.Handler):
    """What a gateway logs when it catches a mistake of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


class World:
    """One gateway, one backend and one client after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, told: self._faults.seen.append(repr(told)))
        self._faults = _Faults()
        self._log = logging.getLogger("gateway")
        self._log.addHandler(self._faults)
        self.forwarded: list[Forwarded] = []
        self.scripts: deque[Sequence[bytes]] = deque()
        self._gateway = self.loop.run_until_complete(self._start())
        self._plane = self._gateway._plane

    async def _start(self) -> Gateway:
        config = parse(_CONFIG, "fuzz.yaml", "/", {})
        gateway = Gateway(config)
        gateway.apply(fleet_of(config))
        await gateway._store.start()
        for pool in gateway._plane.pools.values():
            pool.connect = lambda pool=pool: self._connect(pool)  # type: ignore[method-assign,misc]
        return gateway

    async def _connect(self, pool: UpstreamPool) -> UpstreamConnection:
        connection = UpstreamConnection(pool, self._gateway._clock())
        backend = _Backend(self)
        backend.transport = FakeTransport(connection, backend.on_write)
        return connection

    def close(self) -> None:
        self._log.removeHandler(self._faults)
        self.loop.run_until_complete(self._gateway.stop())
        self.loop.close()

    def serve(self, segments: Sequence[bytes], *answers: Sequence[bytes]) -> tuple[list[Forwarded], bytes]:
        """What reached the backend and the client when the client sends these and then waits.

        The backend answers the first requests with the segments of `answers`, each time then ending the
        connection, and all others well. Fails when anything is left of it once the client has gone.
        """
        self.forwarded, self.scripts = [], deque(answers)
        heard: list[bytes] = []
        transport = self.loop.run_until_complete(self._open(heard.append))
        for segment in segments:
            self.loop.call_soon(transport.feed, segment)
            self._turn(2)
        self._until(lambda: not self._plane.exchanges and not transport.is_behind)
        assert not self._plane.exchanges, "an exchange does not end"
        self._turn(2)
        self.loop.call_soon(transport.lose)
        self._turn(3)
        for pool in self._plane.pools.values():
            self.loop.call_soon(pool.close_idle)
        self._turn(3)
        self.check_clean()
        return self.forwarded, b"".join(heard)

    async def _open(self, on_write: Callable[[bytes], None]) -> FakeTransport:
        return FakeTransport(DownstreamConnection(self._plane), on_write)

    def _turn(self, count: int) -> None:
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def _until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(_TURNS):
            self._turn(1)
            if is_so():
                return

    def check_clean(self) -> None:
        plane, view = self._plane, self._gateway._fleet.view
        assert not self._faults.seen, self._faults.seen
        assert not plane.exchanges, "an exchange has not ended"
        assert plane.buffered_bytes == 0, f"{plane.buffered_bytes} buffered bytes were not given back"
        assert plane.connection_count == 0
        assert all(backend.in_flight == 0 for backend in view.backends.values()), "a slot has leaked"
        assert not any(map(self._gateway._store.leases_held, view.backends)), "a lease has leaked"
        busy = [
            task for task in asyncio.all_tasks(self.loop) if "Attempt" in repr(cast(Any, task).get_coro())
        ]
        assert not busy, busy
