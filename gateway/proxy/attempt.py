"""One try at one backend: its lease, its connection, its timers, and the answer that it brings.

    begin → connecting → waiting for the first byte → relayed → ended
                                                    → held    → relayed, or let go

An attempt tells its owner what happens and decides nothing about the request. It knows of no other attempt,
so an owner may run several at once and settle those that it does not want.

Invariants:
- the lease is given back exactly once, in `settle`, and not before the connection is closed or done with;
- the owner is told of a first byte at most once, of an end at most once, and of nothing after `settle`;
- the fleet, which counts who waits for a first byte, is told once that this one waits no more: of the first
  byte (FirstByteSeen, `ttft_s`), of a whole error answer (the outcome), or of how long it waited in vain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gateway.core.fleet import AttemptFinished, AttemptStarted, FirstByteSeen
from gateway.core.journey import waited_in_vain_s
from gateway.core.model import Outcome, Reason
from gateway.core.taxonomy import LESSONS
from gateway.ports import AttemptTrace, Lease
from gateway.proxy.headers import ResponseHead
from gateway.proxy.last_event import LastEvent
from gateway.proxy.pool import ConnectFailed, UpstreamPool
from gateway.proxy.spans import retry_after_s
from gateway.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.settings import PlaneSettings

log = logging.getLogger(__name__)

# Looking up a member of an enum costs as much as a call (CPython 3.11), and calling a NamedTuple twice as
# much as making one so: what stands in its class is a Python function.
_COMPLETED = Reason.COMPLETED
_new = tuple.__new__


class AttemptOwner(Protocol):
    """Who an attempt works for. `settings` stay the same as long as it does."""

    @property
    def settings(self) -> PlaneSettings: ...

    def on_first_byte(self, attempt: Attempt, chunk: bytes) -> None:
        """The answer has begun, or has ended without a body: to be relayed or held, before this returns."""

    def on_attempt_ended(self, attempt: Attempt, reason: Reason) -> None:
        """COMPLETED, or why it failed; to be settled yet.

        REFUSED: its backend was no longer to be tried when the connection was made, and nothing was sent.
        """

    def on_attempt_fault(self, attempt: Attempt) -> None:
        """A mistake in the gateway itself ended it, and is in the log."""


class Attempt:
    """A Receiver of one upstream connection. The lease is its own from the moment it is made."""

    __slots__ = (
        "_answered_s",
        "_connecting",
        "_first_byte_deadline_s",
        "_held",
        "_is_held_whole",
        "_last_event",
        "_lease",
        "_owner",
        "_plane",
        "_pool",
        "_progress_s",
        "_request_body",
        "_request_head",
        "_seen_bytes",
        "_untold_ttft_s",
        "_upstream",
        "_write",
        "answer_head",
        "began_s",
        "body_bytes",
        "candidate",
        "is_relayed",
        "lacks_done",
        "trace",
    )

    def __init__(
        self, plane: DataPlane, owner: AttemptOwner, lease: Lease, now_s: float, body_bytes: int = 0
    ) -> None:
        self._plane = plane
        self._owner = owner
        self._lease: Lease | None = lease
        self.candidate = candidate = lease.candidate
        self.began_s = now_s
        self.answer_head: ResponseHead | None = None
        self.body_bytes = 0  # of the answer, known at its end
        self._connecting: asyncio.Task[None] | None = None
        self._upstream: UpstreamConnection | None = None
        self._first_byte_deadline_s: float | None = None  # None: nothing is sent, or no byte waited for
        self._answered_s: float | None = None  # when the first body byte came, good or not
        self._held: list[bytes] | None = None
        self._write: Callable[[bytes], None] | None = None
        self._last_event: LastEvent | None = None
        self._untold_ttft_s: float | None = None
        self.is_relayed = False
        self.trace: AttemptTrace | None = None
        self.lacks_done = False  # an event stream that ended with its connection, without [DONE]
        plane.apply(_new(AttemptStarted, (candidate.backend.id, candidate.generation, body_bytes)))

    # --- what the owner calls ------------------------------------------------------------------------

    def begin(self, pool: UpstreamPool, head: bytes, body: bytes) -> None:
        """Sends at once if a connection is idle; else as soon as there is one."""
        self._pool = pool
        self._request_head = head
        self._request_body = body
        connection = pool.take_idle()
        if connection is not None:
            self._send(connection, self.began_s)
        else:
            self._connect()

    def fail(self, reason: Reason) -> None:
        """Ends it from inside or outside: there is no pool, a deadline has passed, the gateway shuts down."""
        self._let_go()
        self._owner.on_attempt_ended(self, reason)

    def hold(self, chunk: bytes) -> None:
        """The answer waits here, and the backend with the rest of it, until the owner wants it or settles."""
        self._held = [chunk]
        self._answered_s = self._plane.clock()
        self._first_byte_deadline_s = None
        self._is_held_whole = False
        if self._upstream is not None:
            self._upstream.pause()

    def held_bytes(self) -> bytes:
        return b"".join(self._held or ())

    def relay(
        self,
        write: Callable[[bytes], None],
        begun: bytes,
        now_s: float,
        write_framed: Callable[[bytes], None] | None = None,
    ) -> None:
        """From here on `write` gets each piece of the body inside the callback that brings it.

        What has `begun` the body, the first chunk or `held_bytes`, the owner has passed on. `write_framed` is
        given for clients that get chunks: it takes what is framed already.
        """
        head, upstream = self.answer_head, self._upstream
        assert head is not None
        if head.length is None and head.ends_with_done:
            self._last_event = LastEvent(write, begun)
            write = self._last_event.write
        self._write = write
        self.is_relayed = True
        self._first_byte_deadline_s = None
        self._request_body = b""  # nothing is repeated now: a long stream need not keep its request
        self._progress_s = self._answered_s = now_s
        if head.status < 400:
            self._untold_ttft_s = now_s - self.began_s
        self._seen_bytes = len(begun)
        if write_framed is not None and head.is_chunked and upstream is not None:
            upstream.pass_whole_chunks(write_framed)
        if self._held is not None:
            self._held = None
            if self._is_held_whole:
                self._complete()
            elif upstream is not None:
                upstream.resume()

    def pause(self) -> None:
        """The client reads slower than the backend sends."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        self._seen_bytes = -1  # the wait was the client's: the time of the backend begins anew
        if self._upstream is not None:
            self._upstream.resume()

    def settle(self, outcome: Outcome) -> None:
        """Lets go of the backend, then gives the lease back. Settling twice is the same as once."""
        lease = self._lease
        if lease is None:
            return
        self._lease = None
        if self._upstream is not None or self._connecting is not None:
            self._let_go()
        self._held = None
        plane = self._plane
        plane.store.release(lease)
        candidate, head = self.candidate, self.answer_head
        if self.trace is not None:
            self._end_trace(self.trace, outcome)
        elapsed_s = asked_s = None
        if self._answered_s is None or head is None or head.status >= 400:
            status = head.status if head is not None else None
            elapsed_s = waited_in_vain_s(outcome, status, self.began_s, self._answered_s, plane.clock())
            if elapsed_s is None and head is not None and LESSONS[outcome.reason].cuts_limit:
                asked_s = retry_after_s(head)
        plane.apply(
            _new(
                AttemptFinished,
                (
                    candidate.backend.id,
                    outcome,
                    self._untold_ttft_s,
                    elapsed_s,
                    candidate.generation,
                    asked_s,
                ),
            )
        )

    def _end_trace(self, trace: AttemptTrace, outcome: Outcome) -> None:
        trace.outcome = outcome
        trace.first_byte_s = self._answered_s
        trace.ended_s = self._plane.clock()
        trace.status = self.answer_head.status if self.answer_head is not None else None

    def check(self, now_s: float) -> None:
        """Looks at the deadlines. Called a few times a second, so that no byte has to set a timer."""
        upstream = self._upstream
        if upstream is None or self._held is not None:
            return  # connecting has its own deadline; who holds an answer waits for somebody else
        if self._first_byte_deadline_s is not None:
            if now_s >= self._first_byte_deadline_s:
                self.fail(Reason.FIRST_BYTE_TIMEOUT)
        elif upstream.body_bytes != self._seen_bytes:
            if self._seen_bytes >= 0:
                self._plane.progressed.add(self.candidate.backend.id)
            self._seen_bytes = upstream.body_bytes
            self._progress_s = now_s
            if self._untold_ttft_s is not None:
                # A long answer: routing should not learn of its first byte only at its end.
                self._plane.apply(FirstByteSeen(self.candidate.backend.id, self._untold_ttft_s))
                self._untold_ttft_s = None
        elif now_s - self._progress_s > self._owner.settings.timeouts.stall_s:
            self.fail(Reason.STALL_TIMEOUT)

    @property
    def is_settled(self) -> bool:
        return self._lease is None

    @property
    def is_running(self) -> bool:
        """Not ended and not held: the owner has yet to hear of it."""
        return self._held is None and (self._upstream is not None or self._connecting is not None)

    @property
    def holds_answer(self) -> bool:
        return self._held is not None

    # --- towards the backend -------------------------------------------------------------------------

    def _connect(self) -> None:
        self._connecting = self._plane.loop.create_task(self._connect_and_send())

    async def _connect_and_send(self) -> None:
        try:
            connection = await self._pool.connect()
            self._connecting = None
            # The one probe permit may be its own: whether that is free need not be asked again.
            if self._plane.view.admits(replace(self.candidate, is_probe=False)):
                self._send(connection, self._plane.clock())
            else:
                connection.close()
                self._owner.on_attempt_ended(self, Reason.REFUSED)
        except ConnectFailed as failed:
            self._connecting = None
            self._owner.on_attempt_ended(self, failed.reason)
        except Exception:
            log.exception("the attempt at %s failed", self.candidate.backend.id)
            self._connecting = None
            self._owner.on_attempt_fault(self)

    def _send(self, connection: UpstreamConnection, now_s: float) -> None:
        self._upstream = connection
        body = self._request_body
        self._first_byte_deadline_s = now_s + self._owner.settings.timeouts.first_byte_for_s(len(body))
        connection.send(self, self._request_head, body)

    def _let_go(self) -> None:
        """The connection carries nothing for us any more: closed, if it has not ended by itself."""
        if (upstream := self._upstream) is not None:
            self._upstream = None
            self.body_bytes = upstream.body_bytes
            upstream.abandon()
        elif (connecting := self._connecting) is not None:
            self._connecting = None
            connecting.cancel()

    # --- Receiver: what the upstream connection tells ------------------------------------------------

    def on_answer_head(self, head: ResponseHead) -> None:
        self.answer_head = head  # kept until the first body byte: see DESIGN, hung engines

    def on_answer_body(self, chunk: bytes) -> None:
        if (write := self._write) is not None:
            write(chunk)
        elif self._held is not None:
            self._held.append(chunk)
        else:
            self._owner.on_first_byte(self, chunk)

    def on_answer_end(self) -> None:
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        self.body_bytes = upstream.body_bytes
        if self._write is None and self._held is None:
            if self.answer_head is not None and self.answer_head.ends_with_done:
                self._owner.on_attempt_ended(self, Reason.RESET)  # not one event
                return
            self._owner.on_first_byte(self, b"")
        if self._held is not None:
            self._is_held_whole = True
        elif self._last_event is not None:
            self._complete()
        elif self._lease is not None:
            self._owner.on_attempt_ended(self, _COMPLETED)

    def _complete(self) -> None:
        """As far as HTTP can tell."""
        self.lacks_done = self._last_event is not None and not self._last_event.is_done
        self._owner.on_attempt_ended(self, Reason.TRUNCATED if self.lacks_done else _COMPLETED)

    def on_answer_failed(self, reason: Reason) -> None:
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        if self._held is not None:
            self._held = None  # the owner has its verdict already: now there is no answer to fall back on
        elif upstream.was_idle and not upstream.has_answered:
            # The backend closed an idle connection as we wrote to it: that says nothing about it.
            self._first_byte_deadline_s = None
            self._connect()
        else:
            self.body_bytes = upstream.body_bytes
            is_cut = reason is Reason.TRUNCATED and self._write is None
            self._owner.on_attempt_ended(self, Reason.RESET if is_cut else reason)

    def __repr__(self) -> str:
        stage = (
            "settled" if self._lease is None
            else "holding" if self._held is not None
            else "relaying" if self._write is not None
            else "connecting" if self._connecting is not None
            else "waiting" if self._upstream is not None
            else "ended"
        )  # fmt: skip
        return f"<Attempt at {self.candidate.backend.id} {stage}>"
