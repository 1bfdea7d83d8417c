"""The child processes of slow_backend.py: eleven servers for each policy, and gateways that balance by it.

usage: python benchmarks/_slow_backend_roles.py servers SETS SEED
       python benchmarks/_slow_backend_roles.py gateway POLICY CONFIG

`servers` says its ports in one line of JSON, one list for each set. A server answers after a time drawn from
a log-normal distribution, in the order in which requests come to its set; the slow one after SLOW_S from
`POST /slow/1` until `POST /slow/0`. `GET /report` tells what came and what was abandoned.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Any

import uvloop

from gateway import cli
from gateway.core import routing
from gateway.core.view import BackendState

SERVERS, SLOW_SERVER = 11, 5
# Linkerd publishes the median. With this sigma p95 is 0.38 s, p99 0.53 s, and one draw in 5,900 exceeds 1 s.
MEDIAN_S, SIGMA, SLOW_S = 0.167, 0.5, 2.0

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb"x-number: *(\d+)", re.IGNORECASE)
_BODY = json.dumps({"id": "cmpl-1", "choices": [{"index": 0, "text": "x" * 300}]}).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Set:
    """Eleven servers behind one gateway, and what came to each."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.is_slow = False
        self.attempts: list[tuple[int, int, float]] = []  # request number, server, service time
        self.abandoned = 0

    def service_s(self, server: int) -> float:
        # Drawn in any case: the others' times do not depend on who is chosen.
        drawn_s = self._random.lognormvariate(math.log(MEDIAN_S), SIGMA)
        return SLOW_S if self.is_slow and server == SLOW_SERVER else drawn_s


class Server(asyncio.Protocol):
    """One connection to one server; requests come one at a time."""

    def __init__(self, sets: Sequence[Set], mine: Set, server: int) -> None:
        self._sets, self._mine, self._server = sets, mine, server
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length is not None and len(body) < int(length[1])):
            return
        self._received = b""
        if head.startswith((b"POST /slow/", b"GET /report")):
            self._obey(head)
            return
        number = _NUMBER.search(head)
        service_s = self._mine.service_s(self._server)
        self._mine.attempts.append((int(number[1]) if number else -1, self._server, service_s))
        self._timer = asyncio.get_running_loop().call_later(service_s, self._answer, _BODY)

    def _obey(self, head: bytes) -> None:
        if head.startswith(b"POST"):
            for one in self._sets:
                one.is_slow = head.startswith(b"POST /slow/1")
        report = [{"attempts": one.attempts, "abandoned": one.abandoned} for one in self._sets]
        self._answer(json.dumps(report).encode() if head.startswith(b"GET") else b"{}")

    def _answer(self, body: bytes) -> None:
        self._timer = None
        self._transport.write(_ANSWER % (len(body), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._mine.abandoned += 1


async def serve(set_count: int, seed: int) -> None:
    loop = asyncio.get_running_loop()
    sets = [Set(seed) for _ in range(set_count)]
    ports: list[list[int]] = []
    for one in sets:
        listening = [
            await loop.create_server(lambda one=one, number=number: Server(sets, one, number), "127.0.0.1", 0)
            for number in range(SERVERS)
        ]
        ports.append([server.sockets[0].getsockname()[1] for server in listening])
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


# --- the other policies: only the order of the backends is another one; all else is the same gateway -

_turns = count()


def in_turn(backends: Sequence[BackendState], draw: int, now_s: float) -> Sequence[BackendState]:
    """Round robin."""
    start = next(_turns) % len(backends)
    return [*backends[start:], *backends[:start]]


def by_in_flight(backends: Sequence[BackendState], draw: int, now_s: float) -> Sequence[BackendState]:
    """Least loaded: fewest in flight, ties at random."""
    start = draw % len(backends)
    return sorted([*backends[start:], *backends[:start]], key=lambda backend: backend.in_flight)


ORDERS: dict[str, Any] = {
    "spillway": routing.order_backends,
    "round robin": in_turn,
    "least loaded": by_in_flight,
}


def main(role: str, *arguments: str) -> int:
    if role == "servers":
        uvloop.run(serve(int(arguments[0]), int(arguments[1])))
        return 0
    policy, config = arguments
    routing.order_backends = ORDERS[policy]
    return cli.main(["serve", "-c", config])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
