"""One HTTP request on a connection of its own: all that the demo's clients and its watcher need."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.demo.fleet import HOST


class BadAnswer(Exception):
    """What came back is not an HTTP answer."""


class Answer(NamedTuple):
    """`first_byte_s` is counted from the moment the request was sent; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    first_byte_s: float


async def ask(port: int, target: str, body: bytes = b"") -> Answer:
    """GET, or POST of JSON when there is a body. Raises OSError and BadAnswer."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        sent_s = loop.time()
        writer.write(_request(port, target, body))
        # The gateway holds the head until the first body byte: the head's arrival is the first token's.
        head = await reader.readuntil(b"\r\n\r\n")
        first_byte_s = loop.time() - sent_s
        status, headers = _read_head(head)
        return Answer(status, headers, await reader.read(-1), first_byte_s)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError) as exc:
        raise BadAnswer(str(exc)) from exc
    finally:
        writer.close()


def _request(port: int, target: str, body: bytes) -> bytes:
    lines = [f"{'POST' if body else 'GET'} {target} HTTP/1.1", f"host: {HOST}:{port}", "connection: close"]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(status_line.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs}
