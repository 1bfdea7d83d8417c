"""The command line: one verb per thing to do. Exit 0 good, 1 failed, 2 usage or config."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version


def _serve(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway import serving

    serving.add_arguments(parser)
    return serving.run


def _check(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.config import check

    check.add_arguments(parser)
    return check.run


def _mock_engine(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    from gateway.mock_engine import command

    command.add_arguments(parser)
    return command.run


_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], int]]]] = {
    "serve": ("run the gateway", _serve),
    "check": ("look for mistakes in a configuration", _check),
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
    for verb, (summary, prepare) in _VERBS.items():
        child = verbs.add_parser(verb, help=summary, description=summary.capitalize() + ".")
        if verb in words[:1]:  # only the verb that is used is imported: the server stays small
            runs[verb] = prepare(child)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parsed = parser.parse_args(words)
    return runs[parsed.verb](parsed)


if __name__ == "__main__":
    sys.exit(main())
