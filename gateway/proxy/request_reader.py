"""Requests out of bytes: one client's parser, and what is checked while a request comes in.

Fed part by part (a head, a body, or a piece of a chunked body), so that what a part announces is known
before the next is read. Whole requests go to the connection; so does the refusal that ends all reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import httptools

from gateway.proxy.chunks import ChunkedBody
from gateway.proxy.client_keys import refuse_early
from gateway.proxy.errors import Refusal, body_too_large, framing_too_large, malformed, out_of_memory
from gateway.proxy.headers import MAX_HEAD_BYTES, Headers, RequestHead, check_request_line, read_request_head
from gateway.proxy.paths import Endpoint
from gateway.proxy.repeats import RepeatedHead
from gateway.proxy.websocket import handshake_of

if TYPE_CHECKING:
    from gateway.proxy.downstream import DownstreamConnection
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.settings import PlaneSettings

# Framing bytes (size lines, extensions, trailers) a chunked body may cost beyond honest tiny chunks.
MAX_FRAMING_BYTES = 16 * 1024
# Pieces of a body that are kept as they came, before they are made into one.
MAX_PIECES = 512
FOLD_BYTES = 256 * 1024
# For what is made with every request: a NamedTuple's own way costs twice as much (CPython 3.11).
_new = tuple.__new__


class Request(NamedTuple):
    """A request read to its end, or as far as its `refusal` let it be read."""

    head: RequestHead | None
    endpoint: Endpoint | None
    body: bytes
    received_s: float
    refusal: Refusal | None = None


class RequestReader:
    """Reads the requests of one connection. `is_begun`: a request has begun and not ended."""

    __slots__ = (
        "_body",
        "_chunks",
        "_connection",
        "_endpoint",
        "_folded",
        "_framing_head",
        "_head",
        "_headers",
        "_is_upgrade",
        "_parser",
        "_plane",
        "_raw_head",
        "_refusal",
        "_repeated",
        "_repeated_endpoint",
        "_repeated_head",
        "_repeated_settings",
        "_settings",
        "_url",
        "body_bytes",
        "is_begun",
        "owes_continue",
    )

    def __init__(self, plane: DataPlane, connection: DownstreamConnection) -> None:
        self._plane = plane
        self._connection = connection
        self._parser = httptools.HttpRequestParser(self)
        self._framing_head = False
        self._repeated = RepeatedHead()
        self._repeated_head: RequestHead | None = None
        self._repeated_endpoint: Endpoint | None = None
        # By which it was accepted: a reload may have closed a path, or taken a key away.
        self._repeated_settings: PlaneSettings | None = None
        self._forget()

    def _forget(self) -> None:
        """Ready to read the next request."""
        self._url = b""
        self._headers: Headers = []
        self._head: RequestHead | None = None
        self._endpoint: Endpoint | None = None
        self._refusal: Refusal | None = None
        self._settings: PlaneSettings | None = None
        self._body: list[bytes | bytearray] = []
        self._folded = bytearray()
        self._raw_head = b""
        self._chunks: ChunkedBody | None = None
        self._is_upgrade = False
        self.body_bytes = 0
        self.is_begun = False
        self.owes_continue = False

    # --- what the connection calls -------------------------------------------------------------------

    def repeated(self, data: bytes) -> Request | None:
        """The request that `data` is, if it is exactly one, with the head of an earlier one."""
        plane = self._plane
        settings = plane.settings
        if settings is not self._repeated_settings or self.is_begun or plane.memory.is_over:
            return None
        body_start = self._repeated.body_start(data)
        if not body_start or len(data) - body_start > settings.max_body_bytes:
            return None
        body = data[body_start:]
        plane.take_bytes(len(body))
        clock = plane.clock
        return _new(Request, (self._repeated_head, self._repeated_endpoint, body, clock(), None))

    def read(self, data: bytes, at: int) -> int:
        """Reads the part that goes on at `at`, and tells where the next begins."""
        end = self._part_end(data, at)
        part = data[at:end] if at or end < len(data) else data
        if self._head is None:
            self._raw_head = self._raw_head + part if self._raw_head else part
            if len(self._raw_head) > MAX_HEAD_BYTES:
                self._connection.refuse_and_close(malformed("The request head is too large.", status=431))
                return end
        self._feed(part)
        return end

    def give_up(self, refusal: Refusal) -> Request:
        """What was read of the request at which reading ends; its bytes are given back."""
        request = Request(self._head, self._endpoint, b"", self._plane.clock(), refusal)
        self.drop_body()
        self._forget()
        return request

    def drop_body(self) -> None:
        self._plane.give_back_bytes(self.body_bytes)
        self.body_bytes = 0

    # --- feeding -------------------------------------------------------------------------------------

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
        refuse = self._connection.refuse_and_close
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserUpgrade:
            self._read_without_upgrade()
        except httptools.HttpParserCallbackError as error:
            # Raised by a callback below, on purpose.
            refusal = error.__context__
            if not isinstance(refusal, Refusal):
                raise
            refuse(refusal)
        except httptools.HttpParserError as error:
            refuse(malformed(f"The request is not valid HTTP/1.1: {error}."))
        if (chunks := self._chunks) is not None:
            if chunks.promised_bytes > self._plane.settings.max_body_bytes:
                refuse(body_too_large(self._plane.settings.max_body_bytes))
            elif chunks.is_overlong or chunks.framing_bytes > MAX_FRAMING_BYTES + 4 * self.body_bytes:
                refuse(framing_too_large())

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
            self.is_begun = True
            self._connection.request_begun()

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
        self._headers = []
        if head.is_chunked:
            self._chunks = ChunkedBody()
        if head.has_body:
            self._connection.body_announced()
        try:
            self._admit(head, self._plane.settings)
        except Refusal as refusal:
            refusal.closes = refusal.closes or head.has_body
            if refusal.closes:
                raise
            self._refusal = refusal
        self._is_upgrade = head.has_body and parser.should_upgrade()
        if head.expects_continue and head.has_body:
            self.owes_continue = True
            self._connection.send_continue()

    def _admit(self, head: RequestHead, settings: PlaneSettings) -> None:
        """Who asks comes first: to a stranger nothing is said of paths or limits. Raises Refusal."""
        self._settings = settings
        keys = settings.keys
        if keys is not None:
            keys.authenticate(head)
        if self._plane.memory.is_over:
            raise out_of_memory()
        self._endpoint = settings.paths.find(head.method, head.path)
        if self._endpoint.is_tunnel:
            handshake_of(head)
        if head.content_length is not None and head.content_length > settings.max_body_bytes:
            raise body_too_large(settings.max_body_bytes)
        if keys is not None and head.has_body:
            refuse_early(head, self._plane.clock(), self._plane.gateways)

    def on_body(self, chunk: bytes) -> None:
        size = len(chunk)
        if self.body_bytes + size > self._plane.settings.max_body_bytes:
            raise body_too_large(self._plane.settings.max_body_bytes)
        self.body_bytes += size
        self._body.append(chunk)
        if len(self._body) > MAX_PIECES or self.body_bytes - len(self._folded) > FOLD_BYTES:
            self._fold()
        if self._plane.take_bytes(size):
            self._connection.wait_for_room()

    def _fold(self) -> None:
        """Tiny chunks cost twenty times their bytes while each is an object of its own.

        And a large body is put together as it comes: to join 32 MiB at its end takes 10 ms, and all wait.
        """
        for piece in self._body:
            self._folded += piece
        self._body = []

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            self._is_upgrade = False  # the body comes yet: see _read_without_upgrade
            return
        if (head := self._head) is not None and self._refusal is None and head.may_repeat:
            self._repeated.learn(self._raw_head)
            self._repeated_head = head
            self._repeated_endpoint = self._endpoint
            self._repeated_settings = self._settings
        if self._folded:
            self._fold()
            self._body = [self._folded]
        body = self._body
        whole = body[0] if len(body) == 1 else b"".join(body)
        # A bytearray, if it is one, is only read from here on, as bytes are.
        request = Request(self._head, self._endpoint, cast(bytes, whole), self._plane.clock(), self._refusal)
        self._forget()
        self._connection.accept(request)
