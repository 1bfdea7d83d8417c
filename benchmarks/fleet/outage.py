"""Redis is killed under a steady load: what fails, and what becomes slower?"""

from __future__ import annotations

import statistics
from pathlib import Path

from cost import Proxy, bench_of, gateway
from measure import Bench, read_line
from processes import LOAD_CORE, start
from report import spread
from results import Row

from tests.redis_server import RedisServer

RATE_PER_GATEWAY = 250  # 500 requests/s for the two of them
SECONDS = 3.0


def measure_outage(folder: Path, quick: bool) -> list[Row]:
    failed, added_ms, raw = 0, [], []
    server = RedisServer(folder / "redis")
    with bench_of(folder, SECONDS) as bench:
        for _ in range(1 if quick else 5):
            server.start()
            state = f"state: {{url: '{server.url}'}}"
            try:
                with gateway(bench, "one", state) as one, gateway(bench, "two", state, LOAD_CORE) as two:
                    calm = _windows(bench, (one, two))
                    stormy = _windows(bench, (one, two), server)
            finally:
                server.kill()
            failed += sum(int(seen["errors"]) for seen in (*calm, *stormy))
            added_ms += [(s["p99_us"] - c["p99_us"]) / 1000 for c, s in zip(calm, stormy, strict=True)]
            raw.append({"calm": calm, "stormy": stormy})
    what = "Redis killed at 500 requests/s: failed requests"
    slower = "p99 over the kill and the outage, more than before, ms"
    return [
        Row(what, str(failed), "0", failed == 0, {"rounds": raw}),
        Row(slower, spread(added_ms), "at most 5", statistics.median(added_ms) <= 5),
    ]


def _windows(bench: Bench, proxies: tuple[Proxy, ...], victim: RedisServer | None = None) -> list[dict]:
    """What a load generator at each proxy saw in the same seconds; the victim dies at their beginning."""
    loads = []
    for number, proxy in enumerate(proxies):
        where = ["--port", str(proxy.port), "--body", str(bench.plain), "--conns", "8", "--warmup", "0.5"]
        argv = [
            str(bench.site.work / "load"),
            *where,
            "--rate",
            str(RATE_PER_GATEWAY),
            "--seconds",
            str(SECONDS),
        ]
        log = bench.site.work / f"load-{number}.log"
        loads.append(start(f"load-{number}", argv, core=LOAD_CORE, log=log, piped=True))
    try:
        for load in loads:
            read_line(load, 30.0)
        if victim is not None:
            victim.kill()
        return [read_line(load, SECONDS + 10.0) for load in loads]
    finally:
        for load in loads:
            load.stop()
