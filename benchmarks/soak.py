"""100,000 requests of clients that leave, at backends that misbehave: is anything left of them?

example: scripts/bench soak --requests 10000 --seed 3

A real `spillway serve` with short timeouts and its access log; see tests/chaos/soak.py for what clients and
backends do. Exits with 1 when a verdict is not as it should be.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path += [str(REPO / "benchmarks" / "peers"), str(REPO)]

from peers import git_commit  # noqa: E402
from processes import machine_busy_s  # noqa: E402
from report import machine, table  # noqa: E402

from tests.chaos.soak import CONFIG, Soak, Verdict, memory_growth, soak  # noqa: E402

# Of the second half of the requests; a hundred thousand of them hide a leak of 10 bytes each, and no more.
MAX_GROWTH = 0.01
CAVEATS = [
    "Backends, gateway and clients share the machine's cores, with whoever else uses them.",
    "The gateway is started by a module that adds one signal handler to `spillway serve`: it counts tasks "
    "and the objects of requests.",
    "A request that was reset at once may have been read or not: it may have a line or none, but not two.",
    "An unsolicited answer that a backend writes in the moment in which the next request is on its way to it "
    "can't be told from the answer to that, in HTTP/1.1; these are counted apart.",
]


def parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=48, help="clients at once (default: %(default)s)")
    parser.add_argument("--faults", type=float, default=0.25, help="share of requests (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="5,000 requests, only to see that it works")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results")
    return parser.parse_args()


def memory(found: Soak) -> Verdict:
    growth = memory_growth(found.rss)
    first, last = found.rss[0][1] / 1e6, found.rss[-1][1] / 1e6
    text = f"{100 * growth:+.2f} % in the second half ({first:.1f} MB idle, {last:.1f} at the end)"
    return Verdict("resident memory grows, less than 1 %", text, growth < MAX_GROWTH)


def figures(found: Soak) -> dict[str, Any]:
    statuses = {str(status): count for status, count in sorted(found.ledger.statuses.items())}
    return {
        "requests": found.ledger.requests, "took_s": round(found.took_s, 1), "log_lines": len(found.lines),
        "statuses_that_clients_saw": statuses, "answers_cut": found.ledger.cut,
        "manners_of_clients": dict(found.ledger.manners.most_common()),
        "requests_at_backends": found.backend["requests"],
        "faults_of_backends": dict(sorted(found.backend["faults"].items())),
        "census": found.census, "rss": found.rss[:: max(len(found.rss) // 200, 1)],
    }  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    spec, seen = report["machine"], report["figures"]
    counts = ("statuses_that_clients_saw", "manners_of_clients", "faults_of_backends")
    facts = [
        f"Date {report['date']}, commit {report['commit']}, took {seen['took_s']:g} s.",
        f"Machine: {spec['cpu']}, {spec['cores']} cores, Linux {spec['kernel']}, CPython {spec['python']}; "
        f"{report['busy_cores']:.2f} cores in use, everybody's.",
        "Config: " + ", ".join(f"{key} {value}" for key, value in report["config"].items()) + ".",
        f"{seen['requests']:,} requests, {seen['requests_at_backends']:,} of them (and retries) at backends, "
        f"{seen['answers_cut']:,} answers cut visibly.",
        *(f"{name.replace('_', ' ').capitalize()}: " + ", ".join(f"{k} {v:,}" for k, v in seen[name].items())
          + "." for name in counts),
        *CAVEATS,
    ]  # fmt: skip
    rows = [[what, measured, "yes" if is_met else "NO"] for what, measured, is_met in report["verdicts"]]
    bullets = "\n".join(f"- {fact}" for fact in facts)
    return f"# What is left of clients that leave\n\n{bullets}\n\n" + table(["what", "measured", "met"], rows)


def write(report: dict[str, Any], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    when = f"{report['date'][:10]}-{report['date'][11:16].replace(':', '')}"
    name, text = f"soak-{when}-{report['commit'].rstrip('+')}", markdown(report)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    return text


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is stopped then, too
    requests = 5_000 if args.quick else args.requests
    commit = git_commit(REPO)  # of what is measured, whatever is checked out meanwhile
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    busy_s, started_s = machine_busy_s(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = soak(requests, Path(folder), users=args.users, seed=args.seed, fault_share=args.faults)
    busy = (machine_busy_s() - busy_s) / (time.monotonic() - started_s)
    verdicts = [*found.verdicts, memory(found)]
    config = {"seed": args.seed, "users": args.users, "share of faults": args.faults,
              "gateway": CONFIG.replace("{{", "{").replace("}}", "}").splitlines()[3]}  # fmt: skip
    report = {"date": now, "commit": commit, "machine": machine(), "config": config,
              "busy_cores": round(busy, 2), "verdicts": verdicts, "figures": figures(found)}  # fmt: skip
    print(write(report, args.out))
    return 0 if all(verdict.is_met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
