"""Several gateways and one Redis: is the limit exact, are spills true, and what does it cost?

example: scripts/bench fleet exact spills --quick
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
# Load generator and process tools are those of benchmarks/peers, fleet and backend those of the chaos tests.
sys.path += [str(REPO / "benchmarks" / "peers"), str(REPO)]

import results  # noqa: E402
from cost import measure_cost  # noqa: E402
from limits import measure_exact, measure_kill, measure_spills  # noqa: E402
from outage import measure_outage  # noqa: E402
from processes import Failed  # noqa: E402

Measure = Callable[[Path, bool], list[results.Row]]
MEASURES: dict[str, Measure] = {
    "exact": measure_exact,
    "spills": measure_spills,
    "kill": measure_kill,
    "cost": measure_cost,
    "outage": measure_outage,
}


def parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument(
        "measures", nargs="*", metavar="MEASURE", help=f"{', '.join(MEASURES)} (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs, only to see that it works")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results")
    args = parser.parse_args()
    if unknown := set(args.measures) - set(MEASURES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    args.measures = [name for name in MEASURES if name in args.measures or not args.measures]
    return args


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is stopped then, too
    run = results.Run.begin({"measures": " ".join(args.measures), "quick": args.quick})
    started_s = time.monotonic()
    for name in args.measures:
        with tempfile.TemporaryDirectory(prefix="fleet-") as folder, results.busy_machine() as busy:
            try:
                run.rows[name] = MEASURES[name](Path(folder), args.quick)
            except (Failed, AssertionError) as exc:
                run.failures[name] = str(exc).split("\n", 1)[0]
        run.busy_cores[name] = busy.cores
        print(f"{name}: {run.failures.get(name) or run.rows[name]}", file=sys.stderr, flush=True)
    run.took_s = round(time.monotonic() - started_s, 1)
    print(results.write(run, args.out))
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
