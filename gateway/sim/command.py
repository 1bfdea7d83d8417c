"""`spillway simulate`: what a configuration will do with a trace, before it is rolled out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.config.loading import load
from gateway.config.problems import ConfigError
from gateway.sim.arrivals import TraceError, read_trace
from gateway.sim.scenario import Scenario, load_scenario
from gateway.sim.study import RUNS, Study, study
from gateway.sim.text_report import text_report
from gateway.sim.world import Progress, Setting

GOOD, FAILED, BAD_INPUT = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument(
        "--trace",
        type=Path,
        required=True,
        metavar="FILE",
        help="requests: CSV or CSV.gz, t_seconds,input_tokens,output_tokens[,model,tenant,residency]",
    )
    parser.add_argument(
        "--scenario", type=Path, metavar="FILE", help="engines, distances, prices and faults (default: none)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Returns the exit code: 0 good, 1 a report could not be written, 2 a mistake in what was given."""
    try:
        setting = _setting_of(args)
    except (ConfigError, TraceError) as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    with _progress(args.quiet, len(setting.arrivals)) as tell:
        result = study(args.config.name, setting, tell)
    sys.stdout.write(text_report(result))
    return _write(args, result)


def _setting_of(args: argparse.Namespace) -> Setting:
    config = load(args.config)
    scenario = load_scenario(args.scenario, config) if args.scenario is not None else Scenario()
    return Setting(config, scenario, read_trace(args.trace), args.seed)


def _write(args: argparse.Namespace, result: Study) -> int:
    from gateway.sim.json_report import json_report

    try:
        if args.json is not None:
            args.json.write_bytes(json_report(result, args.trace.name, args.seed))
    except OSError as error:
        sys.stderr.write(f"{error.filename}: cannot be written: {error.strerror}\n")
        return FAILED
    return GOOD


@contextmanager
def _progress(is_quiet: bool, count: int) -> Iterator[Progress | None]:
    """A bar on the terminal, gone when the work is done; none where nobody watches."""
    if is_quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=count * RUNS)
        done = 0

        def tell(number: int) -> None:
            nonlocal done
            done += number == 0
            bar.update(task, completed=(done - 1) * count + number)

        yield tell
