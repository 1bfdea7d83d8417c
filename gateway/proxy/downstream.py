"""The downstream side: one client connection, and the requests waiting their turn on it.

Requests on a connection are answered in order, one at a time. What a client pipelines beyond
MAX_PIPELINED is left unread. After anything that can't be trusted there is one answer, then the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

from gateway.proxy.answers import unasked_answer
from gateway.proxy.errors import Refusal, malformed
from gateway.proxy.exchange import Exchange
from gateway.proxy.request_reader import Request, RequestReader
from gateway.proxy.socket_bounds import reset
from gateway.proxy.tunnel import TunnelExchange

if TYPE_CHECKING:
    from gateway.proxy.plane import DataPlane

MAX_PIPELINED = 16
# A client that was refused is read from, into nothing, so that a reset does not eat the answer.
LINGER_S = 2.0
# At shutdown, for a client that could not be told of it: the head of its answer was out before. Most use a
# connection again at once, and a request that crosses our closing is lost.
LAST_REQUEST_S = 1.0
_NEVER_S = float("inf")
# What a client may send after asking for a tunnel and before the answer.
MAX_EARLY_BYTES = 16 * 1024


class DownstreamConnection(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_early",
        "_exchange",
        "_is_closing",
        "_is_paused_for_budget",
        "_owed_bytes",
        "_owed_since_s",
        "_plane",
        "_reader",
        "_unread",
        "_waiting",
        "deadline_s",
        "forwarded",
        "may_exceed_budget",
        "paused_since_s",
        "peer",
        "transport",
        "write_on",
    )

    def __init__(self, plane: DataPlane, scheme: bytes = b"http") -> None:
        self._plane = plane
        self._reader = RequestReader(plane, self)
        self._exchange: Exchange | None = None
        self._waiting: deque[Request] = deque()
        self._unread = b""
        self._early: bytes | None = None  # not None: a tunnel was asked for, and what comes is no HTTP
        self._is_closing = False
        self._is_paused_for_budget = False
        self._owed_bytes = 0
        self._owed_since_s = 0.0
        self.transport = cast(asyncio.Transport, None)
        self.deadline_s = _NEVER_S
        self.may_exceed_budget = False  # for the request that comes in
        self.paused_since_s: float | None = None
        self.peer = ""
        self.forwarded = b"x-forwarded-proto: %b\r\n" % scheme

    # --- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # For the next part of an answer that has begun.
        self.write_on = self._plane.writes.writer(self.transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
            self.forwarded += b"x-forwarded-for: %b\r\n" % self.peer.encode()
        self.deadline_s = self._plane.clock() + self._plane.settings.timeouts.request_head_s
        if (refusal := self._plane.joined(self)) is not None:
            self._turn_away(refusal)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if (
            self._exchange is None
            and self.paused_since_s is None
            and not self._unread
            and (request := self._reader.repeated(data)) is not None
        ):
            self._start(request)
        elif self._unread:
            self._unread += data  # came before the pause of reading took hold
        else:
            self._read(data)

    def eof_received(self) -> bool:
        return False  # a half-closed client counts as gone (FAULTS SL-03)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        if isinstance(exc, TimeoutError):  # the kernel has looked at the clock, too: see socket_bounds.py
            self._plane.closed["write"] += 1
        self._plane.left(self)
        self._reader.drop_body()
        self._plane.give_back_bytes(sum(len(request.body) for request in self._waiting))
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
        """Reads a segment part by part, as long as there is room for requests; else stops reading."""
        at, end = 0, len(data)
        reader = self._reader
        while at < end and not self._is_closing:
            if self._early is not None:
                self._hold_early(data[at:])
                return
            if self._waiting and not reader.is_begun and self._is_full():
                self._unread = data[at:]
                self._plane.paused["pipelined"] += 1
                self.transport.pause_reading()
                return
            at = reader.read(data, at)

    def _is_full(self) -> bool:
        """Whether enough waits its turn: no client fills the memory of all by not waiting for its answers."""
        waiting = self._waiting
        most_bytes = self._plane.settings.max_body_bytes
        return len(waiting) >= MAX_PIPELINED or sum(len(one.body) for one in waiting) >= most_bytes

    def _hold_early(self, data: bytes) -> None:
        """Read as nothing until it is known whether there is a tunnel, and thrown away if there is none."""
        self._early = (self._early or b"") + data
        if len(self._early) <= MAX_EARLY_BYTES:
            return
        self._early = b""
        self._is_closing = True
        refusal = malformed("Too much was sent before the answer to the handshake.")
        if self._waiting:
            self._waiting[-1] = self._waiting[-1]._replace(refusal=refusal)
        elif isinstance(self._exchange, TunnelExchange):
            self._exchange.refuse_early(refusal)

    def take_early(self) -> bytes:
        """What belongs to the tunnel that begins now."""
        early, self._early = self._early or b"", b""
        return early

    def request_begun(self) -> None:
        if self._exchange is None:
            self.deadline_s = self._plane.clock() + self._plane.settings.timeouts.request_head_s

    def body_announced(self) -> None:
        if self._exchange is None:
            self.deadline_s = self._plane.clock() + self._plane.settings.timeouts.request_body_s

    def wait_for_room(self) -> None:
        """All bodies together are as large as they may be: this one goes on when others are gone."""
        if not (self.may_exceed_budget or self._is_paused_for_budget):
            self._is_paused_for_budget = True
            self._plane.paused["max_buffered"] += 1
            self._plane.wait_for_bytes(self)
            self.transport.pause_reading()

    def send_continue(self) -> None:
        """Says 100 Continue once it is this request's turn: an answer before it must be out first."""
        if self._exchange is None:
            self._reader.owes_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def refuse_and_close(self, refusal: Refusal) -> None:
        """The rest of the connection is not read; requests that came before are answered first."""
        if self._is_closing and self._exchange is None:
            return
        self._is_closing = True
        self._unread = b""
        refusal.closes = True
        self.accept(self._reader.give_up(refusal))

    # --- taking turns --------------------------------------------------------------------------------

    def accept(self, request: Request) -> None:
        """A request has come in whole, or as far as it will."""
        self.may_exceed_budget = False
        if request.endpoint is not None and request.endpoint.is_tunnel:
            self._early = b""
        if self._exchange is None and self.paused_since_s is None:
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: Request) -> None:
        self.deadline_s = _NEVER_S
        endpoint = request.endpoint
        is_tunnel = endpoint is not None and endpoint.is_tunnel
        self._exchange = exchange = (TunnelExchange if is_tunnel else Exchange)(self._plane, self, request)
        exchange.start()

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
        plane, reader = self._plane, self._reader
        timeouts = plane.settings.timeouts
        if reader.is_begun:
            wait_s = timeouts.request_body_s
        else:
            wait_s = timeouts.keep_alive_s
            if plane.is_draining:
                wait_s = min(LAST_REQUEST_S, wait_s)
        clock = plane.clock
        self.deadline_s = clock() + wait_s
        if reader.owes_continue:
            self.send_continue()

    def _turn_away(self, refusal: Refusal) -> None:
        """One answer to whatever it was going to ask; nothing is read of that."""
        self._is_closing = True
        if self.transport.is_closing():
            return
        self.write(unasked_answer(refusal, self._plane.request_id(None)))
        self._close_gently()

    def _close_gently(self) -> None:
        """The answer is out. Closing with bytes unread would reset the connection and lose it."""
        is_all_read = not (self._is_closing or self._reader.is_begun or self._unread)
        self._plane.writes.flush()
        if (self._plane.is_draining and is_all_read) or not self.transport.can_write_eof():
            self.close()
        else:
            self._is_closing = True
            self.transport.write_eof()
            self.transport.resume_reading()
            self.deadline_s = self._plane.clock() + LINGER_S

    def close(self) -> None:
        """Over TLS that says goodbye and reads on, into nothing, until the client says it too.

        uvloop would give it 30 seconds for that, and needs to read to see it.
        """
        self._is_closing = True
        self.transport.resume_reading()
        self.transport.close()
        self.deadline_s = self._plane.clock() + LINGER_S

    def write(self, data: bytes) -> None:
        """Everything the client gets goes through here or `write_on`, so that it keeps its order."""
        self._plane.writes.add(self.transport, data)

    def write_chunk(self, data: bytes) -> None:
        """The next part of an answer that has begun, framed as one chunk."""
        self.write_on(b"%x\r\n%b\r\n" % (len(data), data))

    # --- called by the plane -------------------------------------------------------------------------

    def read_again(self) -> None:
        """There is room for body bytes again."""
        self._is_paused_for_budget = False
        if not self._is_closing and not self._unread:
            self.transport.resume_reading()

    def expire(self) -> None:
        """The deadline has passed: the client did not finish a request, or did not send one."""
        if self.transport.get_write_buffer_size():
            self.reset_if_stuck(self._plane.clock())
        elif self._reader.is_begun and not self._is_closing:
            self.refuse_and_close(
                Refusal(408, "invalid_request", "The request did not end in time.", closes=True)
            )
        else:
            if not self._is_closing:
                self._plane.closed["idle"] += 1
            self.transport.abort()

    def reset_if_stuck(self, now_s: float) -> None:
        """When the client has read nothing of what waits for it, for as long as it may."""
        owed_bytes = self.transport.get_write_buffer_size()
        if owed_bytes != self._owed_bytes:
            self._owed_bytes = owed_bytes
            self._owed_since_s = now_s
        if owed_bytes and now_s - self._owed_since_s > self._plane.settings.timeouts.write_s:
            self._plane.closed["write"] += 1
            reset(self.transport)

    @property
    def body_bytes(self) -> int:
        """Of the request that comes in."""
        return self._reader.body_bytes

    @property
    def has_more(self) -> bool:
        """Whether a request has come, or a part of one, behind the one that is answered."""
        return bool(self._waiting) or self._reader.is_begun or bool(self._unread)

    @property
    def is_idle(self) -> bool:
        return self._exchange is None and not self._reader.is_begun

    def cut(self) -> None:
        """Ends the connection so that the client sees a truncated answer."""
        self._is_closing = True
        self._plane.writes.flush()
        self.deadline_s = self._plane.clock()  # whether it reads the rest is looked at in each sweep
        self.transport.close()

    def __repr__(self) -> str:
        state = "closing" if self._is_closing else "idle" if self._exchange is None else "busy"
        return f"<DownstreamConnection {self.peer} {state}, {len(self._waiting)} waiting>"
