"""How long does a large request body keep all other streams of a gateway waiting?

usage: python benchmarks/loop_lag.py [--quick]

A gateway runs in this process; a client and a backend run in another one. Every half millisecond something
looks at the clock on the gateway's loop: by what it comes too late any stream would have waited. "read" is
the look at a body that is there already, "whole" a request from its first byte to its answer, with a model
that the cluster has another name for. "in place" is without the process for large bodies. Milliseconds: the
longest of a run, the median of runs.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from statistics import median

import uvloop

from gateway.app import Gateway
from gateway.config.loading import parse
from gateway.proxy import bodies, exchange
from gateway.proxy.bodies import facts_of

MIB = 2**20
TICK_S = 0.0005
CONFIG = """
listen: 127.0.0.1:0
admin: {{listen: 127.0.0.1:0}}
access_log: 'off'
clusters: [{{name: a, limit: 8, models: {{m: up, n: n}}, backends: ['http://127.0.0.1:{port}']}}]
"""


def shapes(size: int) -> Iterator[tuple[str, bytes]]:
    yield "one long string", b'{"model":"m","prompt":"' + b"lorem ipsum " * (size // 12) + b'"}'
    yield "escapes", b'{"model":"m","prompt":"' + b'a\\nb\\"' * (size // 6) + b'"}'
    yield "outside ASCII", '{{"model":"m","prompt":"{}"}}'.format("é日本 " * (size // 9)).encode()
    yield "token ids", b'{"model":"m","prompt":[' + b"12345," * (size // 6) + b"1]}"
    yield (
        "messages",
        b'{"messages":[' + b'{"role":"user","content":"hi"},' * (size // 31) + b'{}],"model":"m"}',
    )
    yield "nested", b'{"model":"m","x":[' + b"[[[[[]]]]]," * (size // 11) + b"1]}"
    # Where a field may stand twice in disguise, or a number be too large, all of it is read.
    yield "escaped keys", b'{"model":"m"' + b',"\\u0061":1' * ((size - 13) // 11) + b"}"
    yield "deep, disguised", b'{"\\u0061":1,"model":"m","x":[' + _DEEP * ((size - 31) // len(_DEEP)) + b"1]}"
    yield "deep, 1e000", b'{"model":"m","y":1e000,"x":[' + _DEEP * ((size - 30) // len(_DEEP)) + b"1]}"


_DEEP = b"[" * 900 + b"]" * 900 + b","


class LagWatch:
    """The longest time that nothing else had its turn: by the clock, and of that on the CPU.

    On a machine with other work the clock counts that too.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._forget()
        self._look()

    def _forget(self) -> None:
        self._longest_s = self._longest_cpu_s = 0.0
        self._seen_s, self._seen_cpu_s = time.perf_counter(), time.thread_time()

    def _look(self) -> None:
        now_s, cpu_s = time.perf_counter(), time.thread_time()
        self._longest_s = max(self._longest_s, now_s - self._seen_s - TICK_S)
        self._longest_cpu_s = max(self._longest_cpu_s, cpu_s - self._seen_cpu_s)
        self._seen_s, self._seen_cpu_s = now_s, cpu_s
        self._loop.call_later(TICK_S, self._look)

    async def over(self, work: Awaitable[object]) -> tuple[float, float]:
        await asyncio.sleep(0.02)
        self._forget()
        await work
        await asyncio.sleep(0.005)
        return self._longest_s, self._longest_cpu_s


def other_side(ports: multiprocessing.connection.Connection) -> None:
    """Backend and client: answers every request, and sends what it is told to."""
    uvloop.run(_other_side(ports))


async def _other_side(ports: multiprocessing.connection.Connection) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=4 * MIB)
    ports.send(server.sockets[0].getsockname()[1])
    loop = asyncio.get_running_loop()
    while (order := await loop.run_in_executor(None, ports.recv)) is not None:
        port, body = order
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n")
        writer.write(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        ports.send((await reader.read()).split(b" ")[1])
        writer.close()


async def sent(ports: multiprocessing.connection.Connection, port: int, body: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, ports.send, (port, body))
    while not ports.poll():  # noqa: ASYNC110 - a thread that waits would be one that competes
        await asyncio.sleep(TICK_S)
    assert ports.recv() == b"200"


async def in_place(body: bytes) -> None:
    facts_of(b"", body, is_json=True, finds_span=True)


def columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [wall for wall, _ in pairs], [cpu for _, cpu in pairs]


async def measure(sizes: list[int], rounds: int) -> None:
    ports, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=other_side, args=(theirs,), daemon=True)
    child.start()
    backend_port = await asyncio.get_running_loop().run_in_executor(None, ports.recv)
    gateway = Gateway(parse(CONFIG.format(port=backend_port), "loop_lag.yaml", Path()))
    await gateway.start()
    watch, threshold, hard = LagWatch(), exchange.LARGE_BODY_BYTES, bodies.HARD_BODY_BYTES
    await sent(ports, gateway.port, next(shapes(threshold))[1] * 1 + b" " * threshold)  # starts the reader
    quiet_s, _ = await watch.over(asyncio.sleep(1.0))
    print(f"nothing to do: {quiet_s * 1e3:.1f} ms by the clock; below: by the clock (on the CPU)")
    heads = ("read in place", "read apart", "whole in place", "whole apart", "not renamed")
    print(f"{'MiB':>6} {'body':16}" + "".join(f"{head:>17}" for head in heads))
    large = gateway._plane.large_bodies
    for size in sizes:
        for name, body in shapes(size):
            figures: list[list[tuple[float, float]]] = [[] for _ in heads]
            other = body.replace(b'"model":"m"', b'"model":"n"')
            for _ in range(rounds):
                figures[0].append(await watch.over(in_place(body)))
                figures[1].append(await watch.over(large.read(b"", body, is_json=True)))
                for place, limit, asked in ((2, 2**40, body), (3, threshold, body), (4, threshold, other)):
                    exchange.LARGE_BODY_BYTES = limit
                    bodies.HARD_BODY_BYTES = limit if place == 2 else hard
                    figures[place].append(await watch.over(sent(ports, gateway.port, asked)))
            shown = "".join(
                f"{1e3 * median(w):8.1f} ({1e3 * median(c):5.1f}) " for w, c in map(columns, figures)
            )
            print(f"{size / MIB:6.2f} {name:16} {shown}", flush=True)
    ports.send(None)
    await gateway.stop()
    child.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, 1 MiB only")
    quick = parser.parse_args().quick
    sizes = [MIB] if quick else [MIB // 4, MIB, 8 * MIB, 31 * MIB]
    uvloop.run(measure(sizes, 1 if quick else 3))


if __name__ == "__main__":
    main()
