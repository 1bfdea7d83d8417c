"""`spillway serve`, and at SIGUSR1 a count of all that lives in it, as JSON in a file.

python -m tests.chaos.census_gateway CONFIG CENSUS_FILE
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from gateway import cli

# One for each request or connection: none of them may outlive it.
COUNTED = ("Exchange", "Attempt", "Hedge", "Route", "DownstreamConnection", "UpstreamConnection",
           "RequestRecord", "Waiter", "Lease")  # fmt: skip


def census() -> dict[str, int]:
    gc.collect()
    found = Counter(type(one).__name__ for one in gc.get_objects())
    return {"tasks": len(asyncio.all_tasks()), **{name: found[name] for name in COUNTED}}


def write_census(path: Path) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(census()))
    os.replace(part, path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: write_census(Path(sys.argv[2])))
    sys.exit(cli.main(["serve", "-c", sys.argv[1]]))
