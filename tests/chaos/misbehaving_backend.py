"""Backends that answer most requests well and misbehave at random on the others.

    python -m tests.chaos.misbehaving_backend SEED FAULT_SHARE PORT_COUNT

Says its ports in one line of JSON; the last one only answers questions, the others are backends:
`GET /counts` gives what they did, `GET /seen` the numbers of the requests that they read whole. A good answer
carries the request's number and ends in a mark, so that a client can tell a whole answer of its own.

`crossed` are requests on a connection on which a stray answer was written before, by how many seconds the
first of them came after it: the two may have met on the way. Then nobody can know that the one is no answer
to the other, nor the next answer one to the next request, until the connection is idle again.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import uvloop

from tests.proxy.dialogue import linger_on

HOST = "127.0.0.1"
NUMBER = "x-request-id"
END_MARK = '"end":"whole"}'
POISON = "poison"  # is in every byte string that no client may ever get
# A port that refuses does so for so long, and then listens for so long.
CLOSED_S, OPEN_S = (0.05, 0.3), (1.0, 3.0)

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb"x-request-id: *soak-(\d+)", re.IGNORECASE)
_UNSOLICITED = b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"poison"}'

# LATER: while the connection is idle. Once the next request has come nobody could tell it from its answer.
HANG, RESET, CLOSE, LATER = "hang", "reset", "close", "later"
LATER_S = 0.02
Step = bytes | float | str  # written, waited for, or an ending


class Ask(NamedTuple):
    """One request, as far as a script needs it."""

    number: int
    is_stream: bool


# --- scripts: what is written, when, and how it ends --------------------------------------------------


def _body(ask: Ask) -> bytes:
    return b'{"number":%d,"text":"%b",%b' % (ask.number, b"x" * 300, END_MARK.encode())


def _whole(ask: Ask, random: Random) -> list[Step]:
    if not ask.is_stream:
        body = _body(ask)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        return [random.uniform(0.0, 0.01), head + body]
    event = b'data: {"number":%d}\n\n' % ask.number
    steps: list[Step] = [
        random.uniform(0.0, 0.01),
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    ]
    for _ in range(random.randint(2, 8)):
        steps += [b"%x\r\n%b\r\n" % (len(event), event), random.uniform(0.0, 0.005)]
    return [*steps, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]


def _broken_off(ask: Ask, random: Random, ending: str) -> list[Step]:
    """The good answer up to some byte of it."""
    steps = _whole(ask, random)
    total = sum(len(step) for step in steps if isinstance(step, bytes))
    left, kept = random.randrange(total), list[Step]()
    for step in steps:
        if not isinstance(step, bytes):
            kept.append(step)
            continue
        kept.append(step[:left])
        left -= len(step)
        if left <= 0:
            break
    return [*kept, ending]


def _slow(ask: Ask, random: Random) -> list[Step]:
    steps: list[Step] = []
    for step in _whole(ask, random):
        if isinstance(step, bytes):
            middle = random.randrange(len(step))
            steps += [step[:middle], random.uniform(0.01, 0.05), step[middle:]]
        else:
            steps.append(step)
    return steps


def _status(status: bytes, more: bytes = b"") -> Callable[[Ask, Random], list[Step]]:
    body = b'{"error":{"message":"no","type":"x","param":null,"code":"x"}}'
    answer = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
    return lambda ask, random: [answer % (status, more, len(body), body)]


def _bad_chunk(ask: Ask, random: Random) -> list[Step]:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, b"5\r\nhello\r\n", random.uniform(0, 0.01), b"zz\r\npoison\r\n0\r\n\r\n"]


FAULTS: dict[str, Callable[[Ask, Random], list[Step]]] = {
    "reset before the answer": lambda ask, random: [random.uniform(0, 0.01), RESET],
    "reset at a byte": lambda ask, random: _broken_off(ask, random, RESET),
    "truncated": lambda ask, random: _broken_off(ask, random, CLOSE),
    "stall at a byte": lambda ask, random: _broken_off(ask, random, HANG),
    "hang": lambda ask, random: [HANG],
    "500": _status(b"500 Internal Server Error"),
    "503": _status(b"503 Service Unavailable"),
    "429": _status(b"429 Too Many Requests", b"retry-after: 0\r\n"),
    "429 for a second": _status(b"429 Too Many Requests", b"retry-after: 1\r\n"),
    "garbage": lambda ask, random: [b"poison" + random.randbytes(random.randint(1, 200)) + b"\r\n\r\n"],
    "bad chunk": _bad_chunk,
    "two lengths": lambda ask, random: [
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\ncontent-length: 7\r\n\r\npoison!"
    ],
    "slow": _slow,
    "interim answers": lambda ask, random: [
        b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.002, *_whole(ask, random)
    ],
    "unsolicited answer": lambda ask, random: [*_whole(ask, random), _UNSOLICITED],
    "unsolicited answer later": lambda ask, random: [*_whole(ask, random), LATER],
    "closed after the answer": lambda ask, random: [*_whole(ask, random), CLOSE],
}  # fmt: skip
# Each costs the backend's slots for a second; drawn as often as the others they would leave nothing to serve.
SAYS_FULL = {"503", "429", "429 for a second"}
# Drawn before the body is read.
EARLY, UNREAD = "answer before the body", "reset before the body"


# --- connections ---------------------------------------------------------------------------------------


class Books:
    """What all backends did."""

    def __init__(self, seed: int, fault_share: float) -> None:
        self.random = Random(seed)
        self.fault_share = fault_share
        self.faults: Counter[str] = Counter()
        self.seen: set[int] = set()
        self.crossed: dict[int, float] = {}
        self.requests = 0
        self.in_flight = 0
        self.connections = 0

    def draw(self) -> str | None:
        """How to misbehave at the next request, if at all."""
        if self.random.random() >= self.fault_share:
            return None
        fault = self.random.choice([*FAULTS, EARLY, UNREAD])
        if fault in SAYS_FULL and self.random.random() < 0.85:
            return self.draw()
        return fault

    def counts(self) -> dict[str, Any]:
        return {
            "in_flight": self.in_flight,
            "connections": self.connections,
            "requests": self.requests,
            "faults": dict(self.faults),
            "crossed": self.crossed,
        }


class Backend(asyncio.Protocol):
    """One connection of the gateway."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._raw = b""
        self._fault: str | None = None
        self._is_drawn = False
        self._is_busy = False
        self._steps: list[Step] = []
        self._spoke_s: float | None = None
        self._crossing_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._books.connections += 1
        if self._books.random.random() < 0.03 * self._books.fault_share:
            self._books.faults["reset at once"] += 1
            self._reset()

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if self._spoke_s is not None:
            self._note_crossing(self._spoke_s)
        head, end, body = self._raw.partition(b"\r\n\r\n")
        if not end or self._is_busy:
            return
        if not self._is_drawn:
            self._is_drawn, self._fault = True, self._books.draw()
            if self._fault is not None:
                self._books.faults[self._fault] += 1
        length = _LENGTH.search(head)
        found = _NUMBER.search(head)
        ask = Ask(int(found[1]) if found else -1, b'"stream":true' in body)
        if self._fault == EARLY:
            self._begin(ask, [*_status(b"400 Bad Request")(ask, self._books.random), CLOSE])
        elif self._fault == UNREAD:
            self._begin(ask, [RESET])
        elif len(body) >= (int(length[1]) if length else 0):
            self._books.seen.add(ask.number)
            script = _whole if self._fault is None else FAULTS[self._fault]
            self._begin(ask, script(ask, self._books.random))

    def _begin(self, ask: Ask, steps: list[Step]) -> None:
        self._books.requests += 1
        self._books.in_flight += 1
        self._is_busy, self._steps, self._raw = True, steps, b""
        self._go_on()

    def _go_on(self) -> None:
        self._timer = None
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, bytes):
                if step is _UNSOLICITED:
                    self._spoke_s = asyncio.get_running_loop().time()
                self.transport.write(step)
            elif isinstance(step, float):
                self._timer = asyncio.get_running_loop().call_later(step, self._go_on)
                return
            elif step == HANG:
                return
            elif step == LATER:
                later_s = self._books.random.uniform(0.0, LATER_S)
                asyncio.get_running_loop().call_later(later_s, self._speak)
            else:
                self._reset() if step == RESET else self.transport.close()
                return
        self._end()

    def _note_crossing(self, spoke_s: float) -> None:
        if self._crossing_s is None:
            self._crossing_s = asyncio.get_running_loop().time() - spoke_s
        for number in _NUMBER.findall(self._raw):
            self._books.crossed[int(number)] = self._crossing_s

    def _speak(self) -> None:
        if not (self._is_busy or self._raw or self.transport.is_closing()):
            self._spoke_s = asyncio.get_running_loop().time()
            self.transport.write(_UNSOLICITED)

    def _end(self) -> None:
        self._books.in_flight -= self._is_busy
        self._is_busy = self._is_drawn = False

    def _reset(self) -> None:
        linger_on(self.transport)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._end()
        self._books.connections -= 1


class Question(asyncio.Protocol):
    """The port that tells what the others did."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        told = sorted(self._books.seen) if b" /seen " in data else self._books.counts()
        body = json.dumps(told).encode()
        head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)  # type: ignore[attr-defined]
        self.transport.close()


async def refuse_now_and_then(books: Books, port: int, listening: asyncio.Server) -> None:
    """Nobody listens on this port for a moment, again and again; connections that are open go on."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(books.random.uniform(*OPEN_S))
        listening.close()
        books.faults["refused for a moment"] += 1
        await asyncio.sleep(books.random.uniform(*CLOSED_S))
        listening = await loop.create_server(lambda: Backend(books), HOST, port)


async def serve(seed: int, fault_share: float, port_count: int) -> None:
    loop = asyncio.get_running_loop()
    books = Books(seed, fault_share)
    servers = [await loop.create_server(lambda: Backend(books), HOST, 0) for _ in range(port_count)]
    asking = await loop.create_server(lambda: Question(books), HOST, 0)
    ports = [server.sockets[0].getsockname()[1] for server in (*servers, asking)]
    print(json.dumps(ports), flush=True)  # noqa: T201
    await refuse_now_and_then(books, ports[0], servers[0])


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
