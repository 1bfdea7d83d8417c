"""Do thousands of clients that send slowly or read nothing cost the good ones anything?

example: scripts/bench slow_clients --non-readers 100

5,000 clients that never end their head, 5,000 that never end their body and 1,000 that ask for 8 MiB and read
none of it, all at once; beside them good ones, 200 requests a second, measured before, while, until all the
slow ones are closed, and after. A real `spillway serve` with short deadlines and a cap on its memory; each
side in a process of its own, on loopback. Exits with 1 when a verdict is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import uvloop

REPO = Path(__file__).resolve().parents[1]
sys.path += [str(REPO / "benchmarks"), str(REPO / "benchmarks" / "peers"), str(REPO)]

from _slow_clients_roles import GIVE_UP_AFTER_S, Closed, attack, backend, post, raise_file_limit  # noqa: E402
from peers import git_commit  # noqa: E402
from processes import cpu_s, machine_busy_s  # noqa: E402
from report import machine, table  # noqa: E402

from tests.proxy.processes import running, start_gateway_process  # noqa: E402

COUNTS = {"slow heads": 5000, "slow bodies": 5000, "non-readers": 1000}
CONFIG = """
max_connections: 20000
max_buffered: 128MiB
max_memory: {max_memory}
timeouts: {{connect: 5s, request_head: {deadline:g}s, request_body: {deadline:g}s, write: {deadline:g}s}}
clusters:
- {{name: good, limit: 5000, models: [m], backends: ['http://127.0.0.1:{good}']}}
- {{name: large, limit: 5000, models: [large], backends: ['http://127.0.0.1:{large}']}}
"""
GOOD_BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 600)
GOOD_PER_S = 200
WARM_UP_S = 2.0
# What has begun is let settle: how fast 11,000 can connect is another question.
SETTLE_S = 3.0
MAX_RATIO = 1.2
# The sweeps that look at deadlines, and thousands of answers to write.
MAX_LATE_S = 1.5
SAMPLE_S = 0.25
# Of the gateway's, that come and go beside those of clients.
SPARE_FILES = 10
UNREAD = 'spillway_closed_connections_total{reason="write"}'
CAVEATS = [
    "Gateway, backends, slow and good clients share the machine's cores, with whoever else uses them, and "
    "one kernel: its memory for TCP is that of all ends. The far ends have small buffers; the gateway's are "
    "as it sets them.",
    "A latency is counted from when the request is sent, by a client in Python.",
    "Until all are there nothing is judged: how fast thousands may connect is another question.",
]  # fmt: skip


@dataclass
class Watch:
    """What was seen of the gateway and of the kernel; `marks` is when each phase began."""

    pid: int
    rss_mib: list[tuple[float, float]] = field(default_factory=list)
    tcp_mib: list[tuple[float, float]] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, phase: str) -> None:
        self.marks[phase] = time.perf_counter()

    def look(self) -> None:
        now_s, page_mib = time.perf_counter(), os.sysconf("SC_PAGESIZE") / 2**20
        rss_pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        tcp = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line[:4] == "TCP:")
        self.rss_mib.append((now_s, round(rss_pages * page_mib, 1)))
        self.tcp_mib.append((now_s, round(int(tcp.split()[-1]) * page_mib, 1)))

    async def keep_looking(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(SAMPLE_S)


class GoodClients:
    """Requests sent at an even pace, whatever became of those before; (sent, took) of each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._asking: set[asyncio.Task[None]] = set()
        self.seen: list[tuple[float, float]] = []
        self.failed = 0

    async def run(self) -> None:
        due_s = time.perf_counter()
        while True:
            due_s += 1 / GOOD_PER_S
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            task = asyncio.create_task(self._ask())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self) -> None:
        sent_s = time.perf_counter()
        try:
            there = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
            there[1].write(post(GOOD_BODY))
            head = await there[0].readuntil(b"\r\n\r\n")
            await there[0].readexactly(500)
            if not head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(head)
        except (OSError, EOFError):
            self.failed += 1
        else:
            self._free.append(there)
        self.seen.append((sent_s, time.perf_counter() - sent_s))

    @property
    def connections(self) -> int:
        return len(self._free) + len(self._asking)

    async def end(self) -> None:
        await asyncio.gather(*self._asking)
        for _, writer in self._free:
            writer.close()

    def between(self, *spans_s: tuple[float, float]) -> dict[str, float]:
        """Of those that were sent in any of the spans (start, end)."""
        took_ms = sorted(
            took * 1e3 for sent, took in self.seen if any(start <= sent < end for start, end in spans_s)
        )
        if not took_ms:
            return {"count": 0}
        shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
        at = {name: min(int(len(took_ms) * share), len(took_ms) - 1) for name, share in shares.items()}
        return {"count": len(took_ms)} | {name: round(took_ms[place], 2) for name, place in at.items()}


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def counted(admin_url: str, series: str) -> int:
    """A counter of the gateway's."""
    with urllib.request.urlopen(f"{admin_url}/metrics", timeout=5) as answer:
        return int(float(answer.read().decode().split(f"\n{series} ")[1].split("\n")[0]))


async def told(orders: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, orders.recv)


async def measure(
    port: int, pid: int, orders: Any, counts: tuple[int, ...], quiet_s: float, deadline_s: float
) -> dict[str, Any]:
    watch, good = Watch(pid), GoodClients(port)
    running_s = asyncio.create_task(good.run()), asyncio.create_task(watch.keep_looking())
    await asyncio.sleep(WARM_UP_S)
    watch.mark("before")
    await asyncio.sleep(quiet_s)
    watch.mark("joining")
    files = open_files(pid) + SPARE_FILES
    orders.send((port, counts, deadline_s))
    assert await told(orders) == "all are there"
    there_s = time.perf_counter()
    await asyncio.sleep(SETTLE_S)
    watch.mark("while")
    first_deadline_s = watch.marks["joining"] + deadline_s
    await asyncio.sleep(max(first_deadline_s - time.perf_counter(), 0))
    watch.mark("closing")
    closed = await told(orders)
    # Who reads nothing does not see that it is closed: so the gateway's own sockets are counted.
    give_up_s = there_s + deadline_s + GIVE_UP_AFTER_S
    while open_files(pid) > files + 2 * good.connections and time.perf_counter() < give_up_s:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    all_closed_s = time.perf_counter()
    watch.mark("after")
    await asyncio.sleep(quiet_s)
    watch.mark("end")
    for task in running_s:
        task.cancel()
    await asyncio.gather(*running_s, return_exceptions=True)
    await good.end()
    return found(watch, good, counts, closed, (there_s, all_closed_s))


def found(
    watch: Watch,
    good: GoodClients,
    counts: tuple[int, ...],
    closed: list[list[Closed]],
    ends_s: tuple[float, float],
) -> dict[str, Any]:
    phases = {}
    for (name, start_s), (_, end_s) in pairwise(watch.marks.items()):
        rss = [mib for at_s, mib in watch.rss_mib if start_s <= at_s < end_s]
        tcp = [mib for at_s, mib in watch.tcp_mib if start_s <= at_s < end_s]
        phases[name] = {
            "seconds": round(end_s - start_s, 1), "latency_ms": good.between((start_s, end_s)),
            "rss_mib": max(rss, default=0.0), "kernel_tcp_mib": max(tcp, default=0.0),
        }  # fmt: skip
    there_s, all_closed_s = ends_s
    slow = {
        name: {"of": of, "closed": len(all_),
               "first_after_s": round(min((one.after_s for one in all_), default=0), 2)}
        for name, of, all_ in zip(COUNTS, counts, closed, strict=False)
    }  # fmt: skip
    spans = {name: (start_s, end_s) for (name, start_s), (_, end_s) in pairwise(watch.marks.items())}
    quiet = good.between(spans["before"], spans["after"])
    beside = good.between(spans["while"], spans["closing"])
    return {
        "phases": phases,
        "quiet_ms": quiet,
        "beside_ms": beside,
        "good_failed": good.failed,
        "slow": slow,
        "all_closed_after_s": round(all_closed_s - there_s, 2),
    }


def verdicts(run: dict[str, Any], max_memory_mib: int, deadline_s: float) -> list[tuple[str, str, bool]]:
    quiet, beside, still = run["quiet_ms"], run["beside_ms"], run["phases"]["while"]["latency_ms"]
    rss = max(phase["rss_mib"] for phase in run["phases"].values())
    judged = [
        (
            f"p99 of the good beside the slow, at most {MAX_RATIO:g} times that without",
            f"{still['p99']} ms for {quiet['p99']} (before and after): {still['p99'] / quiet['p99']:.2f}",
            still["p99"] <= MAX_RATIO * quiet["p99"],
        ),
        (
            "likewise, until the last of them is closed",
            f"{beside['p99']} ms: {beside['p99'] / quiet['p99']:.2f}",
            beside["p99"] <= MAX_RATIO * quiet["p99"],
        ),
        ("good requests that failed", str(run["good_failed"]), not run["good_failed"]),
        ("resident memory, below max_memory", f"{rss} of {max_memory_mib} MiB", rss < max_memory_mib),
    ]
    for name, slow in run["slow"].items():
        counted = f"{slow['closed']:,} of {slow['of']:,}, the first {slow['first_after_s']} s after it came"
        is_whole = (
            slow["closed"] == slow["of"] and slow["first_after_s"] >= min(deadline_s, slow["of"]) - SAMPLE_S
        )
        judged.append((f"{name}, closed and not before their deadline", counted, is_whole))
    unread, late_s = run["unread"], run["all_closed_after_s"] - deadline_s
    judged += [
        (
            "non-readers, closed",
            f"{unread['closed']:,} of {unread['of']:,}",
            unread["closed"] == unread["of"],
        ),
        (
            "the last of all closed, from the deadline of who came last",
            f"{late_s:+.2f} s",
            late_s <= MAX_LATE_S,
        ),
    ]
    return judged


@contextmanager
def others_running(orders: Any) -> Iterator[list[int]]:
    """The other processes; tells the ports of the two backends."""
    spawn = multiprocessing.get_context("spawn")
    told_here, tell = multiprocessing.Pipe()
    made = [spawn.Process(target=backend, args=(tell,), daemon=True) for _ in range(2)]
    made.append(spawn.Process(target=attack, args=(orders,), daemon=True))
    for process in made:
        process.start()
    try:
        yield [told_here.recv(), told_here.recv()]
    finally:
        for process in made:
            process.terminate()


def markdown(report: dict[str, Any]) -> str:
    spec, run = report["machine"], report["run"]
    facts = [
        f"Date {report['date']}, commit {report['commit']}.",
        f"Machine: {spec['cpu']}, {spec['cores']} cores, Linux {spec['kernel']}, CPython {spec['python']}; "
        f"{report['busy_cores']:g} cores in use, everybody's, {report['gateway_cores']:g} by the gateway.",
        "Config: " + ", ".join(f"{key} {value}" for key, value in report["config"].items()) + ".",
        *CAVEATS,
    ]
    phases = [
        [name, f"{phase['seconds']:g}",
         *(str(phase["latency_ms"][key]) for key in ("p50", "p99", "p999", "max")),
         f"{phase['rss_mib']:g}", f"{phase['kernel_tcp_mib']:g}"]
        for name, phase in run["phases"].items()
    ]  # fmt: skip
    head = ["", "s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "gateway RSS MiB", "kernel TCP MiB"]
    judged = [[what, measured, "yes" if is_met else "NO"] for what, measured, is_met in report["verdicts"]]
    return (
        "# Good clients beside slow ones\n\n" + "\n".join(f"- {fact}" for fact in facts) + "\n\n"
        + table(["what", "measured", "met"], judged) + "\n" + table(head, phases)
    )  # fmt: skip


def parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    for name, count in COUNTS.items():
        parser.add_argument(
            f"--{name.replace(' ', '-')}", type=int, default=count, help="default: %(default)s"
        )
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="before, and after (default: %(default)s)"
    )
    parser.add_argument("--max-memory", type=int, default=512, help="MiB (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the slow ones, in half a minute")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results")
    return parser.parse_args()


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is stopped then, too
    counts = tuple(getattr(args, name.replace(" ", "_").replace("-", "_")) for name in COUNTS)
    deadline_s, quiet_s = args.deadline, args.seconds
    if args.quick:
        counts, deadline_s, quiet_s = tuple(count // 10 for count in counts), 10.0, 5.0
    raise_file_limit()
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    report: dict[str, Any] = {
        "date": now, "commit": git_commit(REPO), "machine": machine(),
        "config": {**dict(zip(COUNTS, counts, strict=True)), "good requests/s": GOOD_PER_S,
                   "deadline s": deadline_s, "max_memory MiB": args.max_memory},
    }  # fmt: skip
    busy_s, started_s = machine_busy_s(), time.monotonic()
    orders, theirs = multiprocessing.Pipe()
    with others_running(theirs) as (good, large), tempfile.TemporaryDirectory(prefix="slow-") as folder:
        config = CONFIG.format(
            good=good, large=large, deadline=deadline_s, max_memory=f"{args.max_memory}MiB"
        )
        gateway = start_gateway_process(config, Path(folder))
        with running(gateway):
            pid = gateway.child.pid
            report["run"] = uvloop.run(measure(gateway.port, pid, orders, counts, quiet_s, deadline_s))
            closed = counted(gateway.admin_url, UNREAD)
            report["run"]["unread"] = {"of": counts[-1], "closed": closed}
            took_s = time.monotonic() - started_s
            report["gateway_cores"] = round(cpu_s(pid) / took_s, 2)
            report["busy_cores"] = round((machine_busy_s() - busy_s) / took_s, 2)
    report["verdicts"] = verdicts(report["run"], args.max_memory, deadline_s)
    text = markdown(report)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"slow_clients-{now[:10]}-{now[11:16].replace(':', '')}-{report['commit'].rstrip('+')}"
    (args.out / f"{stem}.md").write_text(text)
    (args.out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(text)
    return 0 if all(is_met for _, _, is_met in report["verdicts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
