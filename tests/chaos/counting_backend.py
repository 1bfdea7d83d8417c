"""A model server that only counts: how many requests it works on now, and the most it ever did at once.

usage: python -m tests.chaos.counting_backend [PORTS]     each port has its own counts

Prints the ports. A POST is held for `hold_ms` of its JSON body (default 50), as a whole answer or, with
`"stream": true`, as events over that time. It is counted until just before its answer ends, so a gateway that
gives the slot on at once is not taken for one that gives too much. GET /counts tells, POST /reset starts the
peak and the total anew.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

import uvloop

EVENT_S = 0.1
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"9\r\ndata: {}\n\r\n1\r\n\n\r\n"
)
_EVENT = b"a\r\ndata: {}\n\n\r\n"
_STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def _json_answer(value: object) -> bytes:
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


_DONE = _json_answer({"object": "chat.completion", "choices": []})


class Counts:
    """What one port has seen."""

    def __init__(self) -> None:
        self.in_flight = self.peak = self.total = 0

    def enter(self) -> None:
        self.in_flight += 1
        self.total += 1
        self.peak = max(self.peak, self.in_flight)

    def leave(self) -> None:
        self.in_flight -= 1

    def reset(self) -> None:
        self.peak, self.total = self.in_flight, 0


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and Content-Length, one request at a time: what a gateway sends."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._bytes = b""
        self._timer: asyncio.TimerHandle | None = None  # set while a request is worked on
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        head, end, rest = self._bytes.partition(b"\r\n\r\n")
        if not end or self._timer is not None:
            return
        match = _LENGTH.search(head)
        length = int(match[1]) if match is not None else 0
        if len(rest) >= length:
            self._bytes = rest[length:]
            self._take(head.split(b" ", 2)[1], head.startswith(b"GET"), rest[:length])

    def _take(self, path: bytes, is_get: bool, body: bytes) -> None:
        counts = self._counts
        if is_get or path == b"/reset":
            if path == b"/reset":
                counts.reset()
            self._transport.write(_json_answer(vars(counts)))
            return
        wanted = json.loads(body)
        counts.enter()
        hold_s = wanted.get("hold_ms", 50) / 1000
        loop = asyncio.get_running_loop()
        if wanted.get("stream"):
            self._transport.write(_STREAM_HEAD)
            self._stream(loop, loop.time() + hold_s)
        else:
            self._timer = loop.call_later(hold_s, self._finish, _DONE)

    def _stream(self, loop: asyncio.AbstractEventLoop, until_s: float) -> None:
        left_s = until_s - loop.time()
        if left_s > EVENT_S:
            self._timer = loop.call_later(EVENT_S, self._event, loop, until_s)
        else:
            self._timer = loop.call_later(max(left_s, 0.0), self._finish, _STREAM_END)

    def _event(self, loop: asyncio.AbstractEventLoop, until_s: float) -> None:
        self._transport.write(_EVENT)
        self._stream(loop, until_s)

    def _finish(self, answer: bytes) -> None:
        self._timer = None
        self._counts.leave()
        self._transport.write(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._counts.leave()


async def serve(count: int) -> None:
    loop = asyncio.get_running_loop()
    servers = []
    for _ in range(count):
        counts = Counts()
        servers.append(await loop.create_server(lambda counts=counts: Connection(counts), "127.0.0.1", 0))
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print("listens on", *ports, flush=True)  # noqa: T201 - who started it waits for that
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
