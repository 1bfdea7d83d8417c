"""Locust on a whole local fleet (3 mock clusters, 2 gateways, Redis): tiers over time, and what a spike does.

examples: scripts/bench load                         a spike of 12 times the base, judged
          scripts/bench load --shape replay --trace FILE.csv.gz --trace-to 120 --speed-up 4
Exits with 1 when a verdict is not as it should be.
"""

from __future__ import annotations

import argparse
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
# Machine, commit and tables are those of benchmarks/peers, fleet and Redis those of the tests.
sys.path[0:1] = [str(REPO), str(REPO / "benchmarks" / "peers")]

from benchmarks.fleet.results import busy_machine  # noqa: E402
from benchmarks.load import account  # noqa: E402
from benchmarks.load.books import read_access_log, read_record  # noqa: E402
from benchmarks.load.local_fleet import TIERS, Engines, LocalFleet, running_local_fleet  # noqa: E402
from benchmarks.load.options import FACTORS, SHAPES, add_shape_options, shape_of, told_again  # noqa: E402
from benchmarks.load.screen import Screen, open_screen  # noqa: E402
from benchmarks.load.shapes import Shape  # noqa: E402
from benchmarks.load.timeline import Timeline  # noqa: E402
from benchmarks.load.traces import TraceError  # noqa: E402
from benchmarks.load.verdicts import Evidence, judge  # noqa: E402
from benchmarks.load.watching import Watcher, watching  # noqa: E402

MOST_LINES = 60
DRAIN_S = 90.0  # Locust's own patience with the last answers, and some more
LOG_S = 5.0


class Failed(Exception):
    """The run could not be made; the text says why."""


def parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--shape", choices=SHAPES, default="spike")
    add_shape_options(parser.add_argument)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--limit", type=int, default=Engines.limit, help="slots of each tier")
    parser.add_argument("--quick", action="store_true", help="a spike of 6 s, only to see that it works")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results")
    args = parser.parse_args()
    args.factor = args.factor or FACTORS.get(args.shape, 0.0)
    args.trace = args.trace and str(Path(args.trace).resolve())  # Locust works in a folder of its own
    if args.quick:
        args.before, args.spike_for, args.after = 3.0, 6.0, 5.0
    return args


@contextmanager
def locust(args: argparse.Namespace, fleet: LocalFleet, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Locust in a process of its own: it patches what this one uses. Ended when the block ends."""
    urls = [gateway.url for gateway in fleet.gateways]
    own = ["-H", urls[0], f"--gateways={','.join(urls)}", f"--record={folder / 'record.jsonl'}"]
    how = ["--headless", "--only-summary", "--exit-code-on-error=0"]
    locustfile = ["-f", str(REPO / "benchmarks" / "locustfile.py")]
    argv = [sys.executable, "-m", "locust", *locustfile, *how, *own, *told_again(args)]
    with (folder / "locust.log").open("wb") as log:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def follow(
    child: subprocess.Popen[bytes], shape: Shape, record: Path, watcher: Watcher, screen: Screen
) -> None:
    """Shows the table once a second until Locust has ended. Raises Failed."""
    deadline_s = time.monotonic() + shape.duration_s + DRAIN_S
    while child.poll() is None:
        if time.monotonic() > deadline_s:
            raise Failed("Locust did not end in time")
        time.sleep(1.0)
        start_s, asked = read_record(_lines(record))
        if start_s:
            until_s = min(time.time() - start_s, shape.duration_s)
            timeline = Timeline(start_s, step_s(shape), TIERS)
            screen.show(timeline.lines(asked, list(watcher.looks), until_s))
    if child.returncode:
        raise Failed(f"Locust ended with {child.returncode}")


def _lines(path: Path) -> list[str]:
    """Whole lines: the last one may still be on its way."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def step_s(shape: Shape) -> float:
    return float(max(1, math.ceil(shape.duration_s / MOST_LINES)))


def logged(fleet: LocalFleet, requests: int) -> list[str]:
    """The access logs' lines; they are written by a thread, so the last ones may need a moment."""
    deadline_s = time.monotonic() + LOG_S
    while True:
        lines = [line for log in fleet.access_logs for line in _lines(log)]
        if len(lines) >= requests or time.monotonic() > deadline_s:
            return lines
        time.sleep(0.05)


def load(args: argparse.Namespace, shape: Shape, folder: Path, screen: Screen) -> Evidence:
    """Runs it all. Raises Failed and AssertionError."""
    spec = Engines(limit=args.limit)
    with running_local_fleet(folder, spec, args.gateways) as fleet:
        record = folder / "record.jsonl"
        with watching(fleet.admin_ports, fleet.engine_ports) as watcher:
            try:
                with locust(args, fleet, folder) as child:
                    follow(child, shape, record, watcher, screen)
            except Failed as failure:
                tail = (folder / "locust.log").read_text(errors="replace").splitlines()[-15:]
                raise Failed("\n  ".join([f"{failure}. Its last lines:", *tail])) from failure
        start_s, asked = read_record(_lines(record))
        if not asked:
            raise Failed("Locust asked nothing")
        served = read_access_log(logged(fleet, len(asked)))
        looks = [look for look in watcher.looks if look.at_s >= start_s]
        final = Watcher(fleet.admin_ports, fleet.engine_ports)
        looks.append(final.look())
        final.close()
        return Evidence(shape, start_s, fleet.limits, asked, served, looks)


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is stopped then, too
    spec = Engines(limit=args.limit)
    limits = dict.fromkeys(TIERS, spec.limit)
    try:
        shape = shape_of(args)
        assert shape is not None
        with (
            tempfile.TemporaryDirectory(prefix="load-") as folder,
            open_screen(limits) as screen,
            busy_machine() as busy,
        ):
            evidence = load(args, shape, Path(folder), screen)
    except (Failed, AssertionError, TraceError, ValueError) as failure:
        sys.stderr.write(f"load: {failure}\n")
        return 2 if isinstance(failure, TraceError | ValueError) else 1
    seconds = Timeline(evidence.start_s, step_s(shape), TIERS).lines(
        evidence.asked, evidence.looks, shape.duration_s
    )
    verdicts = judge(evidence)
    run = account.Run.of(config_of(args, spec), evidence, seconds, verdicts, busy.cores)
    account.write(run, account.markdown(run, limits), args.out)
    screen.whole(seconds)
    screen.verdicts(verdicts)
    return 1 if run.missed else 0


def config_of(args: argparse.Namespace, spec: Engines) -> dict[str, object]:
    """What a reader needs to run it again."""
    here = argparse.Namespace(**{**vars(args), "trace": args.trace and Path(args.trace).name})
    ttfts = "/".join(str(ms) for ms in spec.ttft_ms)
    return {
        "options": " ".join(told_again(here)),
        "gateways": args.gateways,
        "slots per tier": spec.limit,
        "engines' TTFT ms": ttfts,
        "ms per token": spec.tpot_ms,
    }


if __name__ == "__main__":
    sys.exit(main())
