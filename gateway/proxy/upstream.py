"""The upstream side: one connection's protocol, and the pool of connections to one backend.

A connection carries one exchange at a time. It goes back to the pool only when the answer ended exactly
where its framing said, with nothing left over; an idle connection on which any byte or an end arrives is
discarded, so that no byte of one exchange can reach another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import httptools

from gateway.config.fleet import BackendEndpoint
from gateway.config.schema import Config
from gateway.core.model import Reason
from gateway.ports import Clock
from gateway.proxy.chunks import MAX_WHOLE_CHUNK_BYTES, WHOLE_CHUNK_STARTS, plain_chunks
from gateway.proxy.headers import (
    MAX_HEAD_BYTES,
    BadResponse,
    Headers,
    ResponseHead,
    read_response_head,
)
from gateway.proxy.repeats import RepeatedHead
from gateway.proxy.writes import WriteBatch

# 100, 102 and 103 answers before the real one; more is a flood (FAULTS RS-32).
MAX_INTERIM_ANSWERS = 8
# Framing bytes (chunk sizes, extensions, trailers) beyond what honest one-byte chunks would need.
MAX_FRAMING_BYTES = 16 * 1024


class Receiver(Protocol):
    """Who an answer is for. After `on_answer_end` or `on_answer_failed` nothing more is called."""

    def on_answer_head(self, head: ResponseHead) -> None: ...
    def on_answer_body(self, chunk: bytes) -> None: ...
    def on_answer_end(self) -> None: ...
    def on_answer_failed(self, reason: Reason) -> None: ...


class ConnectFailed(Exception):
    """No connection could be made. `reason` tells refused from too slow."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class UpstreamConnection(asyncio.Protocol):
    """One connection to a backend."""

    __slots__ = (
        "_fed_bytes",
        "_head",
        "_head_bytes",
        "_headers",
        "_interim_answers",
        "_is_complete",
        "_is_in_chunk",
        "_is_paused",
        "_keeps_alive",
        "_parsed_bytes",
        "_parser",
        "_pass_on",
        "_pool",
        "_reason_phrase",
        "_receiver",
        "_repeated",
        "_repeated_head",
        "_transport",
        "_whole_chunk_bytes",
        "_whole_chunks_to",
        "has_answered",
        "idle_since_s",
        "made_s",
        "was_idle",
    )

    def __init__(self, pool: UpstreamPool, now_s: float) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._transport = cast(asyncio.Transport, None)
        self._repeated = RepeatedHead()
        self._repeated_head: ResponseHead | None = None
        self._is_paused = False
        self.made_s = now_s
        self.idle_since_s = now_s
        self.was_idle = False
        self._forget()

    def _forget(self) -> None:
        """Ready for the next exchange."""
        self._head: ResponseHead | None = None
        self._headers: Headers = []
        self._reason_phrase = b""
        self._head_bytes = 0
        self._parsed_bytes = 0
        self._fed_bytes = 0
        self._whole_chunk_bytes = 0
        self._is_in_chunk = False
        self._whole_chunks_to: Callable[[bytes], None] | None = None
        self._pass_on: Callable[[bytes], None] | None = None  # the same, between two chunks
        self._interim_answers = 0
        self._is_complete = False
        self._keeps_alive = False
        self.has_answered = False

    # --- what the attempt calls ----------------------------------------------------------------------

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        self._receiver = receiver
        writes = self._pool.writes
        if len(body) < 16 * 1024:
            writes.add(self._transport, head + body)
        else:
            writes.add(self._transport, head)
            writes.add(self._transport, body)

    def pass_whole_chunks(self, write: Callable[[bytes], None]) -> None:
        """From here on a segment that is one whole chunk goes to `write` as it is, framing and all.

        The receiver does not hear of it; `body_bytes` counts it.
        """
        self._whole_chunks_to = write

    @property
    def body_bytes(self) -> int:
        """Of the answer's body, so far."""
        return self._parsed_bytes + self._whole_chunk_bytes

    def abandon(self) -> None:
        """Closes at once: that is what makes an engine stop generating."""
        self._receiver = self._pass_on = None
        self._transport.abort()

    def pause(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        self._transport.resume_reading()

    def is_usable(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    # --- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if (pass_on := self._pass_on) is not None:
            # Between two chunks of an answer that is passed on. Most segments are one event in one chunk.
            if data.endswith(b"\r\n"):
                size = len(data)
                if size <= MAX_WHOLE_CHUNK_BYTES and data.startswith(start := WHOLE_CHUNK_STARTS[size]):
                    self._whole_chunk_bytes += size - len(start) - 2
                    pass_on(data)
                    return
                chunks, carried = plain_chunks(data)
                if chunks:
                    self._whole_chunk_bytes += carried
                    pass_on(chunks)
                    return
            self._pass_on = None
        if self._receiver is None:
            self._transport.abort()  # a byte nobody asked for
            return
        self.has_answered = True
        is_first = self._head is None and not self._head_bytes
        if is_first and (body_start := self._repeated.body_start(data)) and self._repeated_head is not None:
            self._take_repeated(self._repeated_head, data[body_start:])
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # What broke may be ours (BadResponse raised in a callback) or the parser's own verdict;
            # bytes after a complete answer only cost the connection.
            self._fail(Reason.BAD_RESPONSE)
            return
        if self._head is None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(Reason.BAD_RESPONSE)
        elif self._is_complete:
            if is_first and self._head.length is not None and self._keeps_alive:
                self._repeated.learn(data)
                self._repeated_head = self._head
            self._retire()
        elif self._head.is_chunked:
            self._fed_bytes += len(data)
            if self._fed_bytes > MAX_FRAMING_BYTES + 8 * self._parsed_bytes:
                self._fail(Reason.BAD_RESPONSE)
            elif not self._is_in_chunk and data.endswith(b"\r\n"):
                # A whole size line would have begun a chunk, and part of one has no line end.
                self._pass_on = self._whole_chunks_to

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if self._receiver is None:
            return
        head = self._head
        if exc is None and head is not None and head.ends_with_connection:
            self._complete()
        else:
            self._fail(Reason.TRUNCATED if head is not None else Reason.RESET)

    # --- httptools -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._parser = httptools.HttpResponseParser(self)
            raise BadResponse("bytes after the end of the answer")

    def on_status(self, reason: bytes) -> None:
        self._reason_phrase += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is None:  # else a trailer: dropped
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._interim_answers += 1
            if self._interim_answers > MAX_INTERIM_ANSWERS:
                raise BadResponse("a flood of interim answers")
            return
        # Asked here because llhttp forgets what it read of Connection once the message is complete.
        self._keeps_alive = self._parser.should_keep_alive()
        self._head = read_response_head(
            status, self._reason_phrase, self._parser.get_http_version(), self._headers
        )
        if self._receiver is not None:
            self._receiver.on_answer_head(self._head)

    def on_chunk_header(self) -> None:
        self._is_in_chunk = True

    def on_chunk_complete(self) -> None:
        self._is_in_chunk = False

    def on_body(self, chunk: bytes) -> None:
        self._parsed_bytes += len(chunk)
        if self._receiver is not None:
            self._receiver.on_answer_body(chunk)

    def on_message_complete(self) -> None:
        if self._head is None:
            self._headers = []
            self._reason_phrase = b""
        else:
            self._complete()

    def _take_repeated(self, head: ResponseHead, body: bytes) -> None:
        """The whole answer in one segment, with the head of the last one but for its length."""
        receiver = self._receiver
        assert receiver is not None
        if len(body) != head.length:
            head = head._replace(length=len(body))
        self._head = head
        self._keeps_alive = True
        receiver.on_answer_head(head)
        if body:
            self._parsed_bytes = len(body)
            receiver.on_answer_body(body)
        self._complete()
        self._retire()

    # --- ends ----------------------------------------------------------------------------------------

    def _complete(self) -> None:
        self._is_complete = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_answer_end()

    def _retire(self) -> None:
        """The answer ended cleanly: back to the pool, if both sides may go on using the connection."""
        transport = self._transport
        if self._keeps_alive and not transport.get_write_buffer_size():
            if self._is_paused:
                self.resume()  # paused for a client that is slow: not for the next one
            self._forget()
            self._pool.give_back(self)
        else:
            transport.abort()  # it did not want the rest of the request (FAULTS RS-51)

    def _fail(self, reason: Reason) -> None:
        receiver, self._receiver, self._pass_on = self._receiver, None, None
        self._transport.abort()
        if receiver is not None:
            receiver.on_answer_failed(reason)

    def __repr__(self) -> str:
        state = "idle" if self._receiver is None else "answering" if self._head else "waiting"
        return f"<UpstreamConnection {state}>"


class UpstreamPool:
    """Connections to one backend; the one used last is used next, so that the others may go."""

    def __init__(
        self,
        endpoint: BackendEndpoint,
        ssl_context: ssl.SSLContext | None,
        config: Config,
        clock: Clock,
        writes: WriteBatch,
    ) -> None:
        self.endpoint = endpoint
        self.writes = writes
        self._ssl_context = ssl_context
        self._connect_timeout_s = config.timeouts.connect_s
        # What every request to this backend begins with.
        self.request_lines = b"host: %b\r\n" % endpoint.host_header
        if endpoint.auth_header is not None and endpoint.auth_value is not None:
            self.request_lines += b"%b: %b\r\n" % (endpoint.auth_header, endpoint.auth_value)
        self._settings = config.pool
        self._clock = clock
        self._idle: deque[UpstreamConnection] = deque()

    def take_idle(self) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable():
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises ConnectFailed."""
        endpoint = self.endpoint
        make: Callable[[], UpstreamConnection] = lambda: UpstreamConnection(self, self._clock())  # noqa: E731
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    make,
                    endpoint.host,
                    endpoint.port,
                    ssl=self._ssl_context,
                    server_hostname=endpoint.tls.server_name if endpoint.tls is not None else None,
                )
        except TimeoutError as exc:
            raise ConnectFailed(Reason.CONNECT_TIMEOUT) from exc
        except OSError as exc:
            raise ConnectFailed(Reason.CONNECT_FAILED) from exc
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        now_s = self._clock()
        is_old = now_s - connection.made_s > self._settings.max_age_s
        if is_old or len(self._idle) >= self._settings.max_idle or not connection.is_usable():
            connection.close()
            return
        connection.idle_since_s = now_s
        connection.was_idle = True
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now_s: float) -> None:
        """Closes what has been idle too long; the longest idle stand on the left."""
        while self._idle and now_s - self._idle[0].idle_since_s > self._settings.idle_s:
            self._idle.popleft().close()

    def close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def __repr__(self) -> str:
        return f"<UpstreamPool {self.endpoint.backend_id} idle={len(self._idle)}>"


def pools_of(
    config: Config, endpoints: Mapping[str, BackendEndpoint], clock: Clock, writes: WriteBatch
) -> dict[str, UpstreamPool]:
    """A pool for each backend, by its id. Raises OSError for certificates that can't be loaded."""
    return {
        backend_id: UpstreamPool(endpoint, _ssl_context(endpoint), config, clock, writes)
        for backend_id, endpoint in endpoints.items()
    }


def _ssl_context(endpoint: BackendEndpoint) -> ssl.SSLContext | None:
    if endpoint.tls is None:
        return None
    return ssl.create_default_context(cafile=endpoint.tls.ca_file)
