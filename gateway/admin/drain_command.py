"""`spillway drain` and `spillway undrain`: ask a running gateway through its admin port.

Exit codes: 0 done, 1 unreachable, refused or unknown name, 2 usage.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.admin.address import DEFAULT_ADMIN, TokenUnreadable, admin_url, read_token
from gateway.admin.caller import AdminCaller, CallFailed
from gateway.admin.durations import parse_drain_s


def add_drain_arguments(parser: argparse.ArgumentParser) -> None:
    add_undrain_arguments(parser)
    parser.add_argument(
        "--for", dest="for_", metavar="DURATION", type=_duration, help="end the drain after this, such as 60s"
    )


def add_undrain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="CLUSTER|BACKEND", help="as in the configuration and in /api/v1/fleet"
    )
    parser.add_argument(
        "--admin",
        metavar="URL",
        type=admin_url,
        default=DEFAULT_ADMIN,
        help="admin port (default %(default)s)",
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="file with the admin token")


def run_drain(args: argparse.Namespace) -> int:
    return _run(args, "drain")


def run_undrain(args: argparse.Namespace) -> int:
    return _run(args, "undrain")


def _run(args: argparse.Namespace, verb: str) -> int:
    try:
        admin = AdminCaller(args.admin, read_token(args.token_file))
        kind = _kind_of(args.name, _kinds(admin.get("/api/v1/fleet")))
        asked = {"for": args.for_} if getattr(args, "for_", None) else {}
        answer = admin.post(f"/api/v1/{kind}s/{quote(args.name, safe='@:')}/{verb}", asked)
    except (CallFailed, TokenUnreadable) as failure:
        sys.stderr.write(f"spillway {verb}: {failure}\n")
        return 1
    sys.stdout.write(_report(kind, answer) + "\n")
    return 0


def _report(kind: str, answer: dict[str, Any]) -> str:
    name = f"{kind} {answer['name']}"
    if not answer["drained"]:
        return f"{name} takes new work again"
    left_s = answer["drained_for_s"]
    end = "until undrained" if left_s is None else f"for {left_s:g} s"
    return f"{name} is drained {end}; {answer['in_flight']} in flight may finish"


def _kinds(fleet: dict[str, Any]) -> dict[str, str]:
    """Every name of the fleet: is it a cluster or a backend?"""
    try:
        clusters = [cluster for tier in fleet["tiers"] for cluster in tier["clusters"]]
        backends = [backend["id"] for cluster in clusters for backend in cluster["backends"]]
        return dict.fromkeys(backends, "backend") | {cluster["name"]: "cluster" for cluster in clusters}
    except (KeyError, TypeError) as exc:
        raise CallFailed("what answers there is not a Spillway admin port") from exc


def _kind_of(name: str, names: dict[str, str]) -> str:
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = "\n".join(f"  {kind} {known}" for known, kind in sorted(names.items(), key=_clusters_first))
    raise CallFailed(f"no cluster or backend is named {name!r}{hint}\nknown are:\n{known}")


def _clusters_first(entry: tuple[str, str]) -> tuple[bool, str]:
    return entry[1] != "cluster", entry[0]


def _duration(text: str) -> str:
    try:
        parse_drain_s(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text
