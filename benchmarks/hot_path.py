"""What one request costs in Python alone: the real data plane on transports that only count bytes.

usage: python benchmarks/hot_path.py [--requests 20000] [--rounds 5] [--profile] [--keys]

Prints the best and median microseconds per request of a 700-byte POST with some 500 bytes of answer, and per
event of an SSE stream. Nothing goes through the kernel, which is only asked about the socket of a backend, so
the figures are steady enough to tune by; what counts in the end is benchmarks/peers.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import socket
import statistics
import time
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import uvloop

from gateway.app import Gateway
from gateway.config.loading import parse
from gateway.proxy.downstream import DownstreamConnection
from gateway.proxy.upstream import UpstreamConnection

CONFIG = """
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
access_log: /dev/null
clusters:
  - {name: here,  limit: 1000, backends: [http://127.0.0.1:9]}
  - {name: there, limit: 1000, backends: [http://127.0.0.1:10], tier: backup}
  - {name: spot,  limit: 1000, backends: [http://127.0.0.1:11], tier: spot}
"""
# With --keys: the client's key is one of a thousand, and has limits.
KEYS = "keys:\n" + "".join(
    f"- {{name: k{n}, rate: 900000000/s, max_in_flight: 1000, sha256: "
    f"{sha256(b'secret' if n == 0 else b'%d' % n).hexdigest()}}}\n"
    for n in range(1000)
)
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 630}]}).encode()
HEADERS = (
    b"Host: gw.local\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nUser-Agent: OpenAI/Python 2.0\r\n"
    b"Authorization: Bearer secret\r\nContent-Type: application/json\r\n"
)
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (HEADERS, len(BODY), BODY)
# Answers differ in length, as they do in life: what is remembered of the last one is not the whole head.
ANSWERS = [
    b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (length, b"x" * length)
    for length in (500, 501, 499, 502)
]
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
OPEN: set[socket.socket] = set()  # both sides of what the kernel is asked about
EVENT = b"c8\r\n" + b"data: " + b"y" * 192 + b"\n\n" + b"\r\n"


class CountingTransport:
    """Takes what is written, and is never full."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self.written = 0
        self._extra = {"peername": ("127.0.0.1", 1), "socket": sock}

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return self._extra.get(name)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


async def rig(has_keys: bool) -> tuple[Gateway, DownstreamConnection, UpstreamConnection]:
    gateway = Gateway(parse(CONFIG + KEYS * has_keys, "hot_path", Path()))
    await gateway.start()
    downstream = DownstreamConnection(gateway._plane)
    downstream.connection_made(CountingTransport())  # type: ignore[arg-type]
    pool = gateway._plane.pools["here@127.0.0.1:9"]
    upstream = UpstreamConnection(pool, time.monotonic())
    with socket.create_server(("127.0.0.1", 0)) as server:
        backend_side = socket.create_connection(server.getsockname())
        gateway_side = server.accept()[0]
    OPEN.update((gateway_side, backend_side))
    upstream.connection_made(CountingTransport(gateway_side))  # type: ignore[arg-type]
    pool.give_back(upstream)
    return gateway, downstream, upstream


async def requests(count: int, downstream: DownstreamConnection, upstream: UpstreamConnection) -> float:
    start_s = time.thread_time()
    for answer in islice(cycle(ANSWERS), count):
        downstream.data_received(REQUEST)
        await asyncio.sleep(0)
        upstream.data_received(answer)
        await asyncio.sleep(0)
    return (time.thread_time() - start_s) / count * 1e6


async def events(count: int, downstream: DownstreamConnection, upstream: UpstreamConnection) -> float:
    downstream.data_received(REQUEST)
    await asyncio.sleep(0)
    upstream.data_received(STREAM_HEAD + EVENT)
    start_s = time.thread_time()
    for _ in range(count):
        upstream.data_received(EVENT)
    cost_us = (time.thread_time() - start_s) / count * 1e6
    upstream.data_received(b"0\r\n\r\n")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return cost_us


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--keys", action="store_true", help="ask clients for a key")
    args = parser.parse_args()
    gateway, downstream, upstream = await rig(args.keys)
    await requests(500, downstream, upstream)
    if args.profile:
        profile = cProfile.Profile()
        profile.enable()
        await requests(args.requests, downstream, upstream)
        profile.disable()
        profile.print_stats("tottime")
    for name, measure in (("request", requests), ("event", events)):
        costs_us = [await measure(args.requests, downstream, upstream) for _ in range(args.rounds)]
        print(f"{name}: best {min(costs_us):.2f} µs, median {statistics.median(costs_us):.2f} µs")
    assert not gateway._plane.exchanges, "an exchange was left behind"
    await gateway.stop()


if __name__ == "__main__":
    uvloop.run(main())
