"""One life of a worker: a process with a fresh interpreter, from its letter to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import sys
from asyncio.subprocess import Process

from gateway.config.schema import Config
from gateway.processes.restarts import StartFailed, ending
from gateway.processes.worker_place import WorkerPlace

# An interpreter with all imports takes half a second; many at once on few cores take their time.
START_TIMEOUT_S = 60.0
READY = b"ready\n"


class WorkerProcess:
    """Made by `start`; then `ready` once, and `ended`."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, config: Config, place: WorkerPlace) -> WorkerProcess:
        """A process that has been sent its letter. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    # -P: its modules come from where Spillway is installed, not from the working directory.
                    *(sys.executable, "-P", "-m", "gateway.workers.worker", str(os.getpid())),
                    stdin=theirs.fileno(),
                    # Ctrl-C reaches the parent alone, which lets its workers drain.
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(pickle.dumps((config, place)))
        writer.write_eof()
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> None:
        """Waits until it serves. Raises StartFailed; it has ended then."""
        try:
            said = await asyncio.wait_for(self._reader.readline(), START_TIMEOUT_S)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.ended()
            raise StartFailed(f"was not ready within {START_TIMEOUT_S:g} s") from None
        except OSError:  # reset: it ended before it had read its letter
            said = b""
        if said != READY:
            raise StartFailed(f"ended with {ending(await self.ended())} before it was ready")

    async def ended(self) -> int:
        """Waits for its end: the exit code, negative for a signal."""
        code = await self._process.wait()
        self._writer.close()
        return code

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
