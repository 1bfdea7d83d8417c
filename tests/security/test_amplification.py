"""No input of n bytes costs more than 100 n bytes of memory, or ten steps of Python for each of its bytes.

Steps are calls, of Python and of C: unlike seconds they are the same on every machine.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.proxy.downstream import DownstreamConnection
from tests.proxy.dialogue import post

MOST_BYTES, MOST_STEPS = 100, 10
SIZE = 24 * 1024


class Sink:
    """A transport that keeps nothing."""

    is_ended = False

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.is_ended

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.is_ended = True

    abort = close


def chunked(*parts: bytes) -> bytes:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(parts)


def fill(piece: bytes, size: int = SIZE) -> bytes:
    return piece * (size // len(piece))


def upload(body: bytes) -> bytes:
    return post(body, "Content-Type: multipart/form-data; boundary=x")


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many headers": lambda: post(b"{}", *(f"a{n}: b" for n in range(10_000))),
    "headers of new names": lambda: post(b"{}", *(f"x-{n:060d}: b" for n in range(120))),
    "one long header": lambda: post(b"{}", "a: " + "b" * SIZE),
    "many credentials": lambda: post(b"{}", *(f"x-goog-api-key: {n}" for n in range(120))),
    "a head without an end": lambda: b"POST / HTTP/1.1\r\n" + fill(b"a: b\r\n", 60_000),
    "tiny requests": lambda: fill(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 16 * 36),
    "blank lines": lambda: fill(b"\r\n"),
    "chunks of one byte": lambda: chunked(fill(b"1\r\nx\r\n"), b"0\r\n\r\n"),
    "long chunk extensions": lambda: chunked(*(b"1;%b\r\nx\r\n" % (b"e" * 2000) for _ in range(30))),
    "many trailers": lambda: chunked(b"0\r\n", fill(b"a: b\r\n"), b"\r\n"),
    "nested lists": lambda: post(b'{"model":"m","x":' + b"[" * (SIZE // 2) + b"]" * (SIZE // 2) + b"}"),
    "empty lists": lambda: post(b'{"model":"m","stream":1,"stream":1,"x":[' + fill(b"[],") + b"[]]}"),
    "empty objects": lambda: post(b'{"model":"m","model":"m","x":[' + fill(b"{},") + b"{}]}"),
    "many fields": lambda: post(
        b'{"model":"m","model":"m",' + b",".join(b'"%d":0' % n for n in range(6000)) + b"}"
    ),
    "one field again and again": lambda: post(b"{" + fill(b'"model":"m",') + b'"x":0}'),
    "escapes": lambda: post(b'{"model":"m","x":"' + fill(rb"\u0061") + b'"}'),
    "a long number": lambda: post(b'{"model":"m","model":"m","x":' + fill(b"1") + b"}"),
    "many parts": lambda: upload(fill(b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n')),
    "a part with a long header": lambda: upload(b"--x\r\n" + fill(b"a") + b": b\r\n\r\n\r\n--x--"),
    "a boundary that is nearly there": lambda: upload(b"--x\r\na: b\r\n\r\n" + fill(b"\r\n--y")),
}


@contextmanager
def counting() -> Iterator[list[int]]:
    """[peak bytes beyond those at the start, calls]"""
    found = [0, 0]
    calls = itertools.count()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sys.setprofile(lambda frame, event, argument: next(calls) if event in ("call", "c_call") else None)
    try:
        yield found
    finally:
        sys.setprofile(None)
        found[:] = [tracemalloc.get_traced_memory()[1] - before, next(calls)]
        tracemalloc.stop()


@pytest.mark.parametrize("pieces", [1, 20])
@pytest.mark.parametrize("name", HOSTILE)
async def test_what_a_client_sends_costs_no_multiple_of_it(start_gateway, start_backend, name, pieces):
    gateway = await start_gateway(await start_backend())
    data = HOSTILE[name]()
    size = -(-len(data) // pieces)
    connection = DownstreamConnection(gateway.plane)
    connection.connection_made(Sink())  # type: ignore[arg-type]
    # What is made once, whatever comes, is not what this input costs.
    fixed_bytes, fixed_calls = 64 * 1024, 1000
    with counting() as found:
        for at in range(0, len(data), size):
            connection.data_received(data[at : at + size])
    memory, calls = found
    connection.connection_lost(None)
    await asyncio.sleep(0)
    assert memory <= MOST_BYTES * len(data) + fixed_bytes
    assert calls <= MOST_STEPS * len(data) + fixed_calls
