"""docs/cli.md, from the verbs' own parsers."""

import argparse
from collections.abc import Callable

from docgen.page import NOTE, cell
from gateway.cli import VERBS

CLI = f"""{NOTE}<!-- Source: gateway/cli.py and the verbs' own modules -->

# The `spillway` command

`spillway VERB --help` says the same. Every verb exits with 0 when all is good, 1 when it failed, 2 for a mistake
in its arguments or in the configuration.
"""


def cli() -> str:
    return CLI + "".join(_verb(verb, *entry) for verb, entry in VERBS.items())


def _verb(verb: str, summary: str, prepare: Callable[[argparse.ArgumentParser], object]) -> str:
    parser = argparse.ArgumentParser(prog=f"spillway {verb}", add_help=False)
    prepare(parser)
    # Not format_help(): its layout differs between versions of Python.
    rows = "".join(_argument(action) for action in parser._actions)
    epilog = f"\n```\n{parser.epilog.rstrip()}\n```\n" if parser.epilog else ""
    return f"\n## `spillway {verb}`\n\n{summary.capitalize()}.\n\n| argument | meaning |\n|---|---|\n{rows}{epilog}"


def _argument(action: argparse.Action) -> str:
    values = "" if action.nargs == 0 else action.metavar or _choices(action) or action.dest.upper()
    names = ", ".join(f"{name} {values}".strip() for name in action.option_strings) or str(values)
    meaning = (action.help or "") % {"default": action.default}
    required = "; required" if action.required and action.option_strings else ""
    return f"| `{cell(names)}` | {cell(meaning) + required} |\n"


def _choices(action: argparse.Action) -> str:
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
