"""The upstream side: one connection to a backend, and the answers that come on it.

A connection carries one attempt at a time. It goes back to the pool only when the answer ended exactly
where its framing said, with nothing left over; an idle connection on which any byte or an end arrives is
discarded, so that no byte of one exchange can reach another. So is one on which an answer begins that its
backend wrote before a byte of the request was there: the kernel knows (wire.py, ADR 0044).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools

from gateway.core.model import Reason
from gateway.proxy.chunks import MAX_WHOLE_CHUNK_BYTES, WHOLE_CHUNK_STARTS, plain_chunks
from gateway.proxy.headers import (
    MAX_HEAD_BYTES,
    BadResponse,
    Headers,
    ResponseHead,
    read_response_head,
    without_secret,
)
from gateway.proxy.receiver import Receiver, Switcher
from gateway.proxy.repeats import RepeatedHead
from gateway.proxy.wire import Wire

if TYPE_CHECKING:
    from gateway.proxy.pool import UpstreamPool

# 100, 102 and 103 answers before the real one; more is a flood (FAULTS RS-32).
MAX_INTERIM_ANSWERS = 8
# One record of TLS holds that much, and is read as a whole or not at all.
_MAX_RECORD_BYTES = 16 * 1024
# llhttp passes over line ends before a status line: they are left over from something else.
_FIRST_BYTE = ord("H")
_BLANK_LINE = b"\r\n\r\n"
# Framing bytes (chunk sizes, extensions, trailers) beyond what honest one-byte chunks would need; also the
# most that may come in a row without a byte of the body.
MAX_FRAMING_BYTES = 16 * 1024


class UpstreamConnection(asyncio.Protocol):
    """One connection to a backend."""

    __slots__ = (
        "_dry_bytes",
        "_fed_bytes",
        "_head",
        "_head_bytes",
        "_headers",
        "_interim_answers",
        "_is_complete",
        "_is_early",
        "_is_head_large",
        "_is_in_chunk",
        "_is_out",
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
        "_request_bytes",
        "_switch_head",
        "_transport",
        "_whole_chunk_bytes",
        "_whole_chunks_to",
        "_wire",
        "has_answered",
        "idle_since_s",
        "made_s",
        "switcher",
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
        self._wire = cast(Wire, None)
        self._is_out = False  # the request, or its beginning
        self._request_bytes = 0
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
        self._dry_bytes = 0
        self._whole_chunk_bytes = 0
        self._is_in_chunk = False
        self._whole_chunks_to: Callable[[bytes], None] | None = None
        self._pass_on: Callable[[bytes], None] | None = None  # the same, between two chunks
        self._interim_answers = 0
        self._is_head_large = False
        self._is_complete = False
        self._is_early = False  # begun before the request was wholly read
        self._keeps_alive = False
        self.has_answered = False
        self.switcher: Switcher | None = None
        self._switch_head: ResponseHead | None = None

    # --- what the attempt calls ----------------------------------------------------------------------

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        self._receiver = receiver
        self._is_out = False
        self._request_bytes = len(head) + len(body)
        writes = self._pool.writes
        if len(body) < 16 * 1024:
            writes.add(self, head + body)
        else:
            writes.add(self, head)
            writes.add(self, body)

    def write(self, data: bytes) -> None:
        """The batch's turn to write has come. Not to a backend that has spoken since it last answered.

        Looked at here and not when the connection is taken: what comes in between would be taken for the
        answer. A new connection may have records of its handshake to read.
        """
        if not self._is_out:
            if self.was_idle and not self._wire.is_silent():
                self._fail(Reason.RESET)
                return
            self._is_out = True
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pass_whole_chunks(self, write: Callable[[bytes], None]) -> None:
        """From here on a segment that is one whole chunk goes to `write` as it is, framing and all.

        The receiver does not hear of it; `body_bytes` counts it. An error is looked through for secrets.
        """
        head = self._head
        if head is None or head.status >= 400:
            return
        self._whole_chunks_to = write
        if head.is_event_stream:
            self._wire.acknowledge_every_other()

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
        self._wire = Wire(self._transport)

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
        is_first = self._head is None and not self._head_bytes
        if is_first and not self._is_possible_answer():
            self._fail(Reason.BAD_RESPONSE)  # whatever it answers, it is not this request
            return
        self.has_answered = True
        if is_first and data[0] != _FIRST_BYTE:
            self._fail(Reason.BAD_RESPONSE)
            return
        if is_first and (body_start := self._repeated.body_start(data)) and self._repeated_head is not None:
            self._take_repeated(self._repeated_head, data[body_start:])
            return
        parsed_bytes = self._parsed_bytes
        self._is_head_large = self._head is None and self._head_bytes + len(data) > MAX_HEAD_BYTES
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broke_off(error, data)
            return
        if self._head is None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(Reason.BAD_RESPONSE)
        elif self._is_complete:
            if self._leaves_over(data, self._parsed_bytes - parsed_bytes):
                self._transport.abort()
                return
            if is_first and self._head.length is not None and self._keeps_alive and not self._is_error:
                self._repeated.learn(data)
                self._repeated_head = self._head
            self._retire()
        elif self._head.is_chunked:
            self._fed_bytes += len(data)
            self._dry_bytes = self._dry_bytes + len(data) if parsed_bytes == self._parsed_bytes else 0
            if (
                self._fed_bytes > MAX_FRAMING_BYTES + 8 * self._parsed_bytes
                or self._dry_bytes > MAX_FRAMING_BYTES
            ):
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
        if self._is_head_large:
            self._measure_head()
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._interim_answers += 1
            if self._interim_answers > MAX_INTERIM_ANSWERS:
                raise BadResponse("a flood of interim answers")
            return
        if status == 101 and self.switcher is not None:
            # The end of its head is not the end of an answer: the parser stops there, and `_switch` goes on.
            version = self._parser.get_http_version()
            self._switch_head = self.switcher.read_switch(self._reason_phrase, version, self._headers)
            return
        # Asked here because llhttp forgets what it read of Connection once the message is complete.
        self._keeps_alive = self._parser.should_keep_alive()
        head = read_response_head(status, self._reason_phrase, self._parser.get_http_version(), self._headers)
        if (secret := self._pool.secret) and secret in head.forward:
            head = without_secret(head, secret)
        self._head = head
        if self._receiver is not None:
            self._receiver.on_answer_head(self._head)

    def _measure_head(self) -> None:
        """A large segment may hold a large head, or a small one and much of a body."""
        self._head_bytes += sum(len(name) + len(value) for name, value in self._headers)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadResponse(f"a head of more than {MAX_HEAD_BYTES} bytes")

    def on_chunk_header(self) -> None:
        self._is_in_chunk = True

    def on_chunk_complete(self) -> None:
        self._is_in_chunk = False

    def on_body(self, chunk: bytes) -> None:
        self._parsed_bytes += len(chunk)
        if (secret := self._pool.secret) and self._is_error and secret in chunk:
            chunk = chunk.replace(secret, b"*" * len(secret))  # "invalid key: ..."
        if self._receiver is not None:
            self._receiver.on_answer_body(chunk)

    def on_message_complete(self) -> None:
        if self._head is None:
            self._headers = []
            self._reason_phrase = b""
        else:
            self._complete()

    def _is_possible_answer(self) -> bool:
        """Whether a byte of the request was at the backend when it sent the first of the answer.

        Of the head or the body a part is enough: a 431 or 413 need not wait for the rest. TLS makes requests
        longer than we know, which of one record does not matter.
        """
        if not self._is_out:
            return False
        unread = self._wire.unread_bytes() + self._transport.get_write_buffer_size()
        if not unread:
            return True
        self._is_early = True
        is_countable = self._pool.ssl_context is None or self._request_bytes <= _MAX_RECORD_BYTES
        return unread < self._request_bytes or not is_countable

    @property
    def _is_error(self) -> bool:
        return self._head is not None and self._head.status >= 400

    def _take_repeated(self, head: ResponseHead, body: bytes) -> None:
        """The whole answer in one segment, with the head of the last one but for its length."""
        receiver = self._receiver
        assert receiver is not None
        if len(body) != head.length:
            head = head.with_length(len(body))
        self._head = head
        self._keeps_alive = True
        receiver.on_answer_head(head)
        if body:
            self._parsed_bytes = len(body)
            receiver.on_answer_body(body)
        self._complete()
        self._retire()

    def _broke_off(self, error: Exception, data: bytes) -> None:
        if isinstance(error, httptools.HttpParserUpgrade):
            self._switch(data[error.args[0] :])
        else:
            # What broke may be ours (BadResponse raised in a callback) or the parser's own verdict;
            # bytes after a complete answer only cost the connection.
            self._fail(Reason.BAD_RESPONSE)

    def _switch(self, rest: bytes) -> None:
        head, switcher = self._switch_head, self.switcher
        if head is None or switcher is None:
            self._fail(Reason.BAD_RESPONSE)  # nobody asked
            return
        self._receiver = self.switcher = None
        switcher.on_switched(head, self._transport, rest)

    # --- ends ----------------------------------------------------------------------------------------

    def _complete(self) -> None:
        self._is_complete = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_answer_end()

    def _leaves_over(self, data: bytes, body_bytes: int) -> bool:
        """Line ends behind the answer: llhttp takes them for blank lines. Of other bytes it complains itself.

        `data` ended the answer, `body_bytes` of its body were in it.
        """
        assert self._head is not None
        end = len(data) if self._head.is_chunked else len(data) - body_bytes
        blank = data[max(end - 6, 0) : end]  # before the body, or behind the last chunk
        return not _BLANK_LINE.endswith(blank[-4:]) or blank == _BLANK_LINE + b"\r\n"

    def _retire(self) -> None:
        """The answer ended cleanly: back to the pool, if both sides may go on using the connection."""
        transport = self._transport
        if self._keeps_alive and not self._is_early and not transport.get_write_buffer_size():
            if self._is_paused:
                self.resume()  # paused for a client that is slow: not for the next one
            self._forget()
            self._pool.give_back(self)
        else:
            transport.abort()  # it may not want the rest of the request (FAULTS RS-51)

    def _fail(self, reason: Reason) -> None:
        receiver, self._receiver, self._pass_on = self._receiver, None, None
        self._transport.abort()
        if receiver is not None:
            receiver.on_answer_failed(reason)

    def __repr__(self) -> str:
        state = "idle" if self._receiver is None else "answering" if self._head else "waiting"
        return f"<UpstreamConnection {state}>"
