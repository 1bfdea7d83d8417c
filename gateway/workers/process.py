"""One life of a worker: a process with a fresh interpreter, from its first letter to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import Process

from gateway.config.schema import Config
from gateway.processes.restarts import StartFailed, ending
from gateway.processes.worker_place import WorkerPlace
from gateway.workers.letters import READY, Letter, framed, read_answer

# An interpreter with all imports takes half a second; many at once on few cores take their time.
START_TIMEOUT_S = 60.0
# Adopting takes milliseconds, or tens of them for new certificates.
ADOPT_TIMEOUT_S = 2.0
# For who has not answered the letter before: it may have woken up.
LATE_TIMEOUT_S = 0.05


class NotAdopted(Exception):
    """A worker did not take a configuration; its text goes behind the worker's name."""


class WorkerProcess:
    """Made by `start`; then `ready` once, `adopt` for each further configuration, and `ended`."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._posting = asyncio.Lock()
        self._sent = self._answered = 0  # numbers of letters

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
        writer.write(framed((config, place)))
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

    async def adopt(self, config: Config, generation: int) -> None:
        """Sends a configuration and waits for the answer. Raises NotAdopted.

        One letter at a time: who does not answer gets no further one, which would only pile up.
        """
        async with self._posting:
            await self._answer(LATE_TIMEOUT_S)
            self._sent += 1
            self._writer.write(framed(Letter(self._sent, config, generation)))
            if (reason := await self._answer(ADOPT_TIMEOUT_S)) is not None:
                raise NotAdopted(f"refused it: {reason}")

    async def _answer(self, within_s: float) -> str | None:
        """To the last letter, if that is not answered yet; why it was refused. Raises NotAdopted."""
        reason = None
        try:
            async with asyncio.timeout(within_s):
                while self._answered < self._sent:
                    self._answered, reason = read_answer(await self._reader.readuntil())
        except TimeoutError:
            raise NotAdopted("does not answer") from None
        except (OSError, EOFError):
            raise NotAdopted("has ended") from None
        return reason

    async def ended(self) -> int:
        """Waits for its end: the exit code, negative for a signal."""
        code = await self._process.wait()
        self._writer.close()
        return code

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
