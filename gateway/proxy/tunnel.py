"""A WebSocket exchange: a request like any other until a backend's valid 101, and a tunnel from then on.

Before the 101 all is as in exchange.py: routing, spilling, deadlines, another backend after a failure. Any
other answer is passed on as an answer. The 101 is the first byte and the point of no return: to the circuit
the attempt has succeeded there (TunnelOpened), and only its slot stays taken until the tunnel ends.

A connection that has asked for a tunnel carries no other request, whatever comes of it: what its client sends
after the head is never read as HTTP (ADR 0040).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.core.breaker import NO_GENERATION
from gateway.core.events import TunnelOpened
from gateway.core.model import SUCCESS, Outcome, Reason
from gateway.proxy import answers
from gateway.proxy.attempt import Attempt
from gateway.proxy.errors import Refusal
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Headers, ResponseHead
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.splice import Splice
from gateway.proxy.upstream import UpstreamConnection
from gateway.proxy.websocket import GOING_AWAY, POLICY, Handshake, handshake_of, read_switch

if TYPE_CHECKING:
    from gateway.proxy.downstream import DownstreamConnection
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.request_reader import Request


class TunnelAttempt(Attempt):
    """One try at a backend that may answer with 101."""

    __slots__ = ("_exchange",)

    _exchange: TunnelExchange

    def may_switch_for(self, exchange: TunnelExchange) -> None:
        self._exchange = exchange

    def _send(self, connection: UpstreamConnection, now_s: float) -> None:
        connection.switcher = self
        super()._send(connection, now_s)

    # --- Switcher ------------------------------------------------------------------------------------

    def read_switch(self, reason: bytes, version: str, headers: Headers) -> ResponseHead:
        offered = self._exchange.handshake.offered(pass_client=self._pool.endpoint.pass_client)
        return read_switch(self._exchange.handshake, offered, reason, version, headers)

    def on_switched(self, head: ResponseHead, transport: asyncio.Transport, rest: bytes) -> None:
        now_s = self._plane.clock()
        ttft_s = now_s - self.began_s
        self._upstream = None  # its transport is the tunnel's now
        self.answer_head = head
        self.is_relayed = True
        self._answered_s = now_s
        self._first_byte_deadline_s = None
        candidate = self.candidate
        if self._lease is not None:
            self._plane.store.release_permit(self._lease)
        self._plane.apply(TunnelOpened(candidate.backend.id, ttft_s, candidate.generation))
        self.candidate = replace(candidate, generation=NO_GENERATION)  # its end teaches nothing more
        self._exchange.on_tunnel(self, transport, rest)

    def count(self, bytes_out: int) -> None:
        self.body_bytes = bytes_out


class TunnelExchange(Exchange):
    """One request for a tunnel, and the tunnel."""

    __slots__ = ("_splice", "handshake")

    attempt_type = TunnelAttempt
    may_hedge = False  # a second session is not a second look at the same answer

    def __init__(self, plane: DataPlane, connection: DownstreamConnection, request: Request) -> None:
        super().__init__(plane, connection, request)
        self.keeps_alive = False
        self._splice: Splice | None = None
        if request.head is not None and request.refusal is None:
            self.handshake: Handshake = handshake_of(request.head)

    # --- until the 101 -------------------------------------------------------------------------------

    def _head_for(self, pool: UpstreamPool, target: bytes, forward: bytes, length: int) -> bytes:
        assert self._head is not None
        lines = self.handshake.lines(pass_client=pool.endpoint.pass_client)
        return answers.request_head(self._head, forward, target, pool, self, lines)

    def send(self, attempt: Attempt) -> None:
        assert isinstance(attempt, TunnelAttempt)
        attempt.may_switch_for(self)
        super().send(attempt)

    def on_first_byte(self, attempt: Attempt, chunk: bytes) -> None:
        """An answer without a tunnel. A 2xx is no answer to a handshake: it failed (RFC 6455 4.1)."""
        assert attempt.answer_head is not None
        if attempt.answer_head.status < 300:
            self.on_attempt_ended(attempt, Reason.BAD_RESPONSE)
        else:
            super().on_first_byte(attempt, chunk)

    def refuse_early(self, refusal: Refusal) -> None:
        """The client did not wait for the answer to its handshake."""
        if not self.is_committed:
            self._stop_waiting()
            self._refuse(refusal)
            self._end()

    # --- the tunnel ----------------------------------------------------------------------------------

    def on_tunnel(self, attempt: TunnelAttempt, transport: asyncio.Transport, rest: bytes) -> None:
        """The backend has switched; `rest` came with its 101."""
        plane, record, connection, head = self._plane, self.record, self.connection, attempt.answer_head
        assert head is not None
        now_s = plane.clock()
        self.is_committed = True
        record.status = head.status
        record.ttft_s = now_s - record.started_s
        held_s = record.held.seconds if record.held is not None else 0.0
        overhead_s = record.ttft_s - self._waited_s - (now_s - attempt.began_s) - held_s
        # An attempt lets go a moment after the next one has begun: that moment is in both of their times.
        record.overhead_s = max(overhead_s, 0.0)
        if not self.route.is_own_deadline:
            self.route.deadline_s = now_s + self.settings.timeouts.tunnel_total_s
        candidate = attempt.candidate if self.settings.exposes_routing else None
        connection.write(answers.switch_head(head, self, candidate))
        plane.writes.flush()  # from here on both are written to directly
        plane.tunnels += 1
        self._splice = splice = Splice(self, connection.transport, transport, now_s)
        splice.join(connection.take_early(), rest, client_is_choked=connection.paused_since_s is not None)

    def on_splice_over(self, reason: Reason) -> None:
        self._finish(Outcome.of(reason))

    def on_client_gone(self, exc: Exception | None) -> None:
        self.connection.connection_lost(exc)

    def close_client(self) -> None:
        if not self.connection.transport.is_closing():
            self.connection.close()

    def _finish(self, outcome: Outcome) -> None:
        self.record.outcome = outcome
        self._end(outcome)

    def _settle(self, outcome: Outcome) -> None:
        """Of a tunnel that ran the fleet has heard all it needs to know."""
        splice, attempt = self._splice, self._attempt
        if splice is None or attempt is None or attempt.is_settled:
            super()._settle(outcome)
            return
        assert isinstance(attempt, TunnelAttempt)
        self._plane.tunnels -= 1
        self.record.bytes_in = splice.bytes_in
        attempt.count(splice.bytes_out)
        super()._settle(SUCCESS)

    # --- called from outside -------------------------------------------------------------------------

    def client_left(self) -> None:
        if self._splice is None:
            super().client_left()  # else the splice has seen it, and goes on only to end well

    def pause(self) -> None:
        if self._splice is None:
            super().pause()

    def resume(self) -> None:
        if self._splice is None:
            super().resume()

    def stop(self, reason: Reason) -> None:
        if self._splice is None:
            super().stop(reason)
        elif reason is Reason.SHUTDOWN:
            self._close(GOING_AWAY, "shutdown", Outcome.of(reason))
        else:
            self._close(POLICY, "deadline", Outcome.of(reason))

    def check(self, now_s: float) -> None:
        splice, timeouts = self._splice, self.settings.timeouts
        if splice is None:
            super().check(now_s)
        elif now_s >= self.route.deadline_s:
            if self.route.is_own_deadline:
                self.stop(Reason.CLIENT_LEFT)
            else:
                self.record.error_code = "tunnel_total"
                self._close(POLICY, "tunnel_total", SUCCESS)
        elif splice.is_stuck(timeouts.tunnel_idle_s, now_s):
            if splice.is_ending:
                splice.abort()
                self._finish(SUCCESS)
            else:
                self.record.error_code = "tunnel_idle"
                self._close(POLICY, "tunnel_idle", SUCCESS)
        else:
            self.connection.reset_if_stuck(now_s)

    def _close(self, code: int, why: str, outcome: Outcome) -> None:
        assert self._splice is not None
        self._splice.close_with(code, why.encode(), self._plane.draw())
        self._finish(outcome)
