"""The command line: one verb per thing to do. Exit 0 good, 1 failed, 2 usage or config."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.config.lints import Finding
    from gateway.config.loading import Loaded
    from gateway.config.schema import Config
    from gateway.workers.supervisor import Supervisor


def _serve(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    return _run_serve


def _run_serve(args: argparse.Namespace) -> int:
    if os.getpid() == 1:
        _end_when_told_to()
    import uvloop

    from gateway.config.loading import load_whole
    from gateway.config.problems import ConfigError
    from gateway.processes.restarts import StartFailed

    try:
        file = load_whole(args.config, {})
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        uvloop.run(_life_of(file))
    except (OSError, StartFailed) as error:  # a port in use, a certificate that does not fit
        sys.stderr.write(f"spillway: can't start: {error}\n")
        return 1
    return 0


def _end_when_told_to() -> None:
    """Ends process 1 at once, as the signal would end any other, until the gateway itself heeds signals.

    To process 1 of a container the kernel hands on only those that have a handler: a stop during the start
    would be lost, and last for its whole grace period.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os._exit(128 + number))


def _life_of(file: Loaded) -> Coroutine[None, None, object]:
    """One gateway in this process, or several in processes of their own."""
    config = file.config
    if config.workers == 1:
        from gateway import app

        return app.run(config, _announce, file=file)
    from gateway.workers import supervisor

    return supervisor.run(config, _announce, file)


def _announce(gateway: Gateway | Supervisor) -> None:
    sys.stderr.write(f"spillway: ready on port {gateway.port}, admin on port {gateway.admin_port}\n")


def _check(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.config import check

    check.add_arguments(parser)
    parser.add_argument(
        "--scenario",
        type=Path,
        metavar="FILE",
        help="engines, as for `simulate`: limits are held against what they run at a time",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="requests, as for `simulate`: they are simulated, and it is told when the configuration flaps",
    )
    return _run_check


def _run_check(args: argparse.Namespace) -> int:
    from gateway.config import check

    if args.scenario is None and args.trace is None:
        return check.run(args)
    from gateway.sim.arrivals import TraceError
    from gateway.sim.script_host import NoLua

    try:
        return check.run(args, lambda config: _simulated_lints(args, config))
    except (TraceError, NoLua) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _simulated_lints(args: argparse.Namespace, config: Config) -> Sequence[Finding]:
    """What only the simulator can tell, of the scenario and the trace that are given."""
    from gateway.sim.arrivals import read_trace
    from gateway.sim.scenario import Scenario, load_scenario
    from gateway.sim.scenario_lints import lint_scenario
    from gateway.sim.stand_ins import load_to_simulate
    from gateway.sim.trace_lints import lint_trace

    scenario = Scenario() if args.scenario is None else load_scenario(args.scenario, config)
    findings = [*lint_scenario(config, scenario)]
    if args.trace is not None:
        whole = load_to_simulate(Path(args.config))
        findings += lint_trace(whole, scenario, read_trace(args.trace), args.trace.name)
    return findings


def _mock_engine(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.mock_engine import command

    command.add_arguments(parser)
    return command.run


def _demo(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway import demo

    demo.add_arguments(parser)
    return demo.run


def _simulate(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.sim import command

    command.add_arguments(parser)
    return command.run


def _explain(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.admin import explain_command

    explain_command.add_arguments(parser)
    return explain_command.run


def _top(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway import top

    top.add_arguments(parser)
    return top.run


def _drain(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.admin import drain_command

    drain_command.add_drain_arguments(parser)
    return drain_command.run_drain


def _undrain(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.admin import drain_command

    drain_command.add_undrain_arguments(parser)
    return drain_command.run_undrain


VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], int]]]] = {
    "serve": ("run the gateway", _serve),
    "check": ("look for mistakes in a configuration", _check),
    "demo": ("three mock clusters and a gateway, to watch requests spill and come back", _demo),
    "simulate": ("tell what a configuration will do with a trace, before it is rolled out", _simulate),
    "explain": ("tell where a request would go and why, or what became of one", _explain),
    "top": ("watch one or several gateways live: tiers, room, circuits, spills, rates", _top),
    "drain": ("take a cluster or a backend out of new work", _drain),
    "undrain": ("give a cluster or a backend new work again", _undrain),
    "mock-engine": ("run a model server that only pretends, with faults on demand", _mock_engine),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point of the `spillway` command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="spillway",
        description="A gateway for model inference: every request goes to the best cluster with room now.",
    )
    parser.add_argument("--version", action="version", version=f"spillway {version('spillway')}")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    runs: dict[str, Callable[[argparse.Namespace], int]] = {}
    for verb, (summary, prepare) in VERBS.items():
        child = verbs.add_parser(verb, help=summary, description=summary.capitalize() + ".")
        if verb in words[:1]:  # only the verb that is used is imported: the server stays small
            runs[verb] = prepare(child)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parsed = parser.parse_args(words)
    return runs[parsed.verb](parsed)


if __name__ == "__main__":
    sys.exit(main())
