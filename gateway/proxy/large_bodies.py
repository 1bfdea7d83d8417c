"""Large bodies are read in a process of their own, because who reads 32 MiB of JSON holds the interpreter.

A thread would not help: the JSON reader, like every search in bytes, keeps the interpreter's lock from its
start to its end, and all streams wait (ADR 0041). Smaller bodies that are hard to read come here too
(bodies.NeedsTime). The process is started with the first of them, reads one after the other, and ends when
its gateway does. A thread does the waiting; the lock is free meanwhile.

On the wire: a line of JSON with the size of the body and how to read it, then the body; a line comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import orjson

from gateway.proxy.bodies import BodyFacts, facts_of
from gateway.proxy.errors import Refusal, invalid

log = logging.getLogger(__name__)

# Up to here a look takes 3 ms at most where it needs no more time (benchmarks/loop_lag.py).
LARGE_BODY_BYTES = 256 * 1024
# For one body: 32 MiB of the slowest JSON take about half a second.
READ_S = 10.0
_NICENESS = 5  # streams first


class LargeBodies:
    """The process, while there is one, and who waits for it."""

    def __init__(self) -> None:
        self._lane: ThreadPoolExecutor | None = None
        self._child: _Child | None = None
        self._is_closed = False

    async def read(self, content_type: bytes, body: bytes, *, is_json: bool) -> BodyFacts:
        """As bodies.facts_of. Cancelled, it leaves the process to finish what it reads. Raises Refusal."""
        if self._lane is None:
            self._lane = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lane, self._ask, content_type, body, is_json)

    def _ask(self, content_type: bytes, body: bytes, is_json: bool) -> BodyFacts:
        """In the thread. A process that has died is replaced once; one that needs too long is ended."""
        for _ in range(2):
            try:
                if self._child is None:
                    self._child = _Child()
                return self._child.ask(content_type, body, is_json)
            except TimeoutError:
                self._end_child()
                raise invalid(f"The body took longer than {READ_S:g} s to read.") from None
            except (OSError, EOFError) as error:
                if self._is_closed:
                    break
                log.warning("the process that reads large bodies has ended: %r", error)
                self._end_child()
        raise Refusal(503, "no_backend", "Large requests can't be read now.")

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def close(self) -> None:
        """Nothing is read any more. Waits for the process to be gone: that is a kill away."""
        self._is_closed = True
        if (child := self._child) is not None:
            child.end()  # wakes the thread, if it waits
        if self._lane is not None:
            self._lane.shutdown(wait=True, cancel_futures=True)
        if self._child is not child:  # it was just being started
            self._end_child()

    @property
    def process_id(self) -> int | None:
        return self._child.process.pid if self._child is not None else None


class _Child:
    """The other end of a socket. Raises OSError when it can't be started."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(READ_S)
        self._answers = self._socket.makefile("rb")
        with theirs:
            # A session of its own: Ctrl-C is for the gateway. It ends when the socket does.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway.proxy.large_bodies"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,
            )

    def ask(self, content_type: bytes, body: bytes, is_json: bool) -> BodyFacts:
        asked = {"size": len(body), "content_type": content_type.decode("latin-1"), "is_json": is_json}
        self._socket.sendall(orjson.dumps(asked) + b"\n")
        self._socket.sendall(body)
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError("no answer")
        told = orjson.loads(line)
        if "refused" in told:
            status, message, param, cause = told["refused"]
            refusal = invalid(message, param=param, status=status)
            refusal.cause = cause
            raise refusal
        model, stream, span = told["read"]
        return BodyFacts(model, stream, span and tuple(span))

    def end(self) -> None:
        """The socket is shut down first: whoever waits on it in the thread wakes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.process.kill()
        self.process.wait()
        self._answers.close()
        self._socket.close()


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The life of the process: until nobody asks any more."""
    while line := requests.readline():
        asked = orjson.loads(line)
        body = requests.read(asked["size"])
        if len(body) < asked["size"]:
            return
        answers.write(orjson.dumps(_looked_at(asked, body)) + b"\n")
        answers.flush()
        del body


def _looked_at(asked: dict[str, object], body: bytes) -> dict[str, object]:
    try:
        content_type = str(asked["content_type"]).encode("latin-1")
        facts = facts_of(content_type, body, is_json=bool(asked["is_json"]), finds_span=True)
    except Refusal as refusal:
        return {"refused": (refusal.status, refusal.message, refusal.param, refusal.cause)}
    return {"read": (facts.model, facts.stream, facts.model_span)}


if __name__ == "__main__":
    os.nice(_NICENESS)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
