"""One client connection: HTTP/1.1 in, answers out, strictly in the order of the requests."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import httptools

from gateway.mock_engine.counters import Counters

RST_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s
REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Request(NamedTuple):
    """One request as it was received; `raw_head` is its bytes up to and including the empty line."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    raw_head: bytes
    keeps_alive: bool

    def has_header(self, name: bytes) -> bool:
        """Whether a header is there; `name` in lower case."""
        return b"\r\n%b:" % name in self.raw_head.lower()  # one pass in C instead of a loop over all headers


class Exchange(Protocol):
    """An answer under way, as its connection sees it."""

    def start(self) -> None:
        """Begin; it may be over before this returns."""

    def on_writable(self) -> None:
        """The client reads again after back-pressure."""

    def on_abandoned(self) -> None:
        """The client is gone."""


class Connection(asyncio.Protocol):
    """Parses requests, serves them one at a time, frames what the exchanges write."""

    def __init__(
        self,
        open_exchange: Callable[[Request, "Connection"], Exchange],
        counters: Counters,
        live: set["Connection"],
    ) -> None:
        self._open_exchange = open_exchange
        self._counters = counters
        self._live = live
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()  # pipelined behind the one being served
        self._exchange: Exchange | None = None
        self._is_pumping = False
        self._keeps_alive = True
        self._raw = b""  # received since the last complete head
        self._head = b""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_bytes = 0  # of the body, in the segment being parsed
        self._is_in_head = True
        self._expects = False
        self.is_writable = True

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._live.add(self)
        self._counters.connections += 1

    def data_received(self, data: bytes) -> None:
        """Feed the parser; malformed input is answered 400 and the connection closed."""
        self._raw = self._raw + data if self._raw else data
        self._body_bytes = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(b"upgrades are not served")
        except httptools.HttpParserError as exc:
            self._refuse(str(exc).encode())
        if not self._is_in_head:
            self._raw = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: whatever is under way is abandoned at once."""
        self._live.discard(self)
        self._queue.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.on_abandoned()

    def pause_writing(self) -> None:
        """The client does not read."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """The client reads again."""
        self.is_writable = True
        if self._exchange is not None:
            self._exchange.on_writable()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A new request starts."""
        self._url, self._headers, self._body = b"", [], []
        self._is_in_head = True
        self._expects = False

    def on_url(self, url: bytes) -> None:
        """A part of the request's path and query."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, its case kept."""
        self._headers.append((name, value))
        if len(name) == 6 and name.lower() == b"expect":
            self._expects = True

    def on_headers_complete(self) -> None:
        """The head is whole: keep its exact bytes."""
        # Found by its request line, since the parser tells no offsets: what may stand before it is
        # framing of the body pipelined ahead.
        start = max(0, self._raw.find(b"%b %b HTTP/" % (self._parser.get_method(), self._url)))
        end = self._raw.find(b"\r\n\r\n", start) + 4
        self._head, self._raw = self._raw[start:end], self._raw[end:]
        self._is_in_head = False
        self._body_bytes = 0
        if self._expects and self._exchange is None and not self._queue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body, chunked framing removed."""
        self._body.append(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """The request is whole: serve it when its turn comes."""
        path = self._url.partition(b"?")[0].decode("latin-1")
        self._queue.append(
            Request(
                method=self._parser.get_method().decode("ascii"),
                path=path,
                headers=tuple(self._headers),
                body=b"".join(self._body),
                raw_head=self._head,
                keeps_alive=self._parser.should_keep_alive(),
            )
        )
        # What follows in the same segment is the next head (after a chunked body: behind its framing).
        self._raw = self._raw[self._body_bytes :]
        self._pump()

    # What exchanges call.

    def respond(
        self, status: int, body: bytes, content_type: bytes = b"application/json", extra: bytes = b""
    ) -> None:
        """A whole answer with its length; `extra` is whole header lines. Ends the exchange."""
        self._transport.write(self.head(status, len(body), content_type, extra) + body)
        self.done()

    def head(
        self, status: int, length: int, content_type: bytes = b"application/json", extra: bytes = b""
    ) -> bytes:
        """The head of an answer of `length` bytes."""
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
            status,
            REASONS.get(status, b"Status"),
            content_type,
            length,
            extra,
            b"" if self._keeps_alive else b"connection: close\r\n",
        )

    def stream_head(self) -> bytes:
        """The head of a chunked stream of server-sent events."""
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n%b\r\n"
        ) % (b"" if self._keeps_alive else b"connection: close\r\n")

    def write(self, data: bytes) -> None:
        """Bytes as they are."""
        self._transport.write(data)

    def write_chunk(self, data: bytes) -> None:
        """One HTTP chunk."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def done(self) -> None:
        """The answer is complete: serve the next request or close."""
        self._exchange = None
        if not self._keeps_alive:
            self._transport.close()
        elif not self._is_pumping:
            self._pump()

    def cut(self) -> None:
        """Close after what was written, as if the answer ended here. The exchange is over already."""
        self._exchange = None
        self._queue.clear()
        self._transport.close()

    def reset(self) -> None:
        """Close with a TCP reset. The exchange is over already."""
        self._exchange = None
        self._queue.clear()
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        self._transport.abort()

    def drop(self) -> None:
        """Close with a TCP reset from outside; an exchange under way is abandoned."""
        exchange = self._exchange
        self.reset()
        if exchange is not None:
            exchange.on_abandoned()

    @property
    def is_idle(self) -> bool:
        """No request is being served."""
        return self._exchange is None

    def _pump(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True
        while self._queue and self._exchange is None and not self._transport.is_closing():
            request = self._queue.popleft()
            self._keeps_alive = request.keeps_alive
            exchange = self._exchange = self._open_exchange(request, self)
            exchange.start()
        self._is_pumping = False

    def _refuse(self, reason: bytes) -> None:
        self._counters.malformed += 1
        if self.is_idle and not self._transport.is_closing():
            self._keeps_alive = False
            self._transport.write(self.head(400, len(reason), b"text/plain") + reason)
        self._transport.close()
