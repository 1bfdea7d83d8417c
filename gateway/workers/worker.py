"""One worker: `python -m gateway.workers.worker PARENT_PID`, started by the supervisor and by nobody else.

Its standard input is a socket, through which letters come and answers go back (letters.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import uvloop

from gateway import app
from gateway.config.problems import ConfigError
from gateway.processes.lifeline import die_with_parent
from gateway.workers.letters import READY, Letter, Letters, adopted, refused

if TYPE_CHECKING:
    from gateway.config.schema import Config
    from gateway.processes.worker_place import WorkerPlace

# Exit code of a worker that had to cut something at its end.
HAS_CUT = 3
_STDIN_FD = 0
_READ_BYTES = 65_536

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    die_with_parent(int(arguments[0]))
    # Until there is a log to open anew; what comes meanwhile the supervisor sends again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    letters = Letters()
    first: tuple[Config, WorkerPlace] = _first(letters)
    config, place = first
    shown = f"%(asctime)s %(levelname)s worker {place.number} %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=shown)
    try:
        was_clean = uvloop.run(app.run(config, lambda gateway: _serve_letters(gateway, letters), place))
    except OSError as error:
        sys.stderr.write(f"spillway: worker {place.number} can't start: {error}\n")
        return 1
    return 0 if was_clean else HAS_CUT


def _first(letters: Letters) -> Any:
    while (letter := letters.next()) is None:
        data = os.read(_STDIN_FD, _READ_BYTES)
        if not data:
            sys.exit(1)  # the parent has ended, or does not want it any more
        letters.feed(data)
    return letter


def _serve_letters(gateway: app.Gateway, letters: Letters) -> None:
    """Says that it is ready; from then on each letter is a configuration to adopt."""
    loop = asyncio.get_running_loop()

    def on_data() -> None:
        try:
            data = os.read(_STDIN_FD, _READ_BYTES)
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(_STDIN_FD)
            return
        letters.feed(data)
        while (letter := letters.next()) is not None:
            os.write(_STDIN_FD, _adopt(gateway, letter))

    os.write(_STDIN_FD, READY)
    loop.add_reader(_STDIN_FD, on_data)


def _adopt(gateway: app.Gateway, letter: Letter) -> bytes:
    try:
        gateway.adopt(letter.config)
    except (ConfigError, OSError) as error:
        return refused(letter.number, str(error))
    except Exception as error:
        log.exception("configuration %d could not be adopted", letter.generation)
        return refused(letter.number, f"failed: {error!r}")
    gateway.generation = letter.generation
    return adopted(letter.number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
