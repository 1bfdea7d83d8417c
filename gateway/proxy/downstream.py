"""The downstream side: one client connection, its parser, and the requests waiting their turn on it.

Requests on a connection are answered in order, one at a time. What a client pipelines beyond
MAX_PIPELINED is left unread. After anything that can't be trusted there is one answer, then the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

import httptools

from gateway.proxy.chunks import ChunkedBody
from gateway.proxy.errors import Refusal, body_too_large, malformed
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import MAX_HEAD_BYTES, Headers, RequestHead, check_request_line, read_request_head
from gateway.proxy.paths import Endpoint
from gateway.proxy.repeats import RepeatedHead

if TYPE_CHECKING:
    from gateway.proxy.plane import DataPlane

MAX_PIPELINED = 16
# Framing bytes (size lines, extensions, trailers) a chunked body may cost beyond honest tiny chunks.
MAX_FRAMING_BYTES = 16 * 1024
# A client that was refused is read from, into nothing, so that a reset does not eat the answer.
LINGER_S = 2.0
_NEVER_S = float("inf")


class Request(NamedTuple):
    """A request read to its end, or as far as its `refusal` let it be read."""

    head: RequestHead | None
    endpoint: Endpoint | None
    body: bytes
    received_s: float
    refusal: Refusal | None = None


class DownstreamConnection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_body",
        "_chunks",
        "_endpoint",
        "_exchange",
        "_framing_head",
        "_head",
        "_headers",
        "_is_begun",
        "_is_closing",
        "_is_paused_for_budget",
        "_is_upgrade",
        "_owed_bytes",
        "_owed_since_s",
        "_owes_continue",
        "_parser",
        "_plane",
        "_raw_head",
        "_refusal",
        "_repeated",
        "_repeated_endpoint",
        "_repeated_head",
        "_unread",
        "_url",
        "_waiting",
        "body_bytes",
        "deadline_s",
        "forwarded",
        "may_exceed_budget",
        "paused_since_s",
        "peer",
        "transport",
    )

    def __init__(self, plane: DataPlane, scheme: bytes = b"http") -> None:
        self._plane = plane
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._waiting: deque[Request] = deque()
        self._unread = b""
        self._is_closing = False
        self._is_paused_for_budget = False
        self._framing_head = False
        self._owed_bytes = 0
        self._owed_since_s = 0.0
        self._repeated = RepeatedHead()
        self._repeated_head: RequestHead | None = None
        self._repeated_endpoint: Endpoint | None = None
        self.transport = cast(asyncio.Transport, None)
        self.deadline_s = _NEVER_S
        self.paused_since_s: float | None = None
        self.peer = ""
        self.forwarded = b"x-forwarded-proto: %b\r\n" % scheme
        self._forget()

    def _forget(self) -> None:
        """Ready to read the next request."""
        self._url = b""
        self._headers: Headers = []
        self._head: RequestHead | None = None
        self._endpoint: Endpoint | None = None
        self._refusal: Refusal | None = None
        self._body: list[bytes] = []
        self.body_bytes = 0
        self.may_exceed_budget = False
        self._raw_head = b""
        self._chunks: ChunkedBody | None = None
        self._is_begun = False
        self._is_upgrade = False
        self._owes_continue = False

    # --- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
            self.forwarded += b"x-forwarded-for: %b\r\n" % self.peer.encode()
        self.deadline_s = self._plane.clock() + self._plane.timeouts.request_head_s
        self._plane.joined(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if (
            self._exchange is None
            and self.paused_since_s is None
            and not self._is_begun
            and not self._unread
            and (body_start := self._repeated.body_start(data))
            and len(data) - body_start <= self._plane.max_body_bytes
        ):
            body = data[body_start:]
            self._plane.take_bytes(len(body))
            self._start(Request(self._repeated_head, self._repeated_endpoint, body, self._plane.clock()))
        elif self._unread:
            self._unread += data  # came before the pause of reading took hold
        else:
            self._read(data)

    def eof_received(self) -> bool:
        return False  # a half-closed client counts as gone (FAULTS SL-03)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._plane.left(self)
        self._plane.give_back_bytes(self.body_bytes + sum(len(r.body) for r in self._waiting))
        self.body_bytes = 0
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.client_left()

    def pause_writing(self) -> None:
        self.paused_since_s = self._plane.clock()
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.paused_since_s = None
        if self._exchange is not None:
            self._exchange.resume()
        elif not self._is_closing or self._waiting:
            self._go_on()

    # --- reading -------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Feeds a segment part by part, as long as there is room for requests; else stops reading."""
        at, end = 0, len(data)
        while at < end and not self._is_closing:
            if len(self._waiting) >= MAX_PIPELINED and not self._is_begun:
                self._unread = data[at:]
                self.transport.pause_reading()
                return
            part_end = self._part_end(data, at)
            part = data[at:part_end] if at or part_end < end else data
            at = part_end
            if self._head is None:
                self._raw_head = self._raw_head + part if self._raw_head else part
                if len(self._raw_head) > MAX_HEAD_BYTES:
                    self._refuse_and_close(malformed("The request head is too large.", status=431))
                    return
            self._feed(part)

    def _part_end(self, data: bytes, at: int) -> int:
        """Where the head, the body, or the piece of a chunked body that goes on at `at` ends."""
        head = self._head
        if head is None:
            begun = self._raw_head[-3:]  # a part of the blank line may have come before
            found = (begun + data).find(b"\r\n\r\n", at) if begun else data.find(b"\r\n\r\n", at)
            return found + 4 - len(begun) if found >= 0 else len(data)
        if self._chunks is not None:
            return self._chunks.part_end(data, at)
        return min(len(data), at + (head.content_length or 0) - self.body_bytes)

    def _feed(self, part: bytes) -> None:
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            self._read_without_upgrade()
        except httptools.HttpParserCallbackError as error:
            # Raised by a callback below, on purpose.
            refusal = error.__context__
            if not isinstance(refusal, Refusal):
                raise
            self._refuse_and_close(refusal)
        except httptools.HttpParserError as error:
            self._refuse_and_close(malformed(f"The request is not valid HTTP/1.1: {error}."))
        if (chunks := self._chunks) is not None and not self._is_closing:
            if chunks.promised_bytes > self._plane.max_body_bytes:
                self._refuse_and_close(body_too_large(self._plane.max_body_bytes))
            elif chunks.framing_bytes > MAX_FRAMING_BYTES + 4 * self.body_bytes:
                self._refuse_and_close(malformed("Too much chunk framing for the body it carries."))

    def _read_without_upgrade(self) -> None:
        """An Upgrade is not followed: what comes after the head is read as the framing says.

        llhttp stops at such a head. A fresh parser is told the framing alone, then reads on.
        """
        head = self._head
        self._parser = httptools.HttpRequestParser(self)
        if head is not None and head.has_body:
            length = head.content_length
            framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
            self._framing_head = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._framing_head = False

    # --- httptools -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if not self._framing_head:
            self._is_begun = True
            if self._exchange is None:
                self.deadline_s = self._plane.clock() + self._plane.timeouts.request_head_s

    def on_url(self, url: bytes) -> None:
        if not self._framing_head:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is None:  # else a trailer: dropped
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._framing_head:
            return
        parser = self._parser
        method, version = parser.get_method(), parser.get_http_version()
        check_request_line(self._raw_head, b"%b %b HTTP/%b\r\n" % (method, self._url, version.encode()))
        head = read_request_head(method, self._url, version, self._headers)
        self._head = head
        if head.is_chunked:
            self._chunks = ChunkedBody()
        self._headers = []
        if self._exchange is None and head.has_body:
            self.deadline_s = self._plane.clock() + self._plane.timeouts.request_body_s
        try:
            self._endpoint = self._plane.paths.find(head.method, head.path)
            if head.content_length is not None and head.content_length > self._plane.max_body_bytes:
                raise body_too_large(self._plane.max_body_bytes)
        except Refusal as refusal:
            refusal.closes = refusal.closes or head.has_body
            if refusal.closes:
                raise
            self._refusal = refusal
        if self._parser.should_upgrade() and head.has_body:
            self._is_upgrade = True
        if head.expects_continue and head.has_body:
            self._owes_continue = True
            self._send_continue()

    def on_body(self, chunk: bytes) -> None:
        size = len(chunk)
        if self.body_bytes + size > self._plane.max_body_bytes:
            raise body_too_large(self._plane.max_body_bytes)
        self.body_bytes += size
        self._body.append(chunk)
        if self._plane.take_bytes(size) and not (self.may_exceed_budget or self._is_paused_for_budget):
            self._is_paused_for_budget = True
            self._plane.wait_for_bytes(self)
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            self._is_upgrade = False  # the body comes yet: see _read_without_upgrade
            return
        if (head := self._head) is not None and self._refusal is None and head.may_repeat:
            self._remember(head)
        body = self._body
        whole = body[0] if len(body) == 1 else b"".join(body)
        request = Request(self._head, self._endpoint, whole, self._plane.clock(), self._refusal)
        self._forget()
        self._accept(request)

    def _remember(self, head: RequestHead) -> None:
        """The next request with the same head need not be parsed."""
        self._repeated.learn(self._raw_head)
        self._repeated_head = head
        self._repeated_endpoint = self._endpoint

    # --- taking turns --------------------------------------------------------------------------------

    def _accept(self, request: Request) -> None:
        if self._exchange is None and self.paused_since_s is None:
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: Request) -> None:
        self.deadline_s = _NEVER_S
        self._exchange = Exchange(self._plane, self, request)
        self._exchange.start()

    def exchange_ended(self, keeps_alive: bool) -> None:
        """Called once by each exchange when its answer is written."""
        self._exchange = None
        if self.transport.is_closing():
            return
        if not keeps_alive:
            self._close_gently()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The next request's turn, unless the client has answers to read first."""
        if self.paused_since_s is not None:
            self.deadline_s = self.paused_since_s  # whether it reads is looked at in each sweep
            return
        if self._waiting:
            self._start(self._waiting.popleft())
        elif not self._unread:
            self._wait_for_more()
        if self._unread and not self._waiting and not self._is_closing:
            data, self._unread = self._unread, b""
            self._read(data)
            if not self._unread and not self._is_paused_for_budget:
                self.transport.resume_reading()

    def _wait_for_more(self) -> None:
        """Nothing is left to answer: the next request may come, or the one that has begun may end."""
        if self._plane.is_draining and not self._is_begun:
            self._close_gently()
            return
        timeouts = self._plane.timeouts
        self.deadline_s = self._plane.clock() + (
            timeouts.request_body_s if self._is_begun else timeouts.keep_alive_s
        )
        if self._owes_continue:
            self._send_continue()

    def _send_continue(self) -> None:
        """Says 100 Continue once it is this request's turn: an answer before it must be out first."""
        if self._exchange is None:
            self._owes_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse_and_close(self, refusal: Refusal) -> None:
        """The rest of the connection is not read; requests that came before are answered first."""
        if self._is_closing and self._exchange is None:
            return
        self._is_closing = True
        self._unread = b""
        refusal.closes = True
        request = Request(self._head, self._endpoint, b"", self._plane.clock(), refusal)
        self._plane.give_back_bytes(self.body_bytes)
        self._forget()
        self._accept(request)

    def _close_gently(self) -> None:
        """The answer is out. Closing with bytes unread would reset the connection and lose it."""
        is_all_read = not (self._is_closing or self._is_begun or self._unread)
        self._is_closing = True
        self._plane.writes.flush()
        if self._plane.is_draining and is_all_read:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()
            self.transport.resume_reading()
            self.deadline_s = self._plane.clock() + LINGER_S
        else:
            self.transport.close()

    def write(self, data: bytes) -> None:
        """Everything the client gets goes through here or `write_on`, so that it keeps its order."""
        self._plane.writes.add(self.transport, data)

    def write_on(self, data: bytes) -> None:
        """The next part of an answer that has begun."""
        self._plane.writes.pass_on(self.transport, data)

    def write_chunk(self, data: bytes) -> None:
        """The same, framed as one chunk."""
        self._plane.writes.pass_on(self.transport, b"%x\r\n%b\r\n" % (len(data), data))

    # --- called by the plane -------------------------------------------------------------------------

    def read_again(self) -> None:
        """There is room for body bytes again."""
        self._is_paused_for_budget = False
        if not self._is_closing and not self._unread:
            self.transport.resume_reading()

    def expire(self) -> None:
        """The deadline has passed: the client did not finish a request, or did not send one."""
        if self.transport.get_write_buffer_size():
            if self.is_stuck(self._plane.clock()):
                self.transport.abort()
        elif self._is_begun and not self._is_closing:
            self._refuse_and_close(
                Refusal(408, "invalid_request", "The request did not end in time.", closes=True)
            )
        else:
            self.transport.abort()

    def is_stuck(self, now_s: float) -> bool:
        """Whether the client has read nothing of what waits for it, for as long as it may."""
        owed_bytes = self.transport.get_write_buffer_size()
        if owed_bytes != self._owed_bytes:
            self._owed_bytes = owed_bytes
            self._owed_since_s = now_s
        return now_s - self._owed_since_s > self._plane.timeouts.write_s

    @property
    def is_idle(self) -> bool:
        return self._exchange is None and not self._is_begun

    def cut(self) -> None:
        """Ends the connection so that the client sees a truncated answer."""
        self._is_closing = True
        self._plane.writes.flush()
        self.deadline_s = self._plane.clock()  # whether it reads the rest is looked at in each sweep
        self.transport.close()

    def __repr__(self) -> str:
        state = "closing" if self._is_closing else "idle" if self._exchange is None else "busy"
        return f"<DownstreamConnection {self.peer} {state}, {len(self._waiting)} waiting>"
