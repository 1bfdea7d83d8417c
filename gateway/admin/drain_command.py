"""`spillway drain` and `spillway undrain`: ask a running gateway through its admin port.

Exit codes: 0 done, 1 unreachable, refused or unknown name, 2 usage.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from gateway.admin.address import DEFAULT_ADMIN, TokenUnreadable, admin_url, read_token
from gateway.admin.durations import parse_drain_s

ANSWER_TIMEOUT_S = 5.0


class _Failed(Exception):
    """Why it did not work, in words for the person who asked."""


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
    except (_Failed, TokenUnreadable) as failure:
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
        raise _Failed("what answers there is not a Spillway admin port") from exc


def _kind_of(name: str, names: dict[str, str]) -> str:
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = "\n".join(f"  {kind} {known}" for known, kind in sorted(names.items(), key=_clusters_first))
    raise _Failed(f"no cluster or backend is named {name!r}{hint}\nknown are:\n{known}")


def _clusters_first(entry: tuple[str, str]) -> tuple[bool, str]:
    return entry[1] != "cluster", entry[0]


def _duration(text: str) -> str:
    try:
        parse_drain_s(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


class _NoRedirect(HTTPRedirectHandler):
    """urllib would carry the token to wherever it is sent."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class AdminCaller:
    """JSON in, JSON out; anything else becomes a message that a person can act on."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        # No proxy from the environment: the admin port is on this machine or in this network.
        self._opener = build_opener(ProxyHandler({}), _NoRedirect())

    def get(self, path: str) -> dict[str, Any]:
        return self._ask(Request(self._url + path, headers=self._headers))

    def post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        return self._ask(
            Request(self._url + path, json.dumps(content).encode(), self._headers, method="POST")
        )

    def _ask(self, request: Request) -> dict[str, Any]:
        try:
            with self._opener.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
                content = json.loads(answer.read())
        except HTTPError as exc:
            raise _Failed(f"the gateway at {self._url} answered {exc.code}: {_message(exc)}") from exc
        except (OSError, HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            raise _Failed(
                f"no admin port answers at {self._url} ({reason}); is the gateway running, "
                "and is --admin its `admin.listen`?"
            ) from exc
        except ValueError as exc:
            raise _Failed(f"what answers at {self._url} is not a Spillway admin port") from exc
        if not isinstance(content, dict):
            raise _Failed(f"what answers at {self._url} is not a Spillway admin port")
        return content


def _message(exc: HTTPError) -> str:
    try:
        with exc:
            return str(json.loads(exc.read())["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(exc.reason)
