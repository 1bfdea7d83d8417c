"""The same minute of a trace live and simulated: spills and times to the first token, side by side.

usage: scripts/bench live_vs_simulated --trace FILE.csv.gz [--from 0] [--seconds 60] [--load 1.2] [--out DIR]

Live: one mock engine for each tier, `spillway serve`, and the window's arrivals sent when they are due,
whatever is not yet answered (open loop). Simulated: the same arrivals, the same configuration, and the same
engine: the first token after --ttft ms, each further one after --tpot ms. The primary has --load x mean
concurrency slots, rounded up; the backup enough for all. Once with `hold` at its default and once without.
Exits with 1 when a verdict is missed: spill share within 1 point, p50 and p99 of TTFT within 15 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the processes that tests start too

from gateway.config.loading import parse
from gateway.sim.arrivals import Arrival, read_trace
from gateway.sim.ledger import Fate
from gateway.sim.quantiles import quantile
from gateway.sim.scenario import EngineConfig, Scenario
from gateway.sim.world import Setting, run_gateway
from tests.proxy.processes import running, start_engine, start_gateway_process

HOLDS = {"default": "", "off": "hold: {max_wait: 0s}\n"}
SPILL_POINTS, TTFT_PERCENT = 1.0, 15.0
ANSWERED_WITHIN_S = 120.0


class Got(NamedTuple):
    """One request: the tier that served it, or "" for none, and when its first byte came."""

    tier: str
    ttft_s: float | None
    late_s: float = 0.0


def window_of(trace: Path, from_s: float, for_s: float) -> list[Arrival]:
    inside = [a for a in read_trace(trace) if from_s <= a.at_s < from_s + for_s]
    return [a._replace(at_s=a.at_s - from_s, output_tokens=max(a.output_tokens, 1)) for a in inside]


def config_of(slots: int, urls: tuple[str, str], hold: str) -> str:
    return (
        f"{hold}clusters:\n"
        f"- {{name: primary, limit: {slots}, backends: ['{urls[0]}']}}\n"
        f"- {{name: backup, tier: backup, limit: 10000, backends: ['{urls[1]}']}}\n"
    )


# --- live --------------------------------------------------------------------------------------------


async def send_all(port: int, arrivals: list[Arrival]) -> list[Got]:
    begin_s = asyncio.get_running_loop().time() + 0.5
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(port, arrival, begin_s + arrival.at_s)) for arrival in arrivals]
    return [task.result() for task in tasks]


async def ask(port: int, arrival: Arrival, due_s: float) -> Got:
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(due_s - clock())
    late_s = clock() - due_s
    fields = {"model": "m", "prompt": "", "max_tokens": arrival.output_tokens, "stream": True}
    fields["prompt"] = "x" * max(arrival.input_tokens * 4 - len(json.dumps(fields)), 0)
    body = json.dumps(fields)
    began_s = clock()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )
    try:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            ttft_s = clock() - began_s
            rest = await reader.read()
    except (OSError, EOFError, TimeoutError):
        return Got("", None, late_s)
    finally:
        writer.close()
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    is_whole = " 200 " in head.split("\r\n", 1)[0] and b"[DONE]" in rest
    return Got(lines.get("x-spillway-tier", ""), ttft_s, late_s) if is_whole else Got("", None, late_s)


def live(args: argparse.Namespace, arrivals: list[Arrival], slots: int, hold: str) -> list[Got]:
    timing = ("--ttft", f"{args.ttft}ms", "--tpot", f"{args.tpot}ms", "--max-num-seqs", "10000")
    engines = [start_engine("--name", name, *timing) for name in ("primary", "backup")]
    with tempfile.TemporaryDirectory() as folder, running(*engines):
        urls = (engines[0].url, engines[1].url)
        gateway = start_gateway_process(config_of(slots, urls, hold), Path(folder))
        with running(gateway):
            return uvloop.run(send_all(gateway.port, arrivals))


# --- simulated ---------------------------------------------------------------------------------------


def simulated(args: argparse.Namespace, arrivals: list[Arrival], slots: int, hold: str) -> list[Got]:
    text = config_of(slots, ("http://primary.example:1", "http://backup.example:1"), hold)
    base_s, token_s = (args.ttft - args.tpot) / 1000, args.tpot / 1000
    scenario = Scenario(engine=EngineConfig(base_s=base_s, per_output_token_s=token_s))
    ledger = run_gateway(Setting(parse(text, "benchmark", "."), scenario, arrivals))
    return [
        Got(row.endpoint.place.tier, row.ttft_s)
        if row.fate is Fate.SERVED and row.endpoint
        else Got("", None)
        for row in ledger.rows
    ]


# --- figures -----------------------------------------------------------------------------------------


def figures_of(got: list[Got]) -> dict[str, Any]:
    ttfts = sorted(one.ttft_s for one in got if one.ttft_s is not None)
    lates = sorted(one.late_s for one in got)
    return {
        "requests": len(got),
        "not_served": sum(not one.tier for one in got),
        "spill_percent": 100 * sum(one.tier == "backup" for one in got) / len(got),
        "ttft_p50_ms": 1000 * (quantile(ttfts, 0.5) or 0.0),
        "ttft_p99_ms": 1000 * (quantile(ttfts, 0.99) or 0.0),
        "sent_late_p99_ms": 1000 * (quantile(lates, 0.99) or 0.0),
    }


def verdicts_of(live_got: dict[str, Any], sim_got: dict[str, Any]) -> dict[str, bool]:
    def is_near(name: str) -> bool:
        return abs(live_got[name] - sim_got[name]) <= TTFT_PERCENT / 100 * sim_got[name]

    return {
        "all served": live_got["not_served"] == 0 == sim_got["not_served"],
        "spill share within 1 point": abs(live_got["spill_percent"] - sim_got["spill_percent"])
        <= SPILL_POINTS,
        "TTFT p50 within 15 %": is_near("ttft_p50_ms"),
        "TTFT p99 within 15 %": is_near("ttft_p99_ms"),
    }


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain") else "")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    arrivals = window_of(args.trace, args.from_s, args.seconds)
    work_s = sum((args.ttft + args.tpot * (a.output_tokens - 1)) / 1000 for a in arrivals)
    slots = ceil(args.load * work_s / args.seconds)
    runs = {}
    for name, hold in HOLDS.items():
        load_before = os.getloadavg()[0]
        told = figures_of(live(args, arrivals, slots, hold))
        foretold = figures_of(simulated(args, arrivals, slots, hold))
        runs[name] = {
            "live": told,
            "simulated": foretold,
            "verdicts": verdicts_of(told, foretold),
            "machine_load": [load_before, os.getloadavg()[0]],
        }
    return {
        "trace": args.trace.name,
        "from_s": args.from_s,
        "seconds": args.seconds,
        "engine_ms": {"ttft": args.ttft, "tpot": args.tpot},
        "slots": slots,
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}",
        "runs": runs,
    }


def report_of(result: dict[str, Any]) -> str:
    engine, from_s = result["engine_ms"], result["from_s"]
    lines = [
        f"# Live against simulated, {result['trace']}, commit {result['commit']}",
        "",
        f"{result['machine']}. Seconds {from_s:g} to {from_s + result['seconds']:g} of the",
        f"trace; engines: first token after {engine['ttft']:g} ms, each other after {engine['tpot']:g} ms;",
        f"{result['slots']} slots on the primary.",
        "",
        "| hold | | requests | not served | spilled | TTFT p50 | TTFT p99 | sent late, p99 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, run in result["runs"].items():
        for kind in ("live", "simulated"):
            row = run[kind]
            lines.append(
                f"| {name} | {kind} | {row['requests']} | {row['not_served']} | {row['spill_percent']:.2f} % "
                f"| {row['ttft_p50_ms']:.1f} ms | {row['ttft_p99_ms']:.1f} ms "
                f"| {row['sent_late_p99_ms']:.1f} ms |"
            )
    lines += ["", "| hold | verdict | |", "|---|---|---|"]
    for name, run in result["runs"].items():
        lines += [
            f"| {name} | {what} | {'yes' if good else 'NO'} |" for what, good in run["verdicts"].items()
        ]
    loads = ", ".join(f"{run['machine_load'][1]:.1f}" for run in result["runs"].values())
    lines += [
        "",
        "Clients, gateway and engines share the cores, with whatever else runs: the load average was",
        f"{loads} at the end of the runs. TTFT is until the answer's head, which",
        "the gateway gives with the first byte of the body.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--trace", type=Path, required=True)
    add(
        "--from", dest="from_s", type=float, default=0.0, help="where the window begins, seconds (default: 0)"
    )
    add("--seconds", type=float, default=60.0, help="how long it is (default: 60)")
    add("--load", type=float, default=1.2, help="slots of the primary per mean concurrency (default: 1.2)")
    add("--ttft", type=float, default=120.0, help="ms (default: 120)")
    add("--tpot", type=float, default=30.0, help="ms (default: 30)")
    add("--quick", action="store_true", help="10 s, only to see that it works")
    add("--out", type=Path, help="write a .json and a .md into this folder")
    args = parser.parse_args()
    if args.quick:
        args.seconds = min(args.seconds, 10.0)
    result = measure(args)
    text = report_of(result)
    print(text)
    if args.out is not None:
        stem = f"live_vs_simulated-{time.strftime('%Y-%m-%d-%H%M')}-{result['commit'].rstrip('+')}"
        (args.out / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
        (args.out / f"{stem}.md").write_text(text)
    return 0 if all(all(run["verdicts"].values()) for run in result["runs"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
