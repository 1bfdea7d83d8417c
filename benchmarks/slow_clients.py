"""Do thousands of clients that send slowly or read nothing cost the good ones anything?

usage: python benchmarks/slow_clients.py [--quick]

5,000 clients that never end their head, 5,000 that never end their body and 1,000 that ask for a large
answer and read none of it, all at once; beside them good clients, measured before, while, and after.
A gateway whose deadlines are made short, and each side in a process of its own, on loopback. Reports the
p99 of the good ones, the gateway's resident memory, and when the slow ones were closed.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

import uvloop

DEADLINE_S = 15.0
CONFIG = """
listen: 127.0.0.1:{port}
admin: {{listen: 127.0.0.1:{admin}}}
access_log: 'off'
max_connections: 20000
timeouts:
  {{connect: 5s, request_head: {deadline}s, request_body: {deadline}s, write: {deadline}s, stall: 60s}}
clusters:
  - {{name: good, limit: 5000, models: [m], backends: ['http://127.0.0.1:{good}']}}
  - {{name: bad, limit: 5000, models: [large], backends: ['http://127.0.0.1:{bad}']}}
"""
GOOD_BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 600)
LARGE_ANSWER_BYTES = 8 * 2**20
# What has begun is let settle: how fast 11,000 can connect is another question.
SETTLE_S = 2.0
# A client that reads nothing does not see that it is closed: so the gateway's sockets are counted.
MAX_GOOD_SOCKETS = 50
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def post(body: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- the backend, in a process of its own -------------------------------------------------------------


def backend(told: Any) -> None:
    raise_file_limit()
    uvloop.run(_backend(told))


async def _backend(told: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                size = LARGE_ANSWER_BYTES if b"large" in body else 500
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
                for at in range(0, size, 2**16):
                    writer.write(b"y" * min(2**16, size - at))
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    told.send(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


# --- the slow ones, in a process of their own ---------------------------------------------------------


class SlowClient(asyncio.Protocol):
    """Says `first`, and reads on only if it `reads`."""

    def __init__(self, first: bytes, reads: bool, closed: list[float]) -> None:
        self._first, self._reads, self._closed = first, reads, closed
        self._began_s = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self._first)
        if not self._reads:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.append(time.monotonic() - self._began_s)


async def connected(port: int, client: SlowClient) -> SlowClient:
    """With a small window, so that the kernel does not take the whole answer in the client's place."""
    end = socket.socket()
    end.setblocking(False)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(end, ("127.0.0.1", port))
    await loop.create_connection(lambda: client, sock=end)
    return client


def attack(orders: Any) -> None:
    raise_file_limit()
    uvloop.run(_attack(orders))


async def _attack(orders: Any) -> None:
    port, counts = orders.recv()
    loop = asyncio.get_running_loop()
    firsts = (HEAD, post(b"x" * 5000)[:-4000], post(b'{"model":"large"}'))
    closed: list[list[float]] = [[], [], []]
    clients: list[SlowClient] = []
    for kind, count in enumerate(counts):
        for start in range(0, count, 200):
            number = min(200, count - start)
            made = [connected(port, SlowClient(firsts[kind], kind < 2, closed[kind])) for _ in range(number)]
            clients += await asyncio.gather(*made)
    orders.send("all are there")
    end_s = loop.time() + 2 * DEADLINE_S + 10
    while loop.time() < end_s and [len(one) for one in closed[:2]] != list(counts[:2]):  # noqa: ASYNC110
        await asyncio.sleep(0.25)
    orders.send(closed)


# --- the good ones ------------------------------------------------------------------------------------


async def good(port: int, for_s: float, rate: float) -> list[float]:
    """Latencies of requests sent at an even pace, whatever became of those before."""
    seen: list[float] = []
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(due_s: float) -> None:
        reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(GOOD_BODY))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(500)
        seen.append(time.perf_counter() - due_s)
        free.append((reader, writer))

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as asking:
        for number in range(int(for_s * rate)):
            due_s = began_s + number / rate
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            due_s = time.perf_counter()  # uvloop's timers go by whole milliseconds
            asking.create_task(ask(due_s))
    for _, writer in free:
        writer.close()
    return seen


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def shown(latencies: list[float]) -> str:
    cuts = quantiles(latencies, n=1000)
    return f"p50 {cuts[499] * 1e3:.2f} ms, p99 {cuts[989] * 1e3:.2f} ms, of {len(latencies)}"


async def measure(port: int, pid: int, orders: Any, counts: tuple[int, ...], for_s: float) -> None:
    loop = asyncio.get_running_loop()
    await good(port, 2, 200)
    print(f"before: {shown(await good(port, for_s, 200))}; {rss_mib(pid):.0f} MiB")
    sockets = len(os.listdir(f"/proc/{pid}/fd"))
    orders.send((port, counts))
    assert await loop.run_in_executor(None, orders.recv) == "all are there"
    there_s = loop.time()
    await asyncio.sleep(SETTLE_S)
    highest = rss_mib(pid)
    latencies = await good(port, min(for_s, DEADLINE_S / 2), 200)
    highest = max(highest, rss_mib(pid))
    print(f"while:  {shown(latencies)}; {highest:.0f} MiB with {sum(counts)} slow ones")
    while len(os.listdir(f"/proc/{pid}/fd")) > sockets + MAX_GOOD_SOCKETS:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    print(f"the gateway has closed all of them {loop.time() - there_s:.1f} s after the last had come")
    closed = await loop.run_in_executor(None, orders.recv)
    for name, count, times in zip(("slow heads", "slow bodies"), counts, closed, strict=False):
        last = f"the last after {max(times):.1f} s" if times else "none"
        print(f"{name}: {len(times)} of {count} closed, {last} (deadline {DEADLINE_S:g} s)")
    print(f"after:  {shown(await good(port, for_s, 200))}; {rss_mib(pid):.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the slow ones")
    counts = (500, 500, 100) if parser.parse_args().quick else (5000, 5000, 1000)
    raise_file_limit()
    spawn = multiprocessing.get_context("spawn")
    (told, tell), (orders, theirs) = multiprocessing.Pipe(), multiprocessing.Pipe()
    others = [spawn.Process(target=backend, args=(tell,), daemon=True) for _ in range(2)]
    others += [spawn.Process(target=attack, args=(theirs,), daemon=True)]
    for process in others:
        process.start()
    port, admin = 18480, 18490
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "gateway.yaml"
        config.write_text(
            CONFIG.format(port=port, admin=admin, good=told.recv(), bad=told.recv(), deadline=int(DEADLINE_S))
        )
        command = [str(Path(sys.executable).with_name("spillway")), "serve", "-c", str(config)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as gateway:
            try:
                time.sleep(4)
                uvloop.run(measure(port, gateway.pid, orders, counts, 10.0))
            finally:
                gateway.terminate()
    for process in others:
        process.terminate()


if __name__ == "__main__":
    main()
