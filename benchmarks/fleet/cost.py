"""What Redis costs a gateway: the same load with the store in memory and in Redis, in turn and turn about."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import redis
from measure import CONNECTIONS, Bench, Window
from peers import REPO, Site
from processes import LOAD_CORE, PROXY_CORE, Failed, Process, start
from report import spread
from results import Row

from tests.chaos.fleet import eventually
from tests.redis_server import binary, free_port

IDLE_S = 10.0
MODERATE_RPS = 1000
FULL_RPS = 5000
# Above what the load can have in flight, and no more than an engine's: the fleet really arbitrates it.
LIMIT = 256


class Proxy:
    """A gateway pinned to the proxy's core, and where it listens."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port


@contextmanager
def bench_of(folder: Path, seconds: float) -> Iterator[Bench]:
    """The C backend and load generator; raises Failed when they can't be built."""
    bench = Bench(Site(folder, folder, None, 0, 0, (free_port(), free_port(), free_port())), seconds)
    try:
        yield bench
    finally:
        bench.backend.stop()


@contextmanager
def redis_on_the_other_core(folder: Path) -> Iterator[Path]:
    """Its socket."""
    path = folder / "redis.sock"
    argv = [binary(), "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    server = start("redis", argv, core=LOAD_CORE, log=folder / "redis.log")
    try:
        eventually(path.exists, 10, "Redis listens")
        yield path
    finally:
        server.stop()


@contextmanager
def gateway(bench: Bench, name: str, state: str, core: int = PROXY_CORE) -> Iterator[Proxy]:
    """One gateway in front of the C backends; `state` is its store's line, or nothing for memory."""
    folder, port = bench.site.work, free_port()
    tiers = zip(("here", "there", "spot"), ("primary", "backup", "spot"), bench.site.urls(), strict=True)
    clusters = [f"- {{name: {n}, tier: {t}, limit: {LIMIT}, backends: ['{url}']}}" for n, t, url in tiers]
    own = [f"listen: 127.0.0.1:{port}", f"admin: {{listen: '127.0.0.1:{free_port()}'}}"]
    log = [f"access_log: {folder / name}-access.log"]
    config = folder / f"{name}.yaml"
    config.write_text("\n".join([*own, *log, state, "clusters:", *clusters, ""]))
    run = "import sys; from gateway.cli import main; sys.exit(main())"
    argv = [sys.executable, "-c", run, "serve", "-c", str(config)]
    process = start(name, argv, core=core, log=folder / f"{name}.log", env={"PYTHONPATH": str(REPO)})
    try:
        eventually(lambda: "ready on port" in process.log.read_text(), 15, f"{name} is ready")
        yield Proxy(process, port)
    finally:
        process.stop()


def at(bench: Bench, proxy: Proxy, *flags: str, seconds: float | None = None) -> Window:
    bench.site = replace(bench.site, port=proxy.port)
    flags = ("--conns", str(CONNECTIONS), *flags)
    window = bench.load(proxy.process, bench.plain, seconds or bench.seconds, *flags)
    if window.seen["errors"]:
        raise Failed(f"{window.seen['errors']} requests failed at {proxy.process.name}")
    return window


def measure_cost(folder: Path, quick: bool) -> list[Row]:
    rounds = 2 if quick else 7
    ratios, added_us, raw = [], [], []
    with bench_of(folder, 1.0 if quick else 2.5) as bench, redis_on_the_other_core(folder) as path:
        state = f"state: {{url: 'unix://{path}'}}"
        for number in range(rounds):
            with (
                gateway(bench, "memory", "") as memory,
                gateway(bench, "shared", state) as shared,
                gateway(bench, "fellow", state, LOAD_CORE),
            ):
                pair = (memory, shared) if number % 2 else (shared, memory)
                full = {p.process.name: _per_cpu_s(at(bench, p)) for p in pair}
                p50 = _p50_us(bench, pair)
            ratios.append(full["shared"] / full["memory"])
            added_us.append(p50["shared"] - p50["memory"])
            raw.append({"requests_per_cpu_s": full, "p50_us": p50})
        median = statistics.median(ratios)
        what = f"requests per CPU second, Redis over memory, {rounds} rounds"
        ratio = Row(what, spread(ratios), "at least 0.90", median >= 0.9, {"rounds": raw})
        median = statistics.median(added_us)
        what = f"added p50 latency at {MODERATE_RPS:,} requests/s, µs"
        added = Row(what, spread(added_us), "at most 100", median <= 100)
        return [ratio, added, *_redis_side(bench, path, state, quick)]


def _p50_us(bench: Bench, proxies: tuple[Proxy, ...]) -> dict[str, float]:
    """At a moderate rate, in turn and turn about; the better of two each: one disturbance does not count."""
    seen: dict[str, list[float]] = {proxy.process.name: [] for proxy in proxies}
    for proxy in (*proxies, *reversed(proxies)):
        seen[proxy.process.name].append(at(bench, proxy, "--rate", str(MODERATE_RPS)).seen["p50_us"])
    return {name: min(values) for name, values in seen.items()}


def _per_cpu_s(window: Window) -> float:
    """Requests per second of the proxy's own CPU time, which others on the machine do not change much."""
    return float(window.seen["answers"]) / max(window.proxy_cpu_s, 0.01)


def _redis_side(bench: Bench, path: Path, state: str, quick: bool) -> list[Row]:
    """What Redis has to do for one gateway, idle and at full speed."""
    idle_s = 3.0 if quick else IDLE_S
    with redis.Redis(unix_socket_path=str(path)) as client:
        with gateway(bench, "idle", state):
            time.sleep(1.0)  # it has joined
            before = client.info("stats")["total_commands_processed"]
            time.sleep(idle_s)
            per_s = (client.info("stats")["total_commands_processed"] - before - 1) / idle_s
        with gateway(bench, "busy", state) as busy, gateway(bench, "fellow", state, LOAD_CORE):
            before_s, started_s = _cpu_s(client), time.monotonic()
            seen = at(bench, busy, "--rate", str(FULL_RPS), seconds=2.0 if quick else 5.0).seen
            share = (_cpu_s(client) - before_s) / (time.monotonic() - started_s)
        rps = seen["answers"] / seen["seconds"]
    return [
        Row("Redis commands/s of an idle gateway", f"{per_s:.1f}", "at most 25", per_s <= 25),
        Row(f"Redis CPU at {rps:,.0f} requests/s", f"{share:.2%}", "below 5 %", share < 0.05),
    ]


def _cpu_s(client: redis.Redis) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])
