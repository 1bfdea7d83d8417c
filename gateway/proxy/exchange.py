"""One request's life: `start`, and `_run` for whoever has to wait.

The usual exchange finds a slot and an idle connection at once: it is on its way before `start` returns, and
callbacks carry it to its end. What has to wait, for a slot, a connection or a second try, gets a coroutine.
The bytes pass through neither: from the first body byte on, what the upstream connection receives is written
to the downstream connection inside the same callback.

Invariants:
- a lease taken is settled exactly once, however the exchange ends;
- nothing reaches the client before the first body byte (`is_committed`), so any attempt before it may be
  repeated elsewhere; after it nothing is ever repeated;
- an answer that was cut at the backend is cut at the client: it never looks whole.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway.core.fleet import AttemptFinished, AttemptStarted, FirstByteSeen
from gateway.core.model import SUCCESS, Outcome, Plan, Reason, RequestFacts, Shed, ShedReason
from gateway.core.retries import may_succeed_elsewhere, reason_of_status
from gateway.core.routing import plan_route
from gateway.ports import Lease, RequestRecord, Retry
from gateway.proxy import answers, bodies
from gateway.proxy.errors import Refusal, attempt_failed, shed
from gateway.proxy.headers import ResponseHead
from gateway.proxy.upstream import ConnectFailed, UpstreamConnection, UpstreamPool

if TYPE_CHECKING:
    from gateway.proxy.downstream import DownstreamConnection, Request
    from gateway.proxy.plane import DataPlane

log = logging.getLogger(__name__)

_CLIENT_LEFT = Outcome.of(Reason.CLIENT_LEFT)
_REFUSED = Outcome.of(Reason.REFUSED)


class Exchange:
    """One request and its answer on a downstream connection."""

    __slots__ = (
        "_answer_head",
        "_attempt_began_s",
        "_body",
        "_connection",
        "_ended",
        "_endpoint",
        "_first_byte_deadline_s",
        "_has_progressed",
        "_head",
        "_held_chunks",
        "_is_chunked",
        "_is_held_whole",
        "_is_stale",
        "_keeps_alive",
        "_lease",
        "_may_retry",
        "_plan",
        "_plane",
        "_progress_s",
        "_refusal",
        "_task",
        "_total_deadline_s",
        "_untold_ttft_s",
        "_upstream",
        "_waited_s",
        "is_committed",
        "record",
    )

    def __init__(self, plane: DataPlane, connection: DownstreamConnection, request: Request) -> None:
        self._plane = plane
        self._connection = connection
        self._head = head = request.head
        self._endpoint = request.endpoint
        self._refusal = request.refusal
        self._body = request.body
        self._keeps_alive = head is not None and head.keeps_alive and not plane.is_draining
        self._lease: Lease | None = None
        self._upstream: UpstreamConnection | None = None
        self._ended: asyncio.Future[Reason] | None = None
        self._task: asyncio.Task[None] | None = None
        self._answer_head: ResponseHead | None = None
        self._held_chunks: list[bytes] | None = None
        self._is_held_whole = False
        self._may_retry = False
        self._is_chunked = False
        self._has_progressed = False
        self._progress_s = 0.0
        self._attempt_began_s = 0.0
        self._is_stale = False
        self._plan: Plan | None = None
        self._untold_ttft_s: float | None = None
        self._waited_s = 0.0
        self._first_byte_deadline_s = 0.0
        self._total_deadline_s = request.received_s + plane.timeouts.total_s
        self.is_committed = False
        self.record = RequestRecord(
            request_id=plane.request_id(head),
            method=head.method.decode() if head is not None else "",
            path=request.endpoint.name if request.endpoint is not None else "",
            client=connection.peer,
            started_s=request.received_s,
            bytes_in=len(request.body),
        )

    def start(self) -> None:
        self._plane.exchanges.add(self)
        try:
            if self._refusal is not None:
                raise self._refusal
            if self._endpoint is not None and self._endpoint.local_path is not None:
                self._answer(answers.local(self._endpoint, self._plane))
            else:
                self._begin()
                return
        except Refusal as refusal:
            self._refuse(refusal)
        except Exception:
            log.exception("exchange %s failed", self.record.request_id)
            self._fail_inside()
        self._settle(_REFUSED)
        self._finish()

    def _begin(self) -> None:
        """Plan, lease, send: at once if nothing is in the way, else in a coroutine. Raises Refusal."""
        self._plan = self._make_plan()
        lease = self._plane.store.lease_now(self._plan)
        if lease is not None:
            pool = self._hold(lease)
            connection = pool.take_idle() if pool is not None else None
            if pool is not None and connection is not None:
                self._send(connection, pool)
                return
        self._task = self._plane.loop.create_task(self._run())

    # --- the story of those who wait -----------------------------------------------------------------

    async def _run(self, reason: Reason | None = None) -> None:
        """From wherever `_begin` got to; `reason` is why a first attempt has failed already."""
        try:
            if self._lease is None:
                self._hold(await self._wait_for_lease())
            if reason is None or self._is_stale:
                reason = await self._attempt()
            while not self.is_committed and await self._moves_on(reason):
                reason = await self._attempt()
            if not self.is_committed:
                reason = await self._make_do(reason)
            self._close_answer(reason)
        except Refusal as refusal:
            self._refuse(refusal)
        except asyncio.CancelledError:
            self.record.outcome = _CLIENT_LEFT
        except Exception:
            log.exception("exchange %s failed", self.record.request_id)
            self._fail_inside()
        finally:
            self._settle(_CLIENT_LEFT)
            self._finish()

    def _make_plan(self) -> Plan:
        """Reads the body's facts and asks the core. Raises Refusal."""
        assert self._head is not None and self._endpoint is not None
        facts = bodies.read_facts(self._head, self._endpoint, self._body)
        plane, record = self._plane, self.record
        record.model, record.stream = facts.model, facts.stream
        plan = plan_route(
            RequestFacts(facts.model, plane.draw(), facts.stream, len(self._body)), plane.view, plane.clock()
        )
        if isinstance(plan, Shed):
            raise shed(plan.reason, facts.model)
        record.route_model = plan.route_model
        record.preferred_tier = plan.preferred_tier
        return plan

    async def _wait_for_lease(self) -> Lease:
        """Raises Refusal when nobody has room."""
        assert self._plan is not None
        lease = await self._plane.store.lease(self._plan)
        if lease is None:
            model = self.record.model
            raise shed(ShedReason.NO_CAPACITY, model, self._plane.view.retry_after_s(model))
        return lease

    def _hold(self, lease: Lease) -> UpstreamPool | None:
        """The lease is this exchange's from here to `_settle`. None: its backend left meanwhile."""
        assert self._plan is not None
        plane, backend_id = self._plane, lease.candidate.backend.id
        self._lease = lease
        self._attempt_began_s = plane.clock()
        attempts = self.record.attempts = self.record.attempts + 1
        self._may_retry = attempts < plane.attempts and len(self._plan.candidates) > 1
        plane.apply(AttemptStarted(backend_id))
        return plane.pools.get(backend_id)

    async def _attempt(self) -> Reason:
        """One try at the leased backend: COMPLETED, or why it failed. `is_committed` tells when."""
        assert self._lease is not None
        pool = self._plane.pools.get(self._lease.candidate.backend.id)
        if pool is None:
            return Reason.CONNECT_FAILED
        connection = None if self._is_stale else pool.take_idle()
        self._is_stale = False
        if connection is None:
            try:
                connection = await pool.connect()
            except ConnectFailed as failed:
                return failed.reason
        self._ended = self._plane.loop.create_future()
        self._send(connection, pool)
        reason = await self._ended
        return await self._attempt() if self._is_stale else reason

    async def _moves_on(self, reason: Reason) -> bool:
        """Takes a lease on the rest of the plan. An answer held back is given up only for that."""
        lease, plan = self._lease, self._plan
        assert lease is not None and plan is not None
        if self._held_chunks is None:
            self._settle(Outcome.of(reason))
        if not self._may_retry or self._plane.clock() >= self._total_deadline_s:
            return False
        if reason is Reason.SHUTDOWN:
            return False
        rest = plan.without(lease.candidate)
        successor = await self._plane.store.lease(rest) if rest is not None else None
        if successor is None:
            return False
        self._settle(Outcome.of(reason))
        self._plan = rest
        self._hold(successor)
        self.record.retries += (Retry(lease.candidate.cluster, reason),)
        return True

    async def _make_do(self, reason: Reason) -> Reason:
        """Nobody else may try: the client gets the held answer as it is, or an error of ours."""
        held = self._held_chunks
        if held is None or self._answer_head is None:
            raise attempt_failed(reason)
        self._held_chunks = None
        self._ended = self._plane.loop.create_future()
        self._commit(self._answer_head, b"".join(held))
        if self._is_held_whole:
            self._complete()
        elif self._upstream is not None:
            self._upstream.resume()
        return await self._ended

    # --- towards the backend -------------------------------------------------------------------------

    def _send(self, connection: UpstreamConnection, pool: UpstreamPool) -> None:
        plane, head, endpoint, lease = self._plane, self._head, self._endpoint, self._lease
        assert head is not None and endpoint is not None and lease is not None
        self._answer_head = None
        self._upstream = connection
        body = self._body
        target = head.target
        if (upstream_model := lease.candidate.upstream_model) is not None:
            target, body = bodies.with_model(head, endpoint, body, upstream_model)
        timeouts = plane.timeouts
        self._first_byte_deadline_s = (
            plane.clock() + timeouts.first_byte_s + timeouts.first_byte_per_kib_s * (len(body) / 1024)
        )
        connection.send(self, answers.request_head(head, target, pool, self, len(body)), body)

    # --- Receiver: what the upstream connection tells ------------------------------------------------

    def on_answer_head(self, head: ResponseHead) -> None:
        self._answer_head = head  # held until the first body byte: see DESIGN, hung engines

    def on_answer_body(self, chunk: bytes) -> None:
        if self.is_committed:
            self._has_progressed = True
            self.record.bytes_out += len(chunk)
            self._connection.write_on(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked else chunk)
        else:
            self._take_first(chunk)

    def on_answer_end(self) -> None:
        self._upstream = None
        if not self.is_committed:
            self._take_first(b"")
        if self._held_chunks is not None:
            self._is_held_whole = True
        else:
            self._complete()

    def on_answer_failed(self, reason: Reason) -> None:
        connection, self._upstream = self._upstream, None
        self._held_chunks = None
        if not self.is_committed and reason is Reason.TRUNCATED:
            reason = Reason.RESET
        # The backend closed an idle connection as we wrote to it: that says nothing about it.
        self._is_stale = connection is not None and connection.was_idle and not connection.has_answered
        self._end_attempt(reason)

    def _take_first(self, chunk: bytes) -> None:
        """The first body byte, or an end without any: pass the answer on, or hold it and try elsewhere."""
        if self._held_chunks is not None:
            self._held_chunks.append(chunk)
            return
        head = self._answer_head
        assert head is not None
        if self._may_retry and may_succeed_elsewhere(head.status):
            self._held_chunks = [chunk]
            self._is_held_whole = False
            if self._upstream is not None:
                self._upstream.pause()
            self._end_attempt(reason_of_status(head.status))
        else:
            self._commit(head, chunk)

    def _commit(self, head: ResponseHead, chunk: bytes) -> None:
        """The point of no return: the head and the first bytes go to the client."""
        plane, record, lease, connection = self._plane, self.record, self._lease, self._connection
        assert lease is not None
        now_s = plane.clock()
        attempt_ttft_s = now_s - self._attempt_began_s
        self._waited_s += attempt_ttft_s
        record.status = head.status
        record.ttft_s = now_s - record.started_s
        record.overhead_s = record.ttft_s - self._waited_s
        self.is_committed = True
        self._progress_s = now_s
        is_http_10 = self._head is not None and self._head.is_http_10
        if head.length is None and is_http_10:
            self._keeps_alive = False
        self._is_chunked = head.length is None and not is_http_10
        self._free_body()
        if head.status < 400:
            self._untold_ttft_s = attempt_ttft_s
        if connection.paused_since_s is not None and self._upstream is not None:
            self._upstream.pause()
        first = b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked and chunk else chunk
        record.bytes_out = len(chunk)
        connection.write(
            answers.answer_head(head, self, lease.candidate if plane.exposes_routing else None) + first
        )

    def _complete(self) -> None:
        if self._is_chunked:
            self._connection.write(b"0\r\n\r\n")
        self._end_attempt(Reason.COMPLETED)

    def _end_attempt(self, reason: Reason) -> None:
        """To whoever waits; when nobody had to, a relayed answer is done, and a failed try moves on."""
        if self._ended is not None:
            if not self._ended.done():
                self._ended.set_result(reason)
        elif self.is_committed:
            try:
                self._close_answer(reason)
            finally:
                self._settle(_CLIENT_LEFT)
                self._finish()
        elif self._task is None:  # else an answer is held already: what comes after that verdict is no other
            self._task = self._plane.loop.create_task(self._run(reason))

    # --- ends ----------------------------------------------------------------------------------------

    def _close_answer(self, reason: Reason) -> None:
        """After the last byte: what came of it, and a visible cut where the answer is not whole."""
        head, record = self._answer_head, self.record
        assert head is not None
        if reason is not Reason.COMPLETED:
            refusal = attempt_failed(reason)
            record.error_code = refusal.code
            self._settle(Outcome.of(reason))
            if head.is_event_stream and self._is_chunked and not head.is_encoded:
                # The blank line first: the event before it may have been cut in its middle.
                event = b"\n\ndata: %b\n\n" % refusal.body()
                self._connection.write(b"%x\r\n%b\r\n" % (len(event), event))
            self._keeps_alive = False
            self._connection.cut()
        outcome = Outcome.of(reason_of_status(head.status) if reason is Reason.COMPLETED else reason)
        record.outcome = outcome
        self._settle(outcome)

    def _refuse(self, refusal: Refusal) -> None:
        """Answers with an error of the gateway's own; on a connection that is gone, only notes it."""
        record = self.record
        record.error_code = refusal.code
        record.outcome = _outcome_of_refusal(refusal.status)
        if refusal.closes:
            self._keeps_alive = False
        if not self.is_committed:
            self._answer(answers.LocalAnswer(refusal.status, refusal.body(), refusal.headers))
        else:
            self._connection.cut()

    def _fail_inside(self) -> None:
        """A mistake in the gateway itself costs this request, and nothing else."""
        self._refuse(Refusal(500, "internal_error", "The gateway failed.", closes=True))

    def _answer(self, answer: answers.LocalAnswer) -> None:
        self.is_committed = True
        self.record.status = answer.status
        self.record.bytes_out = len(answer.body)
        if self.record.outcome is None:
            self.record.outcome = SUCCESS
        if not self._connection.transport.is_closing():
            self._connection.write(answers.local_answer(answer, self))

    def _settle(self, outcome: Outcome) -> None:
        """Lets go of the backend: the upstream is closed if it still works for us, the lease given back."""
        if (upstream := self._upstream) is not None:
            self._upstream = None
            upstream.abandon()
        self._held_chunks = None
        if (lease := self._lease) is not None:
            self._lease = None
            if not self.is_committed:
                self._waited_s += self._plane.clock() - self._attempt_began_s
            candidate = lease.candidate
            record = self.record
            record.cluster, record.tier, record.backend = (
                candidate.cluster,
                candidate.tier,
                candidate.backend.id,
            )
            record.spill_reason = candidate.reason if candidate.tier != record.preferred_tier else None
            self._plane.store.release(lease)
            self._plane.apply(AttemptFinished(candidate.backend.id, outcome, self._untold_ttft_s))

    def _free_body(self) -> None:
        """From here on nothing is repeated: a long stream need not keep its request."""
        self._plane.give_back_bytes(len(self._body))
        self._body = b""

    def _finish(self) -> None:
        plane = self._plane
        if self not in plane.exchanges:
            return
        plane.exchanges.discard(self)
        self._free_body()
        self.record.duration_s = plane.clock() - self.record.started_s
        plane.telemetry.record(self.record)
        self._connection.exchange_ended(self._keeps_alive)

    # --- called from outside -------------------------------------------------------------------------

    def client_left(self) -> None:
        """The downstream connection is gone: so is the work, at once."""
        if self._task is None:
            self._leave()
        else:
            self._task.cancel()
            # A task that has not begun when it is cancelled never runs its own `finally`.
            self._task.add_done_callback(lambda _: self._leave())

    def _leave(self) -> None:
        if self in self._plane.exchanges:
            self.record.outcome = _CLIENT_LEFT
            self._settle(_CLIENT_LEFT)
            self._finish()

    def pause(self) -> None:
        """The client reads slower than the backend sends."""
        if self.is_committed and self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        self._has_progressed = True
        if self.is_committed and self._upstream is not None:
            self._upstream.resume()

    def stop(self, reason: Reason) -> None:
        """Ends the attempt that runs, from outside: a deadline has passed, or the gateway shuts down."""
        if (upstream := self._upstream) is not None:
            self._upstream = None
            upstream.abandon()
            self._end_attempt(reason)

    def check(self, now_s: float) -> None:
        """Looks at the deadlines. Called a few times a second, so that no byte has to set a timer."""
        if self._upstream is None:
            return  # connecting has its own deadline; so has waiting for the store
        timeouts = self._plane.timeouts
        if now_s >= self._total_deadline_s:
            self.stop(Reason.TOTAL_TIMEOUT)
        elif not self.is_committed:
            if now_s >= self._first_byte_deadline_s and self._held_chunks is None:
                self.stop(Reason.FIRST_BYTE_TIMEOUT)
        elif self._connection.paused_since_s is not None:
            if self._connection.is_stuck(now_s):
                self._connection.transport.abort()
        elif self._has_progressed:
            self._has_progressed = False
            self._progress_s = now_s
            if self._untold_ttft_s is not None and self._lease is not None:
                # A long answer: routing should not learn of its first byte only at its end.
                self._plane.apply(FirstByteSeen(self._lease.candidate.backend.id, self._untold_ttft_s))
                self._untold_ttft_s = None
        elif now_s - self._progress_s > timeouts.stall_s:
            self.stop(Reason.STALL_TIMEOUT)

    @property
    def is_chunked(self) -> bool:
        return self._is_chunked

    @property
    def keeps_alive(self) -> bool:
        return self._keeps_alive

    @property
    def connection(self) -> DownstreamConnection:
        return self._connection

    def __repr__(self) -> str:
        stage = "answering" if self.is_committed else "waiting" if self._upstream else "planning"
        return f"<Exchange {self.record.request_id} {stage} at {self._lease}>"


def _outcome_of_refusal(status: int) -> Outcome:
    """Refused by the gateway: the caller's fault, nobody's (no room), or a backend's that failed."""
    if status in (502, 504):
        return Outcome.of(Reason.SERVER_ERROR)
    return Outcome.of(Reason.CLIENT_ERROR if status not in (429, 503) else Reason.REFUSED)
