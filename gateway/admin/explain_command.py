"""`spillway explain`: where a request would go and why, or what became of one, from its access-log line.

Exit codes: 0 done, 1 no gateway answers, 2 usage, configuration, state or log line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gateway.admin.address import DEFAULT_ADMIN, TokenUnreadable, admin_url, read_token
from gateway.admin.caller import AdminCaller, CallFailed
from gateway.admin.explain_page import explain_page
from gateway.admin.explain_query import ExplainQuery, parse_draw, parse_header
from gateway.admin.explain_text import explain_text
from gateway.admin.given_state import BadState, GivenState, read_state
from gateway.config.check import with_files
from gateway.config.fleet import fleet_of, key_rules_of
from gateway.config.loading import load
from gateway.config.problems import ConfigError
from gateway.core.model import Backend, Cluster
from gateway.core.restoring import restored
from gateway.telemetry.log_words import BadLine, explain_line

T = TypeVar("T")

GOOD, FAILED, BAD_INPUT = 0, 1, 2


class _Misused(Exception):
    """Arguments that do not go together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="M", help="the model that the request names (default: none)")
    parser.add_argument(
        "--header",
        metavar="K:V",
        action="append",
        type=_argument(parse_header),
        default=[],
        help="a header of the request; may be given several times",
    )
    parser.add_argument(
        "--key", metavar="NAME", help="whose key the request shows: the name in `keys`, never the key itself"
    )
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="ask a configuration, in place of a running gateway"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="with -c: the state of the fleet, as /api/v1/fleet printed it or as YAML such as `eu-primary: "
        "full` (default: idle, and all is well)",
    )
    parser.add_argument(
        "--admin", metavar="URL", type=admin_url, help=f"admin port (default {DEFAULT_ADMIN})"
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="file with the admin token")
    parser.add_argument(
        "--draw",
        metavar="N",
        type=_argument(parse_draw),
        help="decide for this draw of 64 bits (default: the likeliest of many, with chances)",
    )
    parser.add_argument(
        "--log-line",
        metavar="LINE",
        help="tell what became of a request, from its access-log line; `-` reads lines from standard input",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, as the admin port has it")


def run(args: argparse.Namespace) -> int:
    try:
        if args.log_line is not None:
            _tell_lines(args)
        else:
            page = _page_of_file(args) if args.config is not None else _page_of_gateway(args)
            _write(_as_json(page) if args.json else explain_text(page))
    except (CallFailed, TokenUnreadable) as failure:
        sys.stderr.write(f"spillway explain: {failure}\n")
        return FAILED
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    except (BadState, BadLine, _Misused) as error:
        sys.stderr.write(f"spillway explain: {error}\n")
        return BAD_INPUT
    return GOOD


def _page_of_file(args: argparse.Namespace) -> dict[str, Any]:
    if args.admin is not None:
        raise _Misused("-c asks a file and --admin a running gateway: give one of them")
    config = with_files(load(args.config))
    configured = fleet_of(config)
    given = GivenState({}, {})
    if args.state is not None:
        given = read_state(args.state, configured.clusters)
        configured = configured._replace(
            clusters=tuple(_with_found(cluster, given) for cluster in configured.clusters)
        )
    fleet = restored(configured, *given, now_s=0.0)
    known = {rules.name: rules for rules in key_rules_of(config)}
    if args.key is not None and args.key not in known:
        raise _Misused(f"no client key is named {args.key!r}")
    return explain_page(fleet.view, _query(args), 0.0, known.get(args.key))


def _with_found(cluster: Cluster, given: GivenState) -> Cluster:
    """The backends that discovery had found for the gateway whose page this is."""
    if cluster.backends:
        return cluster
    found = [(id_, told) for id_, told in given.backends.items() if id_.startswith(f"{cluster.name}@")]
    return replace(cluster, backends=tuple(Backend(id_, "", told.limit or 1) for id_, told in found))


def _page_of_gateway(args: argparse.Namespace) -> dict[str, Any]:
    if args.state is not None:
        raise _Misused("--state needs the configuration that it belongs to: give -c FILE too")
    admin = AdminCaller(args.admin or DEFAULT_ADMIN, read_token(args.token_file))
    page = admin.get(_query(args).path)
    if "left_out" not in page:
        raise CallFailed("what answers there is not a Spillway admin port")
    return page


def _query(args: argparse.Namespace) -> ExplainQuery:
    return ExplainQuery(args.model, tuple(args.header), args.draw, args.key)


def _tell_lines(args: argparse.Namespace) -> None:
    lines: Iterable[str] = sys.stdin if args.log_line == "-" else (args.log_line,)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = explain_line(line)
        except BadLine as error:
            raise BadLine(f"line {number}: {error}") from error
        _write(_as_json(told._asdict()) if args.json else "\n".join(told.sentences) + "\n\n")


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _write(text: str) -> None:
    """Whatever characters a name holds and the terminal lacks."""
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse, which shows the message of its own error only."""

    def parse_argument(text: str) -> T:
        try:
            return parse(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return parse_argument
