"""Ten times as much as the engines can serve, for a minute: is as much served, how fast is the rest refused?

example: scripts/bench overload --factor 20 --seconds 30

Three mock engines (a tier each) of a fixed service time, and `spillway serve` with its defaults; once with
`hold` as it is by default, once with `hold: {max_wait: 0s}`. Peak: what as many clients as there are slots
get, each asking again at once, just before. Then an open loop over kept connections at `factor` times the
capacity.
A refusal is a 429: at once, or after a wait for a slot (`queue_ms` in the access log), as the setting has it.
The peak is the higher one of the two: who would rather wait than spill leaves slots empty in a closed loop.
Exits with 1 when a verdict is not as it should be.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path += [str(REPO / "benchmarks" / "peers"), str(REPO)]

from peers import git_commit  # noqa: E402
from processes import cpu_s, machine_busy_s  # noqa: E402
from report import machine, table  # noqa: E402

from tests.proxy.processes import running, start_engine, start_gateway_process, tiers  # noqa: E402

SLOTS_PER_TIER, SERVICE_S = 16, 0.3
CAPACITY_PER_S = 3 * SLOTS_PER_TIER / SERVICE_S
PEAK_SECONDS = 10.0
WARM_UP_S = 1.0  # of each load; not counted
AT_ONCE, BY_CHOICE = "refused at once", "refused after a wait"
HOLDS = {"hold as by default": {}, "hold: {max_wait: 0s}": {"hold": "{max_wait: 0s}"}}
LEAST_SHARE, REFUSED_IN_MS = 0.95, 10.0
CAVEATS = [
    "Engines, gateway and load generator share the machine's cores, with whoever else uses them: read "
    "latencies as upper bounds.",
    "A refusal is timed from when it was due: what the load generator itself was late is in it; the time "
    "from when it was sent, and what the gateway says it took (access log), stand beside it.",
    "Peak and overload are one after the other, with the same gateway and engines; the first second of each "
    "is not counted.",
]  # fmt: skip


def loaded(port: int, *arguments: str | float) -> dict[str, Any]:
    argv = [sys.executable, str(REPO / "benchmarks" / "_overload_load.py"), str(port), *map(str, arguments)]
    return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout)


def percentile(values: Sequence[float], share: float) -> float | None:
    return round(sorted(values)[min(int(len(values) * share), len(values) - 1)], 2) if values else None


def goodput(load: dict[str, Any]) -> float:
    """Good answers that ended within the load, a second."""
    ends = [ended for what, _, _, ended, _ in load["told"] if what == "200"]
    return sum(WARM_UP_S <= end < load["seconds"] for end in ends) / (load["seconds"] - WARM_UP_S)


def in_the_gateway(log: Path, what: str) -> list[float]:
    """How long these took by its own clock."""
    entries = [json.loads(line) for line in log.read_bytes().splitlines()]
    if what == "200":
        return [entry["duration_ms"] for entry in entries if entry["status"] == 200]
    has_waited = what == BY_CHOICE
    refused = [entry for entry in entries if entry["status"] == 429]
    return [entry["duration_ms"] for entry in refused if (entry["queue_ms"] > 0) is has_waited]


def times_of(told: Iterable[list[Any]], log: Path, what: str) -> dict[str, Any]:
    mine = [one for one in told if one[0] == what and one[1] >= WARM_UP_S]
    views = {
        "from_due": [(ended - due) * 1000 for _, due, _, ended, _ in mine],
        "from_sent": [(ended - sent) * 1000 for _, _, sent, ended, _ in mine],
        "in_the_gateway": in_the_gateway(log, what),
    }
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {"count": len(mine)} | {
        name: {label: percentile(values, share) for label, share in shares.items()}
        for name, values in views.items()
    }


def measure(hold: dict[str, str], factor: float, seconds: float, folder: Path) -> dict[str, Any]:
    """The peak, then the overload, of one gateway."""
    log = folder / "access.log"
    engine = ("--ttft", f"{SERVICE_S * 1000:g}ms", "--tpot", "0ms")
    engines = [start_engine(*engine) for _ in range(3)]
    config = tiers(*engines, limit=SLOTS_PER_TIER, **hold)
    with running(*engines):
        gateway = start_gateway_process(config, folder, access_log=str(log))
        with running(gateway):
            peak = loaded(gateway.port, "closed", 3 * SLOTS_PER_TIER, PEAK_SECONDS)
            time.sleep(1.0)
            log.write_bytes(b"")
            used_s, busy_s, started_s = cpu_s(gateway.child.pid), machine_busy_s(), time.monotonic()
            over = loaded(gateway.port, "open", factor * CAPACITY_PER_S, seconds)
            took_s = time.monotonic() - started_s
            cores = (cpu_s(gateway.child.pid) - used_s) / took_s
            busy = (machine_busy_s() - busy_s) / took_s
            left = gateway.fleet()["in_flight"]
            peaks = [one.counter("peak_in_flight") for one in engines]
    codes = dict(Counter(one[0] for one in over["told"]))
    entries = [json.loads(line) for line in log.read_bytes().splitlines()]
    waited = {entry["request_id"] for entry in entries if entry["queue_ms"] > 0}
    for one in over["told"]:
        if one[0] in ("no_capacity", "queue_timeout"):
            one[0] = BY_CHOICE if one[4] in waited else AT_ONCE
    lag_ms = [(sent - due) * 1000 for _, due, sent, _, _ in over["told"]]
    return {
        "peak_per_s": round(goodput(peak), 2), "goodput_per_s": round(goodput(over), 2),
        "answers": dict(Counter(one[0] for one in over["told"])),
        "codes": codes, "connections": over["connections"],
        "times_ms": {code: times_of(over["told"], log, code) for code in ("200", AT_ONCE, BY_CHOICE)},
        "load_late_ms": {"p99": percentile(lag_ms, 0.99), "max": percentile(lag_ms, 1.0)},
        "gateway_cores": round(cores, 2), "busy_cores": round(busy, 2), "in_flight_after": left,
        "engine_peaks": peaks,
    }  # fmt: skip


def verdicts(found: dict[str, Any], peak_per_s: float) -> list[tuple[str, str, bool]]:
    share = found["goodput_per_s"] / peak_per_s
    refused = found["times_ms"][AT_ONCE]
    p99_ms = refused["from_due"]["p99"]
    others = {
        what: count for what, count in found["answers"].items() if what not in ("200", AT_ONCE, BY_CHOICE)
    }
    return [
        (
            f"goodput, at least {LEAST_SHARE:.0%} of the peak",
            f"{found['goodput_per_s']:g} of {peak_per_s:g} a second: {share:.1%}",
            share >= LEAST_SHARE,
        ),
        (
            f"refused at once, p99 below {REFUSED_IN_MS:g} ms",
            f"{p99_ms} ms from due ({refused['from_sent']['p99']} from sent, "
            f"{refused['in_the_gateway']['p99']} in the gateway), of {refused['count']:,}",
            p99_ms is not None and p99_ms < REFUSED_IN_MS,
        ),
        ("any other answer, or none", str(others or 0), not others),
        ("in flight afterwards", str(found["in_flight_after"]), found["in_flight_after"] == 0),
        (
            f"most at one engine, limit {SLOTS_PER_TIER}",
            ", ".join(map(str, found["engine_peaks"])),
            max(found["engine_peaks"]) <= SLOTS_PER_TIER,
        ),
    ]


def peak_of(report: dict[str, Any]) -> float:
    return max(found["peak_per_s"] for found in report["runs"].values())


def markdown(report: dict[str, Any]) -> str:
    spec = report["machine"]
    facts = [
        f"Date {report['date']}, commit {report['commit']}.",
        f"Machine: {spec['cpu']}, {spec['cores']} cores, Linux {spec['kernel']}, CPython {spec['python']}.",
        "Config: " + ", ".join(f"{key} {value}" for key, value in report["config"].items()) + ".",
    ]
    for name, found in report["runs"].items():
        late, waited = found["load_late_ms"], found["times_ms"][BY_CHOICE]
        facts.append(
            f"{name}: {found['busy_cores']:g} cores in use, everybody's, {found['gateway_cores']:g} by the "
            f"gateway; the load was late by {late['p99']} ms (p99), {late['max']} ms (at most). "
            f"Answers: " + ", ".join(f"{what} {count:,}" for what, count in found["codes"].items())
            + f". Closed loop before: {found['peak_per_s']:g}/s. Refused after a wait: {waited['count']:,}"
            + (f", p50 {waited['from_due']['p50']} ms." if waited["count"] else ".")
        )  # fmt: skip
    rows = [
        [name, what, measured, "yes" if is_met else "NO"]
        for name, found in report["runs"].items()
        for what, measured, is_met in verdicts(found, peak_of(report))
    ]
    bullets = "\n".join(f"- {fact}" for fact in (*facts, *CAVEATS))
    return f"# Overload\n\n{bullets}\n\n" + table(["gateway", "what", "measured", "met"], rows)


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--factor", type=float, default=10.0, help="times the capacity (default: 10)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="8 seconds, only to see that it works")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is stopped then, too
    seconds = 8.0 if args.quick else args.seconds
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {"slots": 3 * SLOTS_PER_TIER, "service s": SERVICE_S, "capacity/s": CAPACITY_PER_S,
              "offered/s": args.factor * CAPACITY_PER_S, "seconds": seconds}  # fmt: skip
    report: dict[str, Any] = {"date": now, "commit": git_commit(REPO), "machine": machine(), "config": config,
                              "runs": {}}  # fmt: skip
    for name, hold in HOLDS.items():
        with tempfile.TemporaryDirectory(prefix="overload-") as folder:
            report["runs"][name] = found = measure(hold, args.factor, seconds, Path(folder))
        print(f"{name}: {verdicts(found, peak_of(report))}", file=sys.stderr, flush=True)
    text = markdown(report)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"overload-{now[:10]}-{now[11:16].replace(':', '')}-{report['commit'].rstrip('+')}"
    (args.out / f"{stem}.md").write_text(text)
    (args.out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(text)
    peak_per_s = peak_of(report)
    judged = [verdict for found in report["runs"].values() for verdict in verdicts(found, peak_per_s)]
    return 0 if all(is_met for _, _, is_met in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
