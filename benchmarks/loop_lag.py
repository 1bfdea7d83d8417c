"""How long does a large request body keep all other streams of a gateway waiting?

example: scripts/bench loop_lag --rounds 5

A gateway runs in this process; a client and a backend run in another one. Every half millisecond something
looks at the clock on the gateway's loop: by what it comes too late any stream would have waited. "read" is
the look at a body that is there already, "whole" a request from its first byte to its answer, with a model
that the cluster has another name for. "in place" is without the process for large bodies. Milliseconds: the
longest of a run, the median of runs.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import multiprocessing
import multiprocessing.connection
import sys
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

REPO = Path(__file__).resolve().parents[1]
sys.path += [str(REPO / "benchmarks" / "peers"), str(REPO)]

from peers import git_commit  # noqa: E402
from processes import machine_busy_s  # noqa: E402
from report import machine, table  # noqa: E402

from gateway.app import Gateway  # noqa: E402
from gateway.config.loading import parse  # noqa: E402
from gateway.proxy import bodies, exchange  # noqa: E402
from gateway.proxy.bodies import facts_of  # noqa: E402

MIB = 2**20
TICK_S = 0.0005
# What is hard to read takes a second for every 2 MiB, and is refused after ten: larger ones can't be timed.
LARGEST_HARD_BYTES = 8 * MIB
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
    if size > LARGEST_HARD_BYTES:
        return
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


# By head, of each run: milliseconds by the clock, and of that on the CPU.
Figures = dict[str, list[list[float]]]
HEADS = ("read in place", "read apart", "whole in place", "whole apart", "not renamed")
CAVEATS = [
    "Milliseconds by the clock (on the CPU): the longest of a run, the median of runs. By the clock counts "
    "what others use of the machine, too.",
    '"read" is the look at a body that is there already, "whole" a request from its first byte to its '
    'answer, with a model that the cluster has another name for; "not renamed" is the same without. "In '
    'place" is without the process for large bodies (ADR 0041).',
]  # fmt: skip


async def measure(sizes: list[int], rounds: int) -> dict[str, Any]:
    """Milliseconds of each run, [by the clock, on the CPU], by size and shape of the body and by head."""
    ports, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=other_side, args=(theirs,), daemon=True)
    child.start()
    backend_port = await asyncio.get_running_loop().run_in_executor(None, ports.recv)
    gateway = Gateway(parse(CONFIG.format(port=backend_port), "loop_lag.yaml", Path()))
    await gateway.start()
    watch, threshold, hard = LagWatch(), exchange.LARGE_BODY_BYTES, bodies.HARD_BODY_BYTES
    await sent(ports, gateway.port, next(shapes(threshold))[1] + b" " * threshold)  # starts the reader
    quiet = await watch.over(asyncio.sleep(1.0))
    large = gateway._plane.large_bodies
    runs: dict[str, Figures] = {}
    for size in sizes:
        for name, body in shapes(size):
            figures: Figures = {head: [] for head in HEADS}
            other = body.replace(b'"model":"m"', b'"model":"n"')

            async def note(head: str, work: Awaitable[object], into: Figures = figures) -> None:
                into[head].append([round(s * 1e3, 2) for s in await watch.over(work)])

            for _ in range(rounds):
                await note(HEADS[0], in_place(body))
                await note(HEADS[1], large.read(b"", body, is_json=True))
                for head, limit, asked in (
                    (HEADS[2], 2**40, body), (HEADS[3], threshold, body), (HEADS[4], threshold, other)
                ):  # fmt: skip
                    exchange.LARGE_BODY_BYTES = limit
                    bodies.HARD_BODY_BYTES = limit if head == HEADS[2] else hard
                    await note(head, sent(ports, gateway.port, asked))
            runs[f"{size / MIB:g} MiB, {name}"] = figures
            print(f"{size / MIB:g} MiB, {name}: {shown(figures)}", file=sys.stderr, flush=True)
    ports.send(None)
    await gateway.stop()
    child.join()
    return {"nothing to do": [round(s * 1e3, 2) for s in quiet], "runs": runs}


def shown(figures: Figures) -> list[str]:
    return [
        f"{median(wall for wall, _ in runs):.1f} ({median(cpu for _, cpu in runs):.1f})"
        for runs in figures.values()
    ]


def markdown(report: dict[str, Any]) -> str:
    spec, found = report["machine"], report["milliseconds"]
    facts = [
        f"Date {report['date']}, commit {report['commit']}, {report['rounds']} runs of each.",
        f"Machine: {spec['cpu']}, {spec['cores']} cores, Linux {spec['kernel']}, CPython {spec['python']}; "
        f"{report['busy_cores']:g} cores in use, everybody's.",
        f"With nothing to do for a second: {found['nothing to do'][0]} ({found['nothing to do'][1]}).",
        *CAVEATS,
    ]
    rows = [[name, *shown(figures)] for name, figures in found["runs"].items()]
    bullets = "\n".join(f"- {fact}" for fact in facts)
    return f"# How long a large body keeps others waiting\n\n{bullets}\n\n" + table(["body", *HEADS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round, 1 MiB only")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results")
    args = parser.parse_args()
    sizes, rounds = ([MIB], 1) if args.quick else ([MIB // 4, MIB, 8 * MIB, 31 * MIB], args.rounds)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    commit, busy_s, started_s = git_commit(REPO), machine_busy_s(), time.monotonic()
    found = uvloop.run(measure(sizes, rounds))
    busy = (machine_busy_s() - busy_s) / (time.monotonic() - started_s)
    report = {"date": now, "commit": commit, "machine": machine(), "rounds": rounds,
              "busy_cores": round(busy, 2), "milliseconds": found}  # fmt: skip
    text = markdown(report)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"loop_lag-{now[:10]}-{now[11:16].replace(':', '')}-{commit.rstrip('+')}"
    (args.out / f"{stem}.md").write_text(text)
    (args.out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
