"""Clients that leave against backends that misbehave, through one gateway: is anything left?"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.chaos.fleet import Member, eventually
from tests.chaos.leaving_clients import Clients, Ledger
from tests.proxy.processes import READY_S, Process

BACKENDS = 4
CONFIG = """listen: 127.0.0.1:0
admin: {{listen: '127.0.0.1:0'}}
access_log: '{log}'
timeouts: {{connect: 300ms, first_byte: 300ms, stall: 300ms, total: 2s, request_head: 1s, request_body: 1s}}
clusters:
- {{name: here, limit: 24, backends: ['{0}', '{1}']}}
- {{name: there, tier: backup, limit: 24, backends: ['{2}']}}
- {{name: spot, tier: spot, limit: 24, backends: ['{3}']}}
"""
# Everything of the gateway that is in use by a request, by its metric.
IN_USE = ("in_flight", "leases_held", "waiting", "buffered_bytes", "downstream_connections")
SETTLES_S = 10.0
# A request that comes so soon behind a stray answer was on its way when that was written.
CROSSING_S = 0.02
SLOTS = 4 * 24
_SAMPLE_S = 0.25
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_METRIC = re.compile(r"^spillway_(\w+?)(?:\{.*\})? (\S+)$", re.MULTILINE)

T = TypeVar("T")
_DEFECT = re.compile(r"Traceback|exchange \S+ failed|never retrieved")


class Verdict(NamedTuple):
    what: str
    measured: str
    is_met: bool


@dataclass
class Soak:
    """All that was found out."""

    ledger: Ledger
    took_s: float
    rss: list[tuple[int, int]]  # requests done, bytes
    metrics: dict[str, float]
    fleet_in_flight: int
    backend: dict[str, Any]
    seen: set[int]
    sockets_left: int
    census: tuple[dict[str, int], dict[str, int]]  # before and after
    lines: list[bytes]
    log: str  # of the gateway's own words
    verdicts: list[Verdict] = field(default_factory=list)


# --- the run -------------------------------------------------------------------------------------------


def soak(requests: int, folder: Path, *, users: int = 48, seed: int = 1, fault_share: float = 0.25) -> Soak:
    """Runs it and judges it. Raises AssertionError when something did not start or come to rest."""
    with _backends(seed, fault_share) as (ports, backend), _gateway(folder, ports) as gateway:
        before = census_of(gateway, folder)
        clients = Clients(gateway.port, requests, seed)
        started_s = time.monotonic()
        rss = asyncio.run(_loaded(clients, users, gateway.child.pid))
        took_s = time.monotonic() - started_s
        at_rest = _when_at_rest(lambda: _metrics(gateway), lambda m: not any(m[name] for name in IN_USE))
        fleet_in_flight = gateway.fleet()["in_flight"]
        told, seen = _ask(ports[-1], "/counts"), set(_ask(ports[-1], "/seen"))
        backend.stop()
        sockets = _when_at_rest(lambda: _sockets_beyond_listening(gateway.child.pid), lambda left: left == 0)
        after = _when_at_rest(lambda: census_of(gateway, folder), lambda now: now == before)
        gateway.child.terminate()
        assert gateway.child.wait(READY_S) == 0, "the gateway did not end well"
    found = Soak(
        clients.ledger, took_s, rss, at_rest, fleet_in_flight, told, seen, sockets, (before, after),
        (folder / "access.log").read_bytes().splitlines(), (folder / "gateway.log").read_text(),
    )  # fmt: skip
    found.verdicts = judge(found)
    return found


@contextmanager
def _backends(seed: int, fault_share: float) -> Iterator[tuple[list[int], Process]]:
    module = "tests.chaos.misbehaving_backend"
    argv = [sys.executable, "-m", module, str(seed), str(fault_share), str(BACKENDS)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    process = Process(child, (0,))
    try:
        yield json.loads(child.stdout.readline()), process
    finally:
        process.stop()


@contextmanager
def _gateway(folder: Path, ports: list[int]) -> Iterator[Member]:
    config, log = folder / "spillway.yaml", folder / "gateway.log"
    urls = [f"http://127.0.0.1:{port}" for port in ports[:BACKENDS]]
    config.write_text(CONFIG.format(*urls, log=folder / "access.log"))
    argv = [sys.executable, "-m", "tests.chaos.census_gateway", str(config), str(folder / "census.json")]
    with log.open("w") as words:
        child = subprocess.Popen(argv, stderr=words, text=True)
    found: list[tuple[str, str]] = []

    def is_ready() -> bool:
        assert child.poll() is None, log.read_text()
        found[:] = re.findall(r"ready on port (\d+), admin on port (\d+)", log.read_text())
        return bool(found)

    try:
        eventually(is_ready, READY_S, "the gateway is ready")
        yield Member(child, (int(found[0][0]), int(found[0][1])), log)
    finally:
        Process(child, (0,)).stop()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


async def _loaded(clients: Clients, users: int, pid: int) -> list[tuple[int, int]]:
    """The gateway's resident memory while all requests were made."""
    samples: list[tuple[int, int]] = []

    async def sample() -> None:
        while True:
            samples.append((clients.done, _resident_bytes(pid)))
            await asyncio.sleep(_SAMPLE_S)

    sampler = asyncio.get_running_loop().create_task(sample())
    await clients.run(users)
    sampler.cancel()
    return samples


def _when_at_rest(look: Callable[[], T], is_at_rest: Callable[[T], bool]) -> T:
    """What is seen when it is at rest, or at the end of the patience."""
    deadline_s = time.monotonic() + SETTLES_S
    while not is_at_rest(seen := look()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return seen


def census_of(gateway: Member, folder: Path) -> dict[str, int]:
    path = folder / "census.json"
    path.unlink(missing_ok=True)
    gateway.child.send_signal(signal.SIGUSR1)
    eventually(path.exists, READY_S, "the gateway counts what lives in it")
    return json.loads(path.read_text())


def _metrics(gateway: Member) -> dict[str, float]:
    """The sum of each metric over its labels."""
    found: Counter[str] = Counter()
    for name, value in _METRIC.findall(gateway.get("/metrics")[1]):
        found[name] += float(value)
    return dict(found)


def _ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def _sockets_beyond_listening(pid: int) -> int:
    """Its TCP sockets that do not listen, as the kernel knows them; those closed by both sides are gone."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    states = {fields[9]: fields[3] for fields in table}
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except FileNotFoundError:
            continue
        count += found is not None and states.get(found[1], "0A") != "0A"
    return count


# --- the verdicts --------------------------------------------------------------------------------------


def judge(found: Soak) -> list[Verdict]:
    rest = [_slots(found), _connections(found), _census(found)]
    return [*rest, _log(found), *_answers(found), _defects(found)]


def _slots(found: Soak) -> Verdict:
    names = ("in_flight", "leases_held", "waiting", "buffered_bytes")
    left = {name: int(found.metrics[name]) for name in names}
    left |= {"in flight by the fleet page": found.fleet_in_flight, "at backends": found.backend["in_flight"]}
    return Verdict("slots, waiters and bytes left", _text(left), not any(left.values()))


def _connections(found: Soak) -> Verdict:
    left = {
        "from clients": int(found.metrics["downstream_connections"]),
        # Those that are kept for the next request: no more than were ever in use at once.
        "more to backends than slots": max(found.backend["connections"] - SLOTS, 0),
        "sockets after the backends' end": found.sockets_left,
    }
    return Verdict("connections left", _text(left), not any(left.values()))


def _census(found: Soak) -> Verdict:
    before, after = found.census
    return Verdict("tasks and objects of requests left", _text(after), before == after)


def _log(found: Soak) -> Verdict:
    """Each line is of one request, and each request that was read has one."""
    ledger, entries, bad = found.ledger, [], 0
    for line in found.lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            bad += 1
    by_id = Counter(entry["request_id"] for entry in entries)
    status_of = {entry["request_id"]: entry["status"] for entry in entries}
    seen = {f"soak-{number}" for number in found.seen if number >= 0}
    must = ledger.must.keys() | (ledger.may & seen)
    known = must | ledger.may
    told = [(name, status) for name, status in ledger.must.items() if status is not None]
    wrong = {
        "not JSON": bad,
        "missing": len(must - by_id.keys()),
        "twice": sum(count > 1 for count in by_id.values()),
        # Who left early is not in the log, but for one that was refused because it took too long.
        "of nobody": sum(name not in known and status_of[name] != 408 for name in by_id),
        "another status than the client saw": sum(status_of.get(name) != status for name, status in told),
        "dropped": int(found.metrics["access_log_dropped_total"]),
        "more or fewer than were counted": abs(len(found.lines) - int(found.metrics["requests_total"])),
    }
    text = f"{len(found.lines)} lines, {len(must)} requests known to be read; {_text(wrong)}"
    return Verdict("log lines not accounted for", text, not any(wrong.values()))


def _answers(found: Soak) -> list[Verdict]:
    ledger = found.ledger
    crossed = {
        f"soak-{number}" for number, after_s in found.backend["crossed"].items() if after_s < CROSSING_S
    }
    wrong = [f"{name}, {why}" for name, why in ledger.wrong.items() if name not in crossed]
    what = f"{_count(wrong)} (and {len(ledger.wrong) - len(wrong)} that crossed on the way)"
    return [
        Verdict("answers with another's bytes, or cut and sold as whole", what, not wrong),
        Verdict("clients that hung", _count(ledger.hung), not ledger.hung),
        Verdict("requests without an answer", _count(ledger.unanswered), not ledger.unanswered),
    ]


def _defects(found: Soak) -> Verdict:
    told = [
        line
        for line in found.log.splitlines()
        if re.search(r"Traceback|exchange \S+ failed|never retrieved", line)
    ]
    count = len(told) + int(found.metrics["telemetry_failures_total"])
    return Verdict("defects that the gateway logged", f"{count} {told[:1] or ''}".strip(), count == 0)


def _text(counts: dict[str, int]) -> str:
    nonzero = {name: count for name, count in counts.items() if count}
    return ", ".join(f"{count} {name}" for name, count in nonzero.items()) or "0"


def _count(some: list[str]) -> str:
    return str(len(some)) + (f", the first: {some[0]}" if some else "")


def memory_growth(rss: list[tuple[int, int]]) -> float:
    """How much the second half of the requests added, by the slope of a straight line through it.

    As a share of the mean in that half.
    """
    half = rss[-1][0] / 2
    points = [(done, size) for done, size in rss if done >= half]
    mean_done = sum(done for done, _ in points) / len(points)
    mean_size = sum(size for _, size in points) / len(points)
    spread = sum((done - mean_done) ** 2 for done, _ in points)
    slope = sum((done - mean_done) * (size - mean_size) for done, size in points) / spread
    return slope * (points[-1][0] - points[0][0]) / mean_size
