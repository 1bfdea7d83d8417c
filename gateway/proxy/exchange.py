"""One request's life, in order: `start`, `on_first_byte`, `on_attempt_ended`, `_end`.

The usual exchange finds a slot and an idle connection at once: it is on its way before `start` returns, and
callbacks carry it to its end. Only who has to wait for a slot, the first or that of another try, gets a
coroutine (`_run`). What happens at a backend is an Attempt's: it tells, the exchange decides. While two
attempts run at once, their race is a Hedge's (hedging.py).

Invariants:
- every attempt is settled, however the exchange ends;
- nothing reaches the client before the first body byte (`is_committed`), so any attempt before it may be
  repeated elsewhere; after it nothing is ever repeated, and one attempt at most runs;
- between a wait and an attempt the fleet is asked again, and an attempt that is not the first is paid for;
- an answer that was cut at the backend is cut at the client: it never looks whole.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway.core.model import SUCCESS, Outcome, Plan, Reason, RequestFacts, ShedReason
from gateway.core.retries import may_succeed_elsewhere, reason_of_status
from gateway.ports import Lease, RequestRecord, Retry
from gateway.proxy import answers, bodies
from gateway.proxy.attempt import Attempt
from gateway.proxy.client_keys import rate_limited, residency_of
from gateway.proxy.errors import Refusal, attempt_failed, shed
from gateway.proxy.hedging import Hedge, hedge_of
from gateway.proxy.large_bodies import LARGE_BODY_BYTES
from gateway.proxy.route import Route
from gateway.proxy.tracing import upstream_lines

if TYPE_CHECKING:
    from gateway.core.admission import KeyUse
    from gateway.proxy.downstream import DownstreamConnection
    from gateway.proxy.plane import DataPlane
    from gateway.proxy.pool import UpstreamPool
    from gateway.proxy.request_reader import Request

log = logging.getLogger(__name__)

_COMPLETED = Reason.COMPLETED  # once: see attempt.py
_CLIENT_LEFT = Outcome.of(Reason.CLIENT_LEFT)
_REFUSED = Outcome.of(Reason.REFUSED)
_OVERTAKEN = Outcome.of(Reason.OVERTAKEN)
_new = tuple.__new__  # see request_reader.py


class Exchange:
    """One request and its answer on a downstream connection. The owner of its attempts."""

    __slots__ = (
        "_attempt",
        "_body",
        "_endpoint",
        "_facts",
        "_failed",
        "_head",
        "_hedge",
        "_key",
        "_looking",
        "_plane",
        "_refusal",
        "_task",
        "_waited_s",
        "connection",
        "is_chunked",
        "is_committed",
        "keeps_alive",
        "record",
        "route",
        "settings",
    )

    # What a tunnel does in another way: see tunnel.py.
    attempt_type = Attempt
    may_hedge = True

    def __init__(self, plane: DataPlane, connection: DownstreamConnection, request: Request) -> None:
        head, endpoint, self._body, received_s, self._refusal = request
        self._plane = plane
        self.settings = plane.settings  # until its end, whatever is reloaded meanwhile
        self._head = head
        self._endpoint = endpoint
        self.route: Route = None  # type: ignore[assignment]  # begins with the first plan
        self._attempt: Attempt | None = None
        self._hedge: Hedge | None = None
        self._key: KeyUse | None = None  # of whom it is in flight
        self._failed: Reason | None = None  # how the one before this attempt did
        self._task: asyncio.Task[None] | None = None  # waits for a slot
        self._facts: bodies.BodyFacts | None = None  # of a large body, once they are known
        self._looking: asyncio.Task[None] | None = None  # until then
        self._waited_s = 0.0  # for backends that did not answer in the end
        self.connection = connection
        self.keeps_alive = head is not None and head.keeps_alive
        self.is_chunked = False
        self.is_committed = False
        self.record = record = RequestRecord(
            plane.request_id(head),
            head.method.decode() if head is not None else "",
            endpoint.name if endpoint is not None else self._path_shown(),
            connection.peer,
            received_s,
        )
        record.bytes_in = len(self._body)
        if head is not None and head.key is not None:
            record.key = head.key.name
        if plane.tracing is not None:
            record.trace = plane.tracing.begin(head.forward if head is not None else b"")

    def _path_shown(self) -> str:
        """Of a request that was refused before, or because, its endpoint was looked for."""
        return self.settings.paths.shown(self._head.path) if self._head is not None else ""

    # --- the way to a backend ------------------------------------------------------------------------

    def start(self) -> None:
        """Refused, or answered by the gateway itself; else planned, and on its way if there is a slot."""
        endpoint, plane = self._endpoint, self._plane
        plane.exchanges.add(self)
        try:
            if self._refusal is not None:
                raise self._refusal
            if self.record.key is not None and self._key is None:
                self._admit()
            if endpoint is not None and endpoint.local_path is not None:
                answer = answers.local(endpoint, plane, self._key)
                self.record.outcome = SUCCESS
                self._answer(answer)
            elif len(self._body) > LARGE_BODY_BYTES and self._is_to_be_looked_at():
                self._looking = plane.loop.create_task(self._look())
                return
            else:
                clock = plane.clock  # called as a method, it would be looked for in the class first
                now_s = clock()
                plan = self._make_plan(now_s)
                lease = self.route.lease_now(plan)
                if lease is not None:
                    self._try(lease, now_s)
                else:
                    self._task = plane.loop.create_task(self._run(plan))
                return
        except bodies.NeedsTime:
            self._looking = plane.loop.create_task(self._look())
            return
        except Refusal as refusal:
            self._refuse(refusal)
        except Exception:
            log.exception("exchange %s failed", self.record.request_id)
            self._fail_inside()
        self._end()

    def _is_to_be_looked_at(self) -> bool:
        """Whether its body, which is too large to be read while everybody else waits, is to be read."""
        return (
            self._facts is None
            and self._head is not None
            and self._endpoint is not None
            and bodies.is_read(self._head, self._endpoint)
        )

    async def _look(self) -> None:
        """Its body is read elsewhere; with what that says the exchange starts once more."""
        head, endpoint = self._head, self._endpoint
        assert head is not None and endpoint is not None
        try:
            large = self._plane.large_bodies
            facts = await large.read(head.content_type, self._body, is_json=head.is_json)
            self._facts = bodies.with_header(head, endpoint, facts)
        except Refusal as refusal:
            self._refusal = refusal
        except Exception:
            log.exception("exchange %s failed", self.record.request_id)
            self._fail_inside()
            self._end()
            return
        self._looking = None
        self.start()

    def _admit(self) -> None:
        """Counts the request as its owner's, if he may send one more. Raises Refusal."""
        key = self._head.key if self._head is not None else None
        assert key is not None
        too_much = key.admit(self._plane.clock(), self._plane.gateways)
        if too_much is not None:
            raise rate_limited(too_much)
        self._key = key

    def _make_plan(self, now_s: float) -> Plan:
        """Reads the body's facts and asks the core. Raises Refusal, NeedsTime."""
        assert self._head is not None and self._endpoint is not None
        facts = self._facts or bodies.read_facts(self._head, self._endpoint, self._body, is_hurried=True)
        plane, record = self._plane, self.record
        model, stream, _ = facts
        record.model, record.stream = model, stream
        if self._key is not None and not self._key.rules.allows(model):
            # As if nobody served it: what others may ask for is not told either.
            raise shed(ShedReason.MODEL_NOT_FOUND, model)
        residency = None
        if self._key is not None or self._head.residency is not None:
            residency = residency_of(self._head, self._key, plane.view.residencies)
        draw = plane.draw
        known = _new(RequestFacts, (model, draw(), stream, len(self._body), residency))
        self.route = route = Route(plane, self.settings, record, known)
        if self._head.deadline is not None:
            route.heed_deadline(self._head, now_s)
        plan = route.plan(now_s)
        record.route_model = plan.route_model
        record.preferred_tier = plan.preferred_tier
        return plan

    async def _run(self, plan: Plan | None, failed: Reason | None = None) -> None:
        """Waits for a slot: the first one, or one elsewhere after an attempt that `failed`."""
        try:
            lease = await self.route.lease(plan, failed)
            self._task = None
            if lease is not None:
                self._try(lease, self._plane.clock(), failed)
                return
            if (reason := failed or self._failed) is not None:
                self._make_do(reason)
                return
            self.route.note_passed_over(None)
            raise self._no_room()
        except Refusal as refusal:
            self._refuse(refusal)
        except Exception:
            log.exception("exchange %s failed", self.record.request_id)
            self._fail_inside()
        self._end()

    def _try(self, lease: Lease, now_s: float, failed: Reason | None = None) -> None:
        """The first attempt, or the next after one that `failed` or was not to be tried any more."""
        plane, before = self._plane, self._attempt
        if before is None:
            count = plane.extra.exchange_began
            count(now_s)
            if lease.candidate.tier != self.record.preferred_tier:
                self.route.note_passed_over(lease.candidate)
        elif failed is not None:
            self._settle(Outcome.of(failed))
            self._failed = failed
            self.record.retries += (Retry(before.candidate.cluster, failed),)
            plane.extra.retried(now_s)
        self._attempt = attempt = self.new_attempt(lease, now_s)
        if before is None and self.settings.hedge is not None and self.may_hedge:
            self._hedge = hedge_of(self, plane, attempt)
        self.send(attempt)

    def new_attempt(self, lease: Lease, now_s: float) -> Attempt:
        """It owns the lease from here on."""
        self.record.attempts += 1
        route = self.route
        route.tried += (lease.candidate,)
        plane, trace = self._plane, self.record.trace
        make = self.attempt_type
        attempt = make(plane, self, lease, now_s, route.facts.body_bytes)
        if trace is not None and plane.tracing is not None:
            attempt.trace = plane.tracing.attempt(trace, lease.candidate, now_s)
        return attempt

    def send(self, attempt: Attempt) -> None:
        """Raises Refusal."""
        candidate = attempt.candidate
        pool = self._plane.pools.get(candidate.backend.id)
        if pool is None:
            attempt.fail(Reason.CONNECT_FAILED)  # its backend left meanwhile
            return
        head, endpoint, body = self._head, self._endpoint, self._body
        assert head is not None and endpoint is not None
        target = head.target
        if candidate.upstream_model is not None:
            upstream_model = candidate.upstream_model
            target, body = bodies.with_model(head, endpoint, body, upstream_model, self._facts)
        trace, forward = self.record.trace, head.forward
        if trace is not None and attempt.trace is not None:
            forward = upstream_lines(trace, attempt.trace)
        attempt.begin(pool, self._head_for(pool, target, forward, len(body)), body)

    def _head_for(self, pool: UpstreamPool, target: bytes, forward: bytes, length: int) -> bytes:
        assert self._head is not None
        return answers.request_head(
            self._head, forward, target, pool, self, b"content-length: %d\r\n" % length
        )

    # --- AttemptOwner: what an attempt tells -----------------------------------------------------------

    def on_first_byte(self, attempt: Attempt, chunk: bytes) -> None:
        """Passes the answer on, unless it says broken or full and somebody else may do better."""
        assert attempt.answer_head is not None
        status = attempt.answer_head.status
        if status >= 400 and may_succeed_elsewhere(status):
            reason = reason_of_status(status)
            if self._hedge is not None and self._hedge.rival_of(attempt) is not None:
                self.on_attempt_ended(attempt, reason)
                return
            plan = self.route.plan_retry(reason, self._plane.clock())
            if plan is not None:
                attempt.hold(chunk)
                self._try_elsewhere(attempt, reason, plan)
                return
        self._commit(attempt, chunk)

    def on_attempt_ended(self, attempt: Attempt, reason: Reason) -> None:
        """After the first byte that is the end of the exchange; before it the next may try."""
        if self.is_committed:
            outcome = _CLIENT_LEFT
            try:
                outcome = self._close_answer(attempt, reason)
            finally:
                self._end(outcome)
            return
        self._try_elsewhere(attempt, reason)

    def _try_elsewhere(self, attempt: Attempt, reason: Reason, plan: Plan | None = None) -> None:
        """The one that runs beside it runs on alone; else, by `plan` or a new one, the next gets its turn."""
        if self._hedge is not None and (rival := self._hedge.leave(attempt, reason)) is not None:
            self._go_on_with(rival, attempt)
            return
        failed: Reason | None = reason
        if not attempt.holds_answer:  # an answer held is given up only for another attempt
            self._settle(Outcome.of(reason))
        if reason is Reason.REFUSED:  # nothing was sent: as if it had not been tried
            failed = None
            self.route.take_back(attempt.candidate)
        self._task = self._plane.loop.create_task(self._run(plan, failed))

    def _go_on_with(self, attempt: Attempt, other: Attempt) -> None:
        """Of two attempts `other` has left."""
        self._attempt = attempt
        self._waited_s += max(attempt.began_s - other.began_s, 0.0)

    def on_attempt_fault(self, attempt: Attempt) -> None:
        self._fail_inside()
        self._end()

    # --- the answer ----------------------------------------------------------------------------------

    def _make_do(self, reason: Reason) -> None:
        """Nobody else may try: the client gets the held answer as it is, or an error. Raises Refusal."""
        attempt = self._attempt
        if attempt is not None and attempt.holds_answer:
            self._commit(attempt, attempt.held_bytes())
            return
        if attempt is not None and not attempt.is_settled:
            # Its error answer was held, and broke off meanwhile: it counts as what it said it was.
            self._settle(Outcome.of(reason))
            reason = Reason.TRUNCATED
        raise self._no_room() if reason is Reason.BACKEND_FULL else attempt_failed(reason)

    def _no_room(self) -> Refusal:
        model, route = self.record.model, self.route
        is_hold_over = route.is_hold_over(self._plane.clock())
        why = ShedReason.QUEUE_TIMEOUT if is_hold_over else ShedReason.NO_CAPACITY
        return shed(why, model, self._plane.view.retry_after_s(model, route.facts.residency))

    def _commit(self, attempt: Attempt, chunk: bytes) -> None:
        """The point of no return: the head and the first bytes go to the client."""
        plane, record, connection, head = self._plane, self.record, self.connection, attempt.answer_head
        assert head is not None
        clock = plane.clock
        now_s = clock()
        self._begin_answer()
        if self._hedge is not None and (loser := self._hedge.win(attempt)) is not None:
            self._go_on_with(attempt, loser)
        record.status = head.status
        record.ttft_s = now_s - record.started_s
        held_s = record.held.seconds if record.held is not None else 0.0
        overhead_s = record.ttft_s - self._waited_s - (now_s - attempt.began_s) - held_s
        # An attempt lets go a moment after the next one has begun: that moment is in both of their times.
        record.overhead_s = overhead_s if overhead_s > 0.0 else 0.0
        write, first = connection.write_on, chunk
        if head.length is None:
            if self._head is not None and self._head.is_http_10:
                self.keeps_alive = False
            else:
                self.is_chunked = True
                write = connection.write_chunk
                first = b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
        self._free_body()
        candidate = attempt.candidate if self.settings.exposes_routing else None
        connection.write(answers.answer_head(head, self, candidate) + first)
        attempt.relay(write, chunk, now_s, connection.write_on if self.is_chunked else None)
        if connection.paused_since_s is not None:
            attempt.pause()

    def _close_answer(self, attempt: Attempt, reason: Reason) -> Outcome:
        """After the last byte: what came of it, and a visible cut where the answer is not whole."""
        head, record = attempt.answer_head, self.record
        assert head is not None
        if reason is _COMPLETED:
            if self.is_chunked:
                self.connection.write(b"0\r\n\r\n")
            outcome = SUCCESS if head.status < 400 else Outcome.of(reason_of_status(head.status))
        else:
            outcome = Outcome.of(reason)
            refusal = attempt_failed(reason)
            record.error_code = refusal.code
            is_readable = head.is_event_stream and self.is_chunked and not head.is_encoded
            if is_readable and not attempt.lacks_done:  # what ended politely is passed on as it is
                # The blank line first: the event before it may have been cut in its middle.
                self.connection.write_chunk(b"\n\ndata: %b\n\n" % refusal.body())
            self.keeps_alive = False
            self.connection.cut()
        record.outcome = outcome
        return outcome

    def _refuse(self, refusal: Refusal) -> None:
        """Answers with an error of the gateway's own; on a connection that is gone, only notes it."""
        record = self.record
        record.error_code = refusal.code
        record.refused, record.param = refusal.cause, refusal.param
        record.outcome = refusal.outcome or _outcome_of_refusal(refusal.status)
        if refusal.closes:
            self.keeps_alive = False
        if not self.is_committed:
            self._answer(answers.LocalAnswer(refusal.status, refusal.body(), refusal.headers))
        else:
            self.connection.cut()

    def _fail_inside(self) -> None:
        """A mistake in the gateway itself costs this request, and nothing else."""
        self._refuse(Refusal(500, "internal_error", "The gateway failed.", closes=True))

    def _begin_answer(self) -> None:
        """The head is about to be written: the last moment to say that the connection ends with it."""
        self.is_committed = True
        if self._plane.is_draining and not self.connection.has_more:
            self.keeps_alive = False

    def _answer(self, answer: answers.LocalAnswer) -> None:
        self._begin_answer()
        self.record.status = answer.status
        self.record.bytes_out = len(answer.body)
        if not self.connection.transport.is_closing():
            self.connection.write(answers.local_answer(answer, self))

    # --- ends ----------------------------------------------------------------------------------------

    def _settle(self, outcome: Outcome) -> None:
        """The attempt lets go of its backend and its lease; what it did is noted."""
        attempt = self._attempt
        if attempt is None or attempt.is_settled:
            return
        record, candidate = self.record, attempt.candidate
        attempt.settle(outcome)
        if attempt.is_relayed:
            record.bytes_out = attempt.body_bytes
        else:
            self._waited_s += self._plane.clock() - attempt.began_s
        record.cluster, record.tier, record.backend = candidate.cluster, candidate.tier, candidate.backend.id
        record.spill_reason = candidate.reason if candidate.tier != record.preferred_tier else None

    def _free_body(self) -> None:
        """From here on nothing is repeated: a long stream need not keep its request."""
        self._plane.give_back_bytes(len(self._body))
        self._body = b""

    def _end(self, outcome: Outcome = _REFUSED) -> None:
        """Whatever still runs at a backend is settled as `outcome`. Ending twice is the same as once."""
        self._settle(outcome)
        if self._hedge is not None:
            self._hedge.end(outcome)
            self._hedge = None
        plane = self._plane
        exchanges, clock = plane.exchanges, plane.clock
        if self not in exchanges:
            return
        exchanges.discard(self)
        if self._key is not None:
            self._key.finished()
        self._attempt = None  # it knows its owner: a ring of the two would wait for the collector
        if self._body:
            self._free_body()
        record = self.record
        record.duration_s = clock() - record.started_s
        plane.telemetry.record(record)
        self.connection.exchange_ended(self.keeps_alive)

    # --- called from outside -------------------------------------------------------------------------

    def client_left(self) -> None:
        """The downstream connection is gone: so is the work, at once."""
        self._stop_waiting()
        self.record.outcome = _CLIENT_LEFT
        self._end(_CLIENT_LEFT)

    def pause(self) -> None:
        """The client reads slower than the backend sends."""
        if self.is_committed and self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        if self.is_committed and self._attempt is not None:
            self._attempt.resume()

    def stop(self, reason: Reason) -> None:
        """Ends from outside what runs or waits: a deadline has passed, or the gateway shuts down."""
        attempt = self._attempt
        if self._hedge is not None:
            # The second had only a part of the time that is over.
            self._hedge.end(_OVERTAKEN if reason is Reason.TOTAL_TIMEOUT else Outcome.of(reason))
        if attempt is not None and attempt.is_running:
            attempt.fail(reason)
        elif self._task is not None or self._looking is not None:
            self._stop_waiting()
            self._refuse(attempt_failed(reason))
            self._end()

    def _stop_waiting(self) -> None:
        """Cancelled, the store leaves no slot taken."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._task is not None:
            self.route.stop_waiting()
            self._task.cancel()
            self._task = None

    def check(self, now_s: float) -> None:
        """Looks at the deadlines. Called a few times a second, so that no byte has to set a timer."""
        if self._looking is not None:
            return  # that has its own deadline
        if now_s >= self.route.deadline_s:
            # A client in a hurry says nothing about the backend.
            self.stop(Reason.CLIENT_LEFT if self.route.is_own_deadline else Reason.TOTAL_TIMEOUT)
        elif self.is_committed and self.connection.paused_since_s is not None:
            self.connection.reset_if_stuck(now_s)
        elif self._attempt is not None:
            self._attempt.check(now_s)
            if self._hedge is not None:
                self._hedge.check(now_s)

    def __repr__(self) -> str:
        stage = "answering" if self.is_committed else "waiting for a slot" if self._task else "trying"
        return f"<Exchange {self.record.request_id} {stage}, {self._attempt}>"


def _outcome_of_refusal(status: int) -> Outcome | None:
    """Refused by the gateway: the caller's fault, nobody's (no room), or a defect, which is no outcome."""
    if status == 500:
        return None
    return Outcome.of(Reason.CLIENT_ERROR if status not in (429, 503) else Reason.REFUSED)
