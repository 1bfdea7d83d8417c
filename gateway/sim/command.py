"""`spillway simulate`: what a configuration will do with a trace, before it is rolled out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.config.loading import load
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.sim.arrivals import Arrival, TraceError, read_trace
from gateway.sim.scenario import MAX_GATEWAYS, Scenario, load_scenario
from gateway.sim.script_host import NoLua, ScriptHost
from gateway.sim.study import RUNS, Study, study
from gateway.sim.sweep import Sweep, SweepError, configs_of, points_of, read_sweep, run_sweep
from gateway.sim.text_report import side_by_side, sweep_report, text_report
from gateway.sim.workloads import HELP, WorkloadError, make_workload
from gateway.sim.world import Progress, Setting

GOOD, FAILED, BAD_INPUT = 0, 1, 2
INTERRUPTED = 130  # as shells have it for SIGINT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, source = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    add("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    source.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="requests: CSV or CSV.gz, t_seconds,input_tokens,output_tokens[,model,tenant,residency]",
    )
    source.add_argument("--workload", metavar="SUM", help="made-up requests in place of a trace: see below")
    add("--scenario", type=Path, metavar="FILE", help="engines, distances, prices, faults (default: none)")
    add(
        "--gateways",
        type=_gateways,
        metavar="N",
        help="so many share the requests and the limits (default: 1)",
    )
    add("--compare", type=Path, metavar="FILE", action="append", help="another configuration; repeatable")
    add("--sweep", metavar="PATH=VALUES", help="the same with one setting at several values: see below")
    add("--seed", type=int, default=0, metavar="N", help="of all draws (default: 0)")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    add("--html", type=Path, metavar="FILE", help="write a page with pictures here")
    add("--quiet", action="store_true", help="no progress bar")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = HELP


def _gateways(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_GATEWAYS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_GATEWAYS}, not {text!r}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Task:
    """All that was given, read and checked."""

    workload: str
    setting: Setting
    others: Sequence[tuple[str, Config]]
    sweep: Sweep | None
    swept: Sequence[Config]


def run(args: argparse.Namespace) -> int:
    """Returns the exit code: 0 good, 1 a report can't be written, 2 a mistake in the input, 130 Ctrl-C."""
    try:
        return _run(args)
    except KeyboardInterrupt:
        sys.stderr.write("simulate: interrupted, nothing more is reported\n")
        return INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    try:
        task = _task_of(args)
    except (ConfigError, TraceError, WorkloadError, SweepError, NoLua) as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    setting = task.setting
    runs = RUNS * (1 + len(task.others) + len(task.swept))
    with _progress(args.quiet, len(setting.arrivals), runs) as tell:
        studies = [study(args.config.name, setting, tell)]
        studies += [study(name, replace(setting, config=config), tell) for name, config in task.others]
        swept = run_sweep(task.sweep, task.swept, setting, tell) if task.sweep is not None else []
    sys.stdout.write("\n".join(map(text_report, studies)))
    if task.others:
        sys.stdout.write(f"\n{side_by_side(studies)}\n")
    if task.sweep is not None:
        sys.stdout.write(f"\n{sweep_report(task.sweep, swept)}\n")
    return _write(args, task, studies, swept)


def _task_of(args: argparse.Namespace) -> Task:
    config = load(args.config)
    if args.scenario is not None:
        scenario = load_scenario(args.scenario, config, args.gateways)
    else:
        scenario = Scenario(gateways=args.gateways or 1)
    if scenario.shared_store is not None:
        ScriptHost()  # what is missing is said before anything runs
    others = [(path.name, load(path)) for path in args.compare or ()]
    sweep = read_sweep(args.sweep) if args.sweep is not None else None
    swept = configs_of(args.config, sweep) if sweep is not None else []
    arrivals: list[Arrival]
    if args.trace is not None:
        workload, arrivals = args.trace.name, read_trace(args.trace)
    else:
        workload, arrivals = args.workload, make_workload(args.workload, args.seed)
    return Task(workload, Setting(config, scenario, arrivals, args.seed), others, sweep, swept)


def _write(args: argparse.Namespace, task: Task, studies: Sequence[Study], swept: Sequence[Study]) -> int:
    # Each only where it is asked for.
    from gateway.sim.html_report import html_report, sweep_part
    from gateway.sim.json_report import json_report

    try:
        if args.html is not None:
            part = sweep_part(task.sweep, swept) if task.sweep is not None else ""
            args.html.write_text(html_report(studies, task.workload, args.seed, part), encoding="utf-8")
        if args.json is not None:
            curve = points_of(task.sweep, swept) if task.sweep is not None else None
            args.json.write_bytes(json_report(studies, task.workload, args.seed, curve))
    except OSError as error:
        sys.stderr.write(f"{error.filename}: cannot be written: {error.strerror}\n")
        return FAILED
    return GOOD


@contextmanager
def _progress(is_quiet: bool, count: int, runs: int) -> Iterator[Progress | None]:
    """A bar on the terminal, gone when the work is done; none where nobody watches."""
    if is_quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=count * runs)
        begun = 0

        def tell(number: int) -> None:
            nonlocal begun
            begun += number == 0
            bar.update(task, completed=(begun - 1) * count + number)

        yield tell
