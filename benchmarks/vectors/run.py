"""Hostile bytes through Spillway, nginx and HAProxy: as expected, hung, slots leaked?

usage: python benchmarks/vectors/run.py FILE [--peers spillway,nginx,haproxy] [--write]

FILE holds vectors (expectations.py tells their form). Each goes through each proxy in three segmentations, on
a connection of its own; the next request must get its own answer. In the end as many requests as there are
slots are held at the backend at once: what does not arrive has leaked. `--write` keeps the table in results.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import hashlib
import json
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPO)]

from expectations import SEGMENTATIONS, Heard, Segments, Vector, is_as_expected, read  # noqa: E402
from peers import NAMES, SLOTS, NotInstalled, start  # noqa: E402

from tests.proxy.dialogue import Answer, Client, Ending, ScriptedBackend, post, reply  # noqa: E402

# Every timeout of the proxies is a second; who has not ended after three has hung.
HUNG_S = 3.0
SILENT_S = 0.15
GOOD = b'{"ok":true}'


@dataclass
class Tally:
    """What came of one segmentation at one proxy."""

    sent: int = 0
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)


class Bench:
    """A proxy between our client and our backend."""

    def __init__(self, backend: ScriptedBackend, port: int) -> None:
        self.backend, self.port = backend, port

    async def send(self, vector: Vector, how: str) -> Heard:
        segments = vector.segments(how)
        self.backend.scripts.clear()
        seen = len(self.backend.requests)
        if vector.side == "response":
            ending = Ending.RST if vector.id in ("RS-02", "RS-26", "RS-42") else Ending.FIN
            self.backend.will(*segments, 0.02, ending)
            segments = [post()]
        patience_s = HUNG_S + sum(part for part in vector.given if isinstance(part, float))
        answers, is_closed, is_hung = await self._talk(segments, SILENT_S, patience_s)
        self.backend.scripts.clear()
        return Heard(
            [answer.status for answer in answers],
            [answer.body for answer in answers],
            [answer.head for answer in answers],
            is_closed,
            all(answer.is_whole for answer in answers),
            is_hung,
            len(self.backend.requests) - seen,
        )

    async def _talk(
        self, segments: Segments, silent_s: float, patience_s: float = HUNG_S
    ) -> tuple[list[Answer], bool, bool]:
        """The answers, whether the proxy closed, and whether it neither closed nor answered."""
        client = await Client.connect(self.port)
        answers: list[Answer] = []
        try:
            await client.send(*segments)
            answers.append(await client.answer(patience_s))
            while True:
                answers.append(await client.answer(silent_s))
        except TimeoutError:
            return answers, False, not answers
        except (asyncio.IncompleteReadError, ConnectionError):
            return answers, True, False
        except (AssertionError, ValueError, KeyError, asyncio.LimitOverrunError):
            return answers, True, False  # no HTTP/1.1: passed on unread
        finally:
            client.close()

    async def is_clean(self) -> bool:
        """Whether the next request gets its own answer."""
        answers, _, _ = await self._talk([post(b'{"model":"m"}', "Connection: close")], 0.01)
        return [answer.body for answer in answers] == [GOOD]

    async def free_slots(self) -> int:
        """How many of SLOTS requests the backend holds at once."""
        self.backend.default = [2.0, reply()]
        seen = len(self.backend.requests)
        clients = [await Client.connect(self.port) for _ in range(SLOTS)]
        for client in clients:
            await client.send(post())
        await asyncio.sleep(0.8)
        arrived = len(self.backend.requests) - seen
        for client in clients:
            client.close()
        self.backend.default = [reply()]
        return arrived


async def measure(name: str, vectors: Sequence[Vector]) -> tuple[dict[str, Tally], int, str]:
    """The tallies by segmentation, the slots leaked, and the version. Raises NotInstalled."""
    backend = ScriptedBackend()
    await backend.listen()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process, version = start(name, Path(folder) / name, port, backend.port)
        try:
            await _until_it_listens(port, process)
            bench = Bench(backend, port)
            tallies = {how: await _tally(bench, vectors, how) for how in SEGMENTATIONS}
            return tallies, SLOTS - await bench.free_slots(), version
        finally:
            process.terminate()
            process.wait(10)
            await backend.stop()


async def _tally(bench: Bench, vectors: Sequence[Vector], how: str) -> Tally:
    tally = Tally()
    for vector in vectors:
        heard = await bench.send(vector, how)
        tally.sent += 1
        if heard.is_hung:
            tally.hung.append(vector.id)
        elif not is_as_expected(vector, heard) or not await bench.is_clean():
            tally.wrong.append(vector.id)
    return tally


async def _until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            (await Client.connect(port)).close()
            return
        if process.poll() is not None:
            break
        await asyncio.sleep(0.1)
    raise SystemExit("a proxy did not start")


def row(name: str, how: str, tally: Tally, leaked: int) -> str:
    good = tally.sent - len(tally.wrong) - len(tally.hung)
    return f"| {name} | {how} | {good} of {tally.sent} | {len(tally.hung)} | {leaked} |"


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    vectors = read(chosen.file)
    digest = hashlib.sha256(chosen.file.read_bytes()).hexdigest()[:16]
    lines = ["| proxy | segments | as expected | hung | slots leaked |", "|---|---|---:|---:|---:|"]
    raw: dict[str, object] = {"file": chosen.file.name, "sha256": digest, "vectors": len(vectors)}
    print("\n".join(lines))
    for name in chosen.peers.split(","):
        try:
            tallies, leaked, version = await measure(name, vectors)
        except NotInstalled:
            print(f"(not installed: {name})", file=sys.stderr)
            continue
        raw[name] = {"version": version, "slots_leaked": leaked} | {
            how: {"sent": tally.sent, "wrong": tally.wrong, "hung": tally.hung}
            for how, tally in tallies.items()
        }
        label = name if name == "spillway" else f"{name} {version}"
        found = [row(label, how, tally, leaked) for how, tally in tallies.items()]
        print("\n".join(found))
        for how, tally in tallies.items():
            print(f"({how}: hung {tally.hung}, otherwise {tally.wrong})", file=sys.stderr)
        lines += found
    if chosen.write:
        _write(lines, raw)


def _write(lines: list[str], raw: dict[str, object]) -> None:
    describe = ["git", "-C", str(REPO), "describe", "--always", "--dirty=+", "--abbrev=10"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    now = datetime.datetime.now(datetime.UTC)
    raw |= {"commit": commit, "date": now.isoformat(timespec="seconds"), "python": platform.python_version()}
    stem = REPO / "benchmarks" / "results" / f"vectors-{now:%Y-%m-%d-%H%M}-{commit.rstrip('+')}"
    what = f"{raw['vectors']} vectors of `{raw['file']}` (sha256 {raw['sha256']}), commit {commit}."
    caveat = (
        "nginx and HAProxy run with their defaults and no rules: part of what is expected (known paths\n"
        "and methods, bodies that are read, headers that are dropped) is a gateway's work, not a proxy's.\n"
        "Which vectors went otherwise is in the JSON file beside this one."
    )
    how = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]
    text = ["# Hostile bytes", "", what, "", *lines, "", how.strip(), "", caveat]
    stem.with_suffix(".md").write_text("\n".join(text) + "\n")
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
