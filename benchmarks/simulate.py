"""The simulator on a real trace: the known shares, its speed, and that it is linear and repeatable.

usage: scripts/bench simulate --trace FILE.csv.gz [--concurrency 35.5] [--factors 1.0,1.2,1.5] [--gateways 3]
           [--out FOLDER]

Durations are fixed by the lengths: 20 ms + 0.075 ms x input + 30 ms x output. The primary has factor x mean
concurrency slots, rounded up, the backup enough for all. Speed is that of one whole run of the gateway, in a
process of its own, with one gateway and with several; ten times the trace is the trace ten times in a row.
Writes a .json and a .md into FOLDER.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from math import ceil
from pathlib import Path
from typing import Any

from gateway.config.loading import parse
from gateway.sim.arrivals import Arrival, read_trace
from gateway.sim.json_report import json_report
from gateway.sim.scenario import Scenario, load_scenario
from gateway.sim.study import study
from gateway.sim.world import Setting, run_gateway

CONFIG = """
clusters:
  - {{name: primary, limit: {slots}, backends: [http://primary.example:8000]}}
  - {{name: backup, limit: 10000, tier: backup, backends: [http://backup.example:8000]}}
"""


def setting_of(trace: Path, slots: int, times: int = 1, scenario: str | None = None) -> Setting:
    once = read_trace(trace)
    span_s = once[-1].at_s + 1.0
    arrivals = [a._replace(at_s=a.at_s + span_s * turn) for turn in range(times) for a in once]
    config = parse(CONFIG.format(slots=slots), "benchmark", ".")
    found = load_scenario(Path(scenario), config) if scenario else Scenario()
    return Setting(config, found, arrivals)


def mean_concurrency(arrivals: list[Arrival]) -> float:
    """Requests in flight on average, all of them served at once."""
    work_s = sum(0.020 + 0.000075 * a.input_tokens + 0.030 * a.output_tokens for a in arrivals)
    return work_s / arrivals[-1].at_s


def shares(trace: Path, slots: int) -> dict[str, Any]:
    result = study("benchmark", setting_of(trace, slots))
    again = study("benchmark", setting_of(trace, slots))
    percent = {name: 100 * f["off_preferred_share"] for name, f in result.baselines.items()}
    return {
        "slots": slots,
        "spillway": 100 * result.figures["off_preferred_share"],
        **percent,
        "bound": 100 * result.bound["off_preferred_share"],
        "score": result.bound["score"],
        "flaps": result.figures["flaps"],
        "cool_down_flaps": result.baselines["cool_down"]["flaps"],
        "is_same_bytes": json_report([result], "trace", 0) == json_report([again], "trace", 0),
    }


def timed(trace: Path, slots: int, times: int, scenario: str | None = None) -> dict[str, float]:
    """CPU seconds and peak memory of one run, in a process of its own."""
    command = [sys.executable, __file__, "--trace", str(trace), "--one", f"{slots},{times}"]
    command += ["--scenario", scenario] if scenario else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(trace: Path, slots: int, times: int, scenario: str | None) -> None:
    setting = setting_of(trace, slots, times, scenario)
    began_s = time.process_time()
    ledger = run_gateway(setting)
    cpu_s = time.process_time() - began_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"requests": len(ledger.rows), "cpu_s": cpu_s, "peak_mb": peak_mb}))


def commit() -> str:
    told = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
    )
    dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    return told.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def report_of(result: dict[str, Any]) -> str:
    lines = [
        f"# Simulator, {result['trace']}, commit {result['commit']}",
        "",
        f"{result['machine']}. {result['requests']:,} requests in {result['span_s']:,.0f} s,",
        f"mean concurrency {result['mean_concurrency']:.1f}.",
        "Share of requests that are not served by the preferred tier, in %:",
        "",
        "| primary | bound | Spillway | greedy | leave for 10 s | round robin | flaps | of leave 10 s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for factor, row in result["shares"].items():
        names = ("bound", "spillway", "greedy", "cool_down", "round_robin")
        cells = " | ".join(f"{row[name]:.2f}" for name in names)
        lines.append(
            f"| {factor} x mean: {row['slots']} | {cells} | {row['flaps']} | {row['cool_down_flaps']} |"
        )
    lines += ["", "| trace | requests | CPU | peak memory |", "|---|---:|---:|---:|"]
    for name, row in result["speed"].items():
        lines.append(f"| {name} | {row['requests']:,} | {row['cpu_s']:.2f} s | {row['peak_mb']:.0f} MB |")
    lines += [
        "",
        f"Ten times the trace takes {result['ten_times']:.2f} times as long (three runs each, the fastest).",
        f"The same seed gave the same bytes of JSON: {result['is_same_bytes']}.",
        "",
        "Caveats: CPU time on a virtual machine that others use; requests wait for a slot as `hold` says.",
        "",
    ]
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    arrivals = read_trace(args.trace)
    mean = args.concurrency or mean_concurrency(arrivals)
    by_factor = {f: shares(args.trace, ceil(float(f) * mean)) for f in args.factors.split(",")}
    slots = ceil(1.2 * mean)
    # In turn, so that a busy minute of the machine meets both.
    pairs = [(timed(args.trace, slots, 1), timed(args.trace, slots, 10)) for _ in range(3)]
    once, tenfold = (min(runs, key=lambda run: run["cpu_s"]) for runs in zip(*pairs, strict=True))
    speed = {"once": once, "ten times": tenfold}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"gateways: {args.gateways}")
        file.flush()
        runs = [timed(args.trace, slots, 1, file.name) for _ in range(3)]
    speed[f"once, {args.gateways} gateways"] = min(runs, key=lambda run: run["cpu_s"])
    if args.scenario:
        speed[f"once, {Path(args.scenario).name}"] = timed(args.trace, slots, 1, args.scenario)
    return {
        "trace": args.trace.name,
        "commit": commit(),
        "machine": f"{platform.machine()}, CPython {platform.python_version()}",
        "requests": len(arrivals),
        "span_s": arrivals[-1].at_s,
        "mean_concurrency": mean,
        "shares": by_factor,
        "speed": speed,
        "ten_times": tenfold["cpu_s"] / once["cpu_s"],
        "is_same_bytes": all(row["is_same_bytes"] for row in by_factor.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--concurrency", type=float, help="mean concurrency (default: worked out)")
    parser.add_argument("--factors", default="1.0,1.2,1.5")
    parser.add_argument("--scenario", help="measure the speed with this scenario too")
    parser.add_argument("--gateways", type=int, default=3, help="measure the speed with so many too")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        slots, times = map(int, args.one.split(","))
        one(args.trace, slots, times, args.scenario)
        return
    result = measure(args)
    text = report_of(result)
    print(text)
    if args.out is not None:
        stem = f"simulate-{time.strftime('%Y-%m-%d-%H%M')}-{result['commit'].rstrip('+')}"
        (args.out / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
        (args.out / f"{stem}.md").write_text(text)


if __name__ == "__main__":
    main()
