"""Lines to a file or a pipe, from a thread: a sink that is slow, full or gone never stops the event loop.

The event loop only appends to a list. Each counter has one writing thread, so nothing here takes a lock
on the way in; what waits is bounded, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 16 * 1024 * 1024
# The writer wakes at most this often, unless much is waiting: each wake takes the interpreter's lock
# from the event loop for a moment. At 256 KiB a line costs a fifth less CPU than at 64 KiB; at 1 MiB no
# less, but the event loop stands still longer.
PAUSE_S = 0.1
URGENT_BYTES = 256 * 1024
MAX_LINES_PER_WRITE = 1000
# What a pipe takes in one piece (PIPE_BUF on Linux): into a larger write another writer may break.
MAX_BYTES_IN_ONE_PIECE = 4096
STDOUT_FD = 1


def file_sink(path: str) -> Callable[[], int]:
    """Opens `path` for appending; several processes may append to one file."""

    def open_file() -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    return open_file


def stdout_sink() -> int:
    """A descriptor of our own, so that closing it leaves the process's standard output open."""
    return os.dup(STDOUT_FD)


class LineWriter:
    """`write` never waits and never raises; the order of lines is kept.

    Invariants: queued - written bytes <= max_waiting_bytes; every line is written or counted in `dropped`.
    Raises OSError from the constructor when the sink cannot be opened.
    """

    def __init__(
        self,
        open_sink: Callable[[], int],
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        is_shared: bool = False,
    ) -> None:
        self._is_shared = is_shared
        self._open_sink = open_sink
        self._fd = open_sink()
        self._max_waiting_bytes = max_waiting_bytes
        self._lines: list[bytes] = []
        # Written by the event loop only.
        self._queued_bytes = 0
        self._refused = 0
        self._is_closed = False
        # Written by the writer thread only.
        self._done_bytes = 0
        self._lost = 0
        self._is_torn = False
        self._has_complained = False
        # Set here, cleared there.
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._is_woken = False
        self._is_reopen_asked = False
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Lines that did not reach the sink and never will."""
        return self._refused + self._lost

    def write(self, line: bytes) -> None:
        """Takes a line, with its newline."""
        queued = self._queued_bytes + len(line)
        waiting = queued - self._done_bytes
        if waiting > self._max_waiting_bytes or self._is_closed:
            self._refused += 1
            return
        self._queued_bytes = queued
        self._lines.append(line)
        if not self._is_woken:
            self._wake_writer()
        elif waiting > URGENT_BYTES and not self._hurry.is_set():
            self._hurry.set()

    def reopen(self) -> None:
        """Opens the sink again before the next batch: call it after the file was rotated."""
        self._is_reopen_asked = True

    def close(self, deadline_s: float = 2.0) -> bool:
        """Writes what waits; False when the sink did not take all of it within `deadline_s`. Blocks."""
        self._is_closed = True
        if self._thread is None:
            self._close_sink()
            return True
        self._wake.set()
        self._hurry.set()
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            # It hangs in a write that nobody can end; being a daemon, it does not outlive the process.
            self._refused += len(self._lines)
            return False
        return True

    def _wake_writer(self) -> None:
        self._is_woken = True
        if self._thread is None:
            # Not before the first line: a process that forks its workers must not have threads yet.
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()
        self._wake.set()

    # --- the writer thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if not self._is_closed:
                self._hurry.wait(PAUSE_S)
            self._hurry.clear()
            # Before the lines are taken: one that comes later wakes this thread again.
            self._is_woken = False
            self._write_all()
            if self._is_closed:
                self._write_all()
                self._close_sink()
                return

    def _write_all(self) -> None:
        if self._is_reopen_asked:
            self._is_reopen_asked = False
            self._reopen()
        while lines := self._lines[:MAX_LINES_PER_WRITE]:
            del self._lines[: len(lines)]
            for batch in self._batches(lines):
                self._write_batch(batch)

    def _batches(self, lines: list[bytes]) -> Iterator[bytes]:
        """All at once; where others write too, and the sink is no file, only what stays in one piece."""
        if not self._is_shared or stat.S_ISREG(os.fstat(self._fd).st_mode):
            yield b"".join(lines)
            return
        start = size = 0
        for index, line in enumerate(lines):
            if size and size + len(line) > MAX_BYTES_IN_ONE_PIECE:
                yield b"".join(lines[start:index])
                start, size = index, 0
            size += len(line)
        yield b"".join(lines[start:])

    def _write_batch(self, batch: bytes) -> None:
        # After a write that broke off inside a line, the next line must not be glued to that half.
        rest = memoryview(b"\n" + batch if self._is_torn else batch)
        self._is_torn = False
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError as exc:
            left = bytes(rest)
            self._lost += left.count(b"\n")
            self._is_torn = len(left) < len(batch)
            self._complain("written", exc)
        self._done_bytes += len(batch)

    def _write_some(self, rest: memoryview) -> int:
        try:
            return os.write(self._fd, rest)
        except BlockingIOError:
            # Somebody who shares our standard output has made it non-blocking.
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll()
            return 0

    def _reopen(self) -> None:
        try:
            fd = self._open_sink()
        except OSError as exc:
            self._complain("reopened", exc)
            return
        self._close_sink()
        self._fd, self._is_torn = fd, False

    def _close_sink(self) -> None:
        os.close(self._fd)

    def _complain(self, what: str, exc: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.error("the access log cannot be %s (further failures are only counted): %s", what, exc)
