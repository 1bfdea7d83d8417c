"""Two gateways are started anew, one after the other, under 100 ten-second streams a second: nobody notices.

In front stands HAProxy, or a client that tries the other gateway when a port is closed. Neither sends a
request twice, so whatever is lost on the way counts.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.fleet import eventually
from tests.proxy.dialogue import Client, post, settled
from tests.proxy.processes import Engine, GatewayProcess, running, start_engine
from tests.redis_server import RedisServer

RATE, STREAM_S, TOKENS = 100, 10.0, 20
MESSAGES = [{"role": "user", "content": "Tell me a story."}]
ASKED = {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
BODY = json.dumps(ASKED).encode()
DRAIN_DELAY_S = 1.0
# Five times more often than the delay lasts.
CHECK_MS = 200
HAPROXY = """
defaults
  mode tcp
  timeout connect 1s
  timeout client 1m
  timeout server 1m
frontend clients
  bind 127.0.0.1:{port}
  default_backend gateways
backend gateways
  balance roundrobin
  option httpchk GET /readyz
  option redispatch
{servers}
"""


class Place(NamedTuple):
    """Where a gateway lives, whichever process it is at the moment."""

    port: int
    admin_port: int
    config: Path

    def start(self) -> GatewayProcess:
        child = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "serve", "-c", str(self.config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stderr is not None
        line = child.stderr.readline()
        assert "ready on port" in line, line + child.stderr.read()
        return GatewayProcess(child, (self.port, self.admin_port))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def places(engine: Engine, redis: RedisServer, folder: Path) -> list[Place]:
    made = []
    for number in range(2):
        port, admin_port = free_ports(2)
        config = folder / f"gateway-{number}.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{port}\nadmin: {{listen: '127.0.0.1:{admin_port}'}}\naccess_log: 'off'\n"
            f"state: {{url: '{redis.url}', fleet: rolling-{port}}}\n"
            f"drain_delay: {DRAIN_DELAY_S:g}s\ndrain_timeout: 30s\n"
            f"clusters: [{{name: here, limit: 4000, backends: ['{engine.url}']}}]\n"
        )
        made.append(Place(port, admin_port, config))
    return made


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Streams:
    """Begins RATE streams a second, on kept connections where there are any, and judges each."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = deque(ports)
        self._idle: deque[Client] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.told: Counter[str] = Counter()
        self.lost: list[str] = []
        self.reused = 0

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        """While the block lasts; at its end all that have begun are waited for."""
        sender = asyncio.get_running_loop().create_task(self._send())
        try:
            yield
        finally:
            sender.cancel()
            async with asyncio.timeout(STREAM_S + 10):
                await asyncio.gather(*self._tasks)
            for client in self._idle:
                client.close()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        start_s, number = loop.time(), 0
        while True:
            await asyncio.sleep(max(start_s + number / RATE - loop.time(), 0.0))
            number += 1
            self._tasks.add(loop.create_task(self._ask()))

    def note(self, what: str) -> None:
        """For the message, when the test fails."""
        self.lost.append(f"{asyncio.get_running_loop().time():.3f} {what}")

    async def _ask(self) -> None:
        reused = self.reused
        try:
            client = await self._client()
        except ConnectionError as error:
            self.told["no connection"] += 1
            self.note(f"no connection: {error!r}")
            return
        was_kept = self.reused > reused
        try:
            await client.send(post(BODY))
            answer = await client.answer(STREAM_S + 10)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.told["cut before the head"] += 1
            self.note(f"cut on a {'kept' if was_kept else 'new'} connection: {error!r}")
            client.close()
            return
        is_whole = answer.is_whole and answer.body.endswith(b"data: [DONE]\n\n")
        self.told[f"{answer.status} {'whole' if is_whole else 'cut'}"] += 1
        if answer.header("connection") == "close":
            client.close()
        else:
            self._idle.append(client)

    async def _client(self) -> Client:
        """Raises ConnectionError when every port is closed."""
        while self._idle:
            client = self._idle.popleft()
            if not client.reader.at_eof():
                self.reused += 1
                return client
            client.close()
        self._ports.rotate()
        first, *others = self._ports
        for port in others:
            try:
                return await Client.connect(first)
            except ConnectionRefusedError:
                first = port
        return await Client.connect(first)


@contextmanager
def haproxy(gateways: Sequence[Place], folder: Path) -> Iterator[int]:
    """Its port."""
    (port,) = free_ports(1)
    servers = "\n".join(
        f"  server g{number} 127.0.0.1:{place.port} check port {place.admin_port} "
        f"inter {CHECK_MS}ms fall 2 rise 1"
        for number, place in enumerate(gateways)
    )
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, servers=servers))
    child = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: is_open(port), 5, "haproxy listens")
        yield port
    finally:
        child.terminate()
        child.wait(10)


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("in_front", ["haproxy", "a retrying client"])
async def test_a_rolling_restart_cuts_nothing(in_front, redis_server, tmp_path):
    if in_front == "haproxy" and shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    engine = start_engine("--ttft", "50ms", "--tpot", f"{STREAM_S / TOKENS:g}s", "--max-num-seqs", "8000")
    gateways = places(engine, redis_server, tmp_path)
    members = [place.start() for place in gateways]
    with running(engine):
        try:
            if in_front == "haproxy":
                with haproxy(gateways, tmp_path) as port:
                    await roll(gateways, members, Streams([port]))
            else:
                await roll(gateways, members, Streams([place.port for place in gateways]))
            assert await settled(lambda: engine.counter("in_flight") == 0)
            for member in members:
                assert member.fleet()["in_flight"] == 0
        finally:
            for member in members:
                member.stop()


async def roll(gateways: list[Place], members: list[GatewayProcess], streams: Streams) -> None:
    """Both are replaced in the midst of the load."""
    async with streams.going():
        await asyncio.sleep(STREAM_S + 2)  # a thousand are in flight, and connections are used again
        for number, place in enumerate(gateways):
            streams.note(f"SIGTERM to {number}")
            members[number].child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(members[number].child.wait, 40) == 0, "it had to cut something"
            members[number].stop()  # its pipes
            streams.note(f"{number} has ended")
            members[number] = await asyncio.to_thread(place.start)
            streams.note(f"{number} is back")
            await asyncio.sleep(2)
    assert set(streams.told) == {"200 whole"}, (streams.told, streams.lost)
    assert streams.reused > RATE, "connections are kept"
    assert streams.told.total() > 3 * RATE * STREAM_S
