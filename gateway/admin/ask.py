"""`python -m gateway.admin.ask PATH`: one GET to the admin port of this machine, where there is no curl.

A container's health check asks /livez with it, its preStop hook /health/drain. It imports next to nothing,
because an orchestrator starts it every few seconds.

Exit codes: 0 a status of success, 1 any other answer or none, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException

# HOST:PORT, for an admin port that is not where it is by default: one command fits all configurations.
ADMIN_VARIABLE = "SPILLWAY_ADMIN"
DEFAULT_ADMIN = "127.0.0.1:9090"
# Below the three seconds that the image's HEALTHCHECK allows, so that the reason is told.
DEFAULT_WITHIN_S = 2.0
MAX_SHOWN_BYTES = 4096


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    admin = os.environ.get(ADMIN_VARIABLE, DEFAULT_ADMIN)
    try:
        with closing(HTTPConnection(admin, timeout=args.within)) as connection:
            connection.request("GET", args.path)
            answer = connection.getresponse()
            shown = answer.read(MAX_SHOWN_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException, ValueError) as error:
        sys.stderr.write(f"no admin port answers at {admin}: {error or type(error).__name__}\n")
        return 1
    is_good = 200 <= answer.status < 300
    (sys.stdout if is_good else sys.stderr).write(f"{answer.status} {shown}\n")
    return 0 if is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.admin.ask",
        description="Ask the admin port of this machine.",
        epilog=f"The environment variable {ADMIN_VARIABLE} says where it is (default {DEFAULT_ADMIN}).",
    )
    parser.add_argument("path", metavar="PATH", help="such as /livez or /health/drain")
    parser.add_argument(
        "--within",
        type=float,
        default=DEFAULT_WITHIN_S,
        metavar="SECONDS",
        help="how long to wait for an answer (default %(default)g)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
