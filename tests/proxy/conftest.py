"""A gateway in this process between scripted backends and raw clients; it must be clean after each test."""

from __future__ import annotations

import contextlib
import socket
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.app import Gateway
from gateway.config.loading import parse
from gateway.ports import RequestRecord, Telemetry
from gateway.proxy.plane import DataPlane
from tests.proxy.dialogue import Answer, Client, ScriptedBackend, post, settled

_OWN_LINES = "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\naccess_log: 'off'\n"
_TIERS = ("primary", "backup", "spot")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The loop that the command runs on."""
    return {"uvloop": uvloop.new_event_loop}


class _Noting:
    """Telemetry that also lets the test look at the records."""

    def __init__(self, inner: Telemetry, records: list[RequestRecord]) -> None:
        self._inner, self._records = inner, records

    def record(self, record: RequestRecord) -> None:
        self._records.append(record)
        self._inner.record(record)


class Running:
    """A gateway under test, its clients, and what it holds at the moment."""

    def __init__(self, gateway: Gateway, good_request: bytes) -> None:
        self.gateway = gateway
        self.good_request = good_request
        self.is_stopped = False
        self.records: list[RequestRecord] = []
        self._clients: list[Client] = []
        self.plane.telemetry = _Noting(self.plane.telemetry, self.records)

    @property
    def plane(self) -> DataPlane:
        return self.gateway._plane

    @property
    def port(self) -> int:
        return self.gateway.port

    @property
    def in_flight(self) -> int:
        return sum(backend.in_flight for backend in self.gateway._fleet.view.backends.values())

    @property
    def leases(self) -> int:
        return sum(map(self.gateway._store.leases_held, self.gateway._fleet.view.backends))

    @property
    def is_clean(self) -> bool:
        """Nothing of any request is left."""
        held = (self.in_flight, self.leases, len(self.plane.exchanges), self.plane.buffered_bytes)
        return held == (0, 0, 0, 0)

    async def connect(self, tls: Any = None) -> Client:
        client = await Client.connect(self.port, tls)
        self._clients.append(client)
        return client

    async def ask(self, request: bytes, within_s: float = 3.0) -> Answer:
        """One request on a connection of its own."""
        client = await self.connect()
        await client.send(request)
        answer = await client.answer(within_s)
        client.close()
        return answer

    async def metrics(self) -> str:
        """The page as a scraper gets it."""
        client = await Client.connect(self.gateway.admin_port)
        await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await client.answer()
        client.close()
        return answer.body.decode()

    async def stop(self) -> None:
        self.is_stopped = True
        for client in self._clients:
            client.close()
        await self.gateway.stop()

    async def check_clean(self) -> None:
        for client in self._clients:
            client.close()
        await settled(lambda: self.is_clean)
        assert self.in_flight == 0, "a slot has leaked in the fleet view"
        assert self.leases == 0, "a lease has leaked in the store"
        assert not self.plane.exchanges, "an exchange has not ended"
        assert self.plane.buffered_bytes == 0, "buffered bytes were not given back"


StartGateway = Callable[..., Awaitable[Running]]


def one_per_tier(*backends: ScriptedBackend, limit: int = 8) -> str:
    """Clusters named like their tier, one backend each."""
    lines = [
        f"- {{name: {tier}, tier: {tier}, limit: {limit}, backends: ['{backend.url}']}}"
        for tier, backend in zip(_TIERS, backends, strict=False)
    ]
    return "\n".join(["clusters:", *lines])


@pytest.fixture
async def backends() -> AsyncIterator[list[ScriptedBackend]]:
    """Every backend of the test, to be healed and stopped at its end."""
    made: list[ScriptedBackend] = []
    yield made
    for backend in made:
        await backend.stop()


@pytest.fixture
async def start_backend(backends: list[ScriptedBackend]) -> Callable[..., Awaitable[ScriptedBackend]]:
    async def start(tls: Any = None) -> ScriptedBackend:
        backend = ScriptedBackend()
        backend.tls = tls
        await backend.listen()
        backends.append(backend)
        return backend

    return start


@pytest.fixture
async def start_gateway(backends: list[ScriptedBackend], tmp_path: Path) -> AsyncIterator[StartGateway]:
    """Starts gateways from YAML, or from backends, one for each tier. Checks each when the test is over."""
    started: list[Running] = []

    async def start(
        *parts: str | ScriptedBackend, good_request: bytes | None = None, limit: int = 8
    ) -> Running:
        text = "\n".join(textwrap.dedent(part) for part in parts if isinstance(part, str))
        fleet = [part for part in parts if isinstance(part, ScriptedBackend)]
        if fleet:
            text += "\n" + one_per_tier(*fleet, limit=limit)
        running = Running(Gateway(parse(_OWN_LINES + text, "test.yaml", tmp_path)), good_request or post())
        await running.gateway.start()
        started.append(running)
        return running

    yield start
    try:
        for running in started:
            if not running.is_stopped:  # a test that ends a gateway looks for itself
                await running.check_clean()
                for backend in backends:
                    await backend.heal()
                assert (await running.ask(running.good_request)).status == 200
                await running.check_clean()
    finally:
        for running in started:
            await running.stop()


@pytest.fixture
async def impatient(
    start_backend: Callable[..., Awaitable[ScriptedBackend]], start_gateway: Callable[..., Awaitable[Running]]
) -> tuple[Running, ScriptedBackend, ScriptedBackend]:
    """A gateway that soon gives a silent backend up, its primary and its backup."""
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("timeouts: {first_byte: 300ms, connect: 300ms}", primary, backup)
    return gateway, primary, backup


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port on which connecting never ends: its listener's queue is full and nobody accepts."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port
