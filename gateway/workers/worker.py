"""One worker: `python -m gateway.workers.worker PARENT_PID`, started by the supervisor and by nobody else.

Its standard input is a socket: the supervisor's letter (configuration and place) comes through it, and
`ready` goes back. The letter holds secrets, which is why it is neither an argument nor a file.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvloop

from gateway import app
from gateway.processes.lifeline import die_with_parent
from gateway.workers.process import READY

if TYPE_CHECKING:
    from gateway.config.schema import Config
    from gateway.processes.worker_place import WorkerPlace

# Exit code of a worker that had to cut something at its end.
HAS_CUT = 3
_STDIN_FD = 0


def main(arguments: Sequence[str]) -> int:
    die_with_parent(int(arguments[0]))
    # Until there is a log to open anew; what comes meanwhile the supervisor sends again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    letter: tuple[Config, WorkerPlace] = pickle.loads(sys.stdin.buffer.read())
    config, place = letter
    shown = f"%(asctime)s %(levelname)s worker {place.number} %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=shown)
    try:
        was_clean = uvloop.run(app.run(config, lambda _: _say_ready(), place))
    except OSError as error:
        sys.stderr.write(f"spillway: worker {place.number} can't start: {error}\n")
        return 1
    return 0 if was_clean else HAS_CUT


def _say_ready() -> None:
    os.write(_STDIN_FD, READY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
