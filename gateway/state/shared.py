"""StateStore shared by a fleet: local admission inside a grant, and one exchange at a time with the fleet.

A tick every 50 ms says what is used, gives back what is idle and asks for what the arrivals need; without
news there is only a heartbeat a second. A request that finds no slot here joins the next exchange before it
spills, so a spill means that the whole fleet had no slot. Nobody waits for the wire longer than one deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from secrets import token_hex
from typing import Protocol

import msgspec

from gateway.core.fleet import ClosingShared, Event, LatencyHeard, ShareClosing, ShareOpening
from gateway.core.latency import LatencySummary
from gateway.core.model import Candidate, Plan
from gateway.ports import NO_CAPS, Clock, Lease, RoomWatcher, StoreHealth
from gateway.state import wire
from gateway.state.alarm import Alarm
from gateway.state.circuit_news import CircuitNews, opening_heard
from gateway.state.drain_marks import DrainMarks
from gateway.state.grants import GrantBook
from gateway.state.keys import Keys, NewsKind
from gateway.state.messages import Ask, Message, Served, Wanting

log = logging.getLogger(__name__)

BUSY_TICK_S = 0.05
IDLE_TICK_S = 1.0
# Requests that need a slot gather for so long, so that however many they are they cost few exchanges.
MIN_GAP_S = 0.002
# Past this an exchange has failed. A request waits for at most one that fails.
DEADLINE_S = 0.1
FIRST_DEADLINE_S = 1.0
# Who was told "nobody has a slot" asks again so often, for a while, before it spills.
ASK_AGAIN_S = 0.002
# A slot that has just come free elsewhere is on its way through the store: that takes the exchange under way
# there and one more, and as much for ours. 3 of them were too few by benchmarks/fleet, `spills`.
GRACE_IN_EXCHANGES, MAX_GRACE_S = 5.0, 0.025
# Where another gateway is known to hold an idle slot it has been told to give it back, and this is waited.
RECALL_PATIENCE_S = 0.05
EXCHANGE_KEEP = 0.8
# When the store is back, all must have told what they hold before anybody gets what nobody seems to hold: the
# longest back-off and the longest try together stay below TTL_S.
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.05, 1.0
# Who fails again so soon after it had recovered goes on with longer back-offs.
STEADY_S = 10.0
MAX_ASKS = 256
CANCEL_AGAIN_S = 0.05


_TIER = attrgetter("tier")


class LinkFailed(Exception):
    """The store could not be reached, did not answer in time, or refused. Its text is fit for logs."""

    def __init__(self, reason: str, *, is_timeout: bool = False) -> None:
        super().__init__(reason)
        self.is_timeout = is_timeout


class Link(Protocol):
    """The wire under a SharedStore."""

    async def exchange(self, keys: Sequence[str], payload: bytes, deadline_s: float) -> bytes:
        """Runs lua/exchange.lua once. Raises LinkFailed; then it may have been run, or not."""

    def news(self) -> AsyncGenerator[bytes, None]:
        """The messages of the fleet's channel, as long as the connection lasts. Raises LinkFailed."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Company:
    """What a SharedStore works with. `draw` is uniform in [0, 1); `apply` tells the fleet what others said.

    `latencies` tells what this gateway saw of each backend since it was asked last.
    """

    clock: Clock
    draw: Callable[[], float]
    apply: Callable[[Event], None]
    latencies: Callable[[], Mapping[str, LatencySummary]]
    observe_exchange: Callable[[float, bool], None]


class _Waiting:
    """A request that waits for the fleet's word."""

    __slots__ = ("ask", "future", "refused_s")

    def __init__(self, ask: Ask, future: asyncio.Future[Candidate | None]) -> None:
        self.ask = ask
        self.future = future
        self.refused_s: float | None = None  # when it was told for the first time that nobody has a slot


class SharedStore:
    """One gateway's side of the fleet's leases."""

    def __init__(
        self,
        link: Link,
        fleet: str,
        company: Company,
        expected_gateways: int = 1,
        gateway_id: str | None = None,
    ) -> None:
        """`gateway_id` is for a simulation, which has to be the same each time."""
        self._link = link
        self._keys = Keys(fleet)
        self._company = company
        self._clock = company.clock
        # New at every start: who comes back from the dead writes nobody else's fields.
        self.gateway_id = gateway_id if gateway_id is not None else token_hex(8)
        self._book = GrantBook(expected_gateways)
        self._drains = DrainMarks()
        self._circuits = CircuitNews()
        self._asks: list[_Waiting] = []
        self._watcher: RoomWatcher | None = None
        self._told_wants: set[str] = set()  # backends that the fleet knows somebody waits for here
        self._wake = Alarm()
        self._tasks: list[asyncio.Task[None]] = []
        self._started_exchange_s = float("-inf")
        self._exchange_s = 0.0  # what one takes, of late
        self._latency_due_s = float("-inf")
        self._is_stopping = False
        self._is_failing = False
        self._strikes = 0
        self._backoff_s = 0.0
        self._recovered_s = float("-inf")
        self._degraded_since_s: float | None = None
        self._trouble = ""

    # --- StateStore: the request path ----------------------------------------------------------------

    def watch(self, watcher: RoomWatcher) -> None:
        self._watcher = watcher

    def wants_changed(self) -> None:
        if not self._told_wants and self._wants(self._clock()):
            self._wake.set()  # later ones are told with the next tick, or when a slot comes free

    def lease_now(self, plan: Plan) -> Lease | None:
        candidate = self._book.take(plan.candidates, self._clock())
        return Lease(candidate) if candidate is not None else None

    async def lease(self, plan: Plan) -> Lease | None:
        # Tier by tier: only when all of the fleet has no slot in one may a request spill to the next.
        for _, group in groupby(plan.candidates, key=_TIER):
            candidate = await self._lease_among(tuple(group))
            if candidate is not None:
                return Lease(candidate)
        return None

    async def _lease_among(self, candidates: Sequence[Candidate]) -> Candidate | None:
        now_s = self._clock()
        candidate = self._book.take(candidates, now_s)
        if candidate is None and (ask := self._to_ask(candidates, now_s)) is not None:
            candidate = await self._ask(ask)
        return candidate if candidate is not None else self._book.take_here(candidates, self._clock())

    def release(self, lease: Lease) -> None:
        if not lease.is_released:
            lease.is_released = True
            self._give_back(lease.candidate)

    def release_permit(self, lease: Lease) -> None:
        if lease.candidate.is_probe and not lease.is_released:
            if self._book.give_back_permit(lease.candidate, self._clock()):
                self._wake.set()
            lease.candidate = replace(lease.candidate, is_probe=False)

    def leases_held(self, backend_id: str) -> int:
        slots = self._book.slots.get(backend_id)
        return slots.in_use if slots is not None else 0

    def set_limits(self, limits: Mapping[str, int], caps: Mapping[str, int] = NO_CAPS) -> None:
        self._book.set_limits(limits, caps)
        self._wake.set()

    # --- StateStore: the rest ------------------------------------------------------------------------

    async def start(self) -> None:
        """Joins the fleet, or finds after one deadline that it can't be reached: then it keeps trying."""
        await self._exchange(FIRST_DEADLINE_S)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._listen())]

    async def stop(self) -> None:
        """Leaves the fleet: what is held here is free at once."""
        self._is_stopping = True
        while running := [task for task in self._tasks if not task.done()]:
            # More than once: redis-py 8.1 at times swallows a cancellation and returns as if there was none.
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
        self._tasks = []
        self._let_go_of_waiting(self._asks)
        with contextlib.suppress(LinkFailed):
            message = self._book.compose((), self._clock())
            await self._link.exchange(*self._on_wire(message, is_leaving=True), DEADLINE_S)
        await self._link.close()

    def health(self) -> StoreHealth:
        since_s = self._degraded_since_s
        return StoreHealth(
            is_degraded=since_s is not None,
            detail=self._trouble if since_s is not None else "",
            gateways=self._book.gateways,
        )

    def share_circuit(self, effect: ShareOpening | ShareClosing) -> None:
        self._circuits.note(effect, self._clock())
        self._wake.set()

    def assume_drain(self, name: str, for_s: float) -> None:
        self._drains.assume(name, for_s, self._clock())

    def share_drain(self, name: str, for_s: float | None) -> None:
        self._drains.mark(name, for_s, self._clock())
        self._wake.set()

    # --- asking --------------------------------------------------------------------------------------

    def _to_ask(self, candidates: Sequence[Candidate], now_s: float) -> Ask | None:
        # Once it stops no word comes any more.
        return None if self._is_stopping else self._book.to_ask(candidates, now_s)

    async def _ask(self, ask: Ask) -> Candidate | None:
        waiting = _Waiting(ask, asyncio.get_running_loop().create_future())
        self._asks.append(waiting)
        self._wake.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            # Served and cancelled in the same turn: the slot is ours to give back.
            if waiting.future.done() and not waiting.future.cancelled():
                candidate = waiting.future.result()
                if candidate is not None:
                    self._give_back(candidate)
            raise

    def _give_back(self, candidate: Candidate) -> None:
        is_urgent = self._book.give_back(candidate, self._clock())
        if self._watcher is not None:
            self._watcher.on_room(candidate.backend.id)
        if is_urgent:
            self._wake.set()

    def _settle(self, waiting: _Waiting, served: Served, now_s: float) -> None:
        """Tells the request, unless it is to ask again or has gone."""
        future, candidate = waiting.future, served.candidate
        if future.done():
            if candidate is not None:
                self._give_back(candidate)
            return
        if waiting.refused_s is None:
            waiting.refused_s = now_s
        if candidate is not None or now_s - waiting.refused_s >= self._patience_s(served):
            future.set_result(candidate)
        else:
            asyncio.get_running_loop().call_later(ASK_AGAIN_S, self._ask_again, waiting)

    def _patience_s(self, served: Served) -> float:
        if served.is_idle_elsewhere:
            return RECALL_PATIENCE_S
        return min(MIN_GAP_S + GRACE_IN_EXCHANGES * self._exchange_s, MAX_GRACE_S)

    def _ask_again(self, waiting: _Waiting) -> None:
        if waiting.future.done():
            return
        if self._book.is_cut_off or self._is_stopping:
            waiting.future.set_result(None)
        else:
            self._asks.append(waiting)
            self._wake.set()

    def _wants(self, now_s: float) -> tuple[Wanting, ...]:
        """Those who wait for what the fleet may have."""
        wants = self._watcher.wants() if self._watcher is not None else ()
        may_get = self._book.may_get
        return tuple(
            Wanting(want.backend_ids, want.waiting, max(now_s - want.since_s, 0.0))
            for want in wants
            if any(map(may_get, want.backend_ids))
        )

    def _tell_room(self, backend_ids: Iterable[str]) -> None:
        if self._watcher is not None:
            for backend_id in backend_ids:
                self._watcher.on_room(backend_id)

    def _let_go_of_waiting(self, waiting: Sequence[_Waiting]) -> None:
        """No word will come: they take what is here."""
        for one in waiting:
            if not one.future.done():
                one.future.set_result(None)
        self._asks = [one for one in self._asks if not one.future.done()]

    # --- the tick ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._is_stopping:
            try:
                await self._wait_until_due()
                await self._exchange(FIRST_DEADLINE_S if self._is_failing else DEADLINE_S)
            except Exception:
                # A mistake of ours must not end the heartbeat: the grants would be lost with it.
                log.exception("the exchange with the store failed")
                self._lose("internal error")

    async def _wait_until_due(self) -> None:
        while True:
            is_awake = self._wake.is_set()
            if (wait_s := self._wait_s(is_awake=is_awake)) <= 0.0:
                break
            # In degraded mode nobody is in a hurry: only the back-off counts.
            if is_awake or self._is_failing:
                await asyncio.sleep(wait_s)
            else:
                await self._wake.nap(self._doze_s)
        self._wake.clear()

    def _wait_s(self, *, is_awake: bool) -> float:
        """How long until the next exchange is due, as things are."""
        return self._started_exchange_s + self._pause_s(is_awake) - self._clock()

    def _doze_s(self) -> float:
        """How long nobody need look whether there is news."""
        return min(self._wait_s(is_awake=False), BUSY_TICK_S)

    def _pause_s(self, is_awake: bool) -> float:
        if self._is_failing:
            return self._backoff_s
        if is_awake:
            return MIN_GAP_S
        return BUSY_TICK_S if self._book.has_news() or self._told_wants else IDLE_TICK_S

    async def _exchange(self, deadline_s: float) -> None:
        asks, self._asks = self._asks[:MAX_ASKS], self._asks[MAX_ASKS:]
        asks = [waiting for waiting in asks if not waiting.future.done()]
        try:
            await self._carry(asks, deadline_s)
        except LinkFailed as failed:
            self._company.observe_exchange(self._clock() - self._started_exchange_s, False)
            self._missed(failed, asks, deadline_s)
        except BaseException:
            # Cancelled, or a mistake of ours: nobody may be left waiting for an answer that never comes.
            self._let_go_of_waiting(asks)
            raise

    async def _carry(self, asks: list[_Waiting], deadline_s: float) -> None:
        """Raises LinkFailed."""
        sent_s = self._started_exchange_s = self._clock()
        wants = self._wants(sent_s)
        wanted = {backend_id for want in wants for backend_id in want.backend_ids}
        if no_more := sorted(self._told_wants - wanted):
            wants = (*wants, Wanting(tuple(no_more), 0, 0.0))
        self._told_wants = wanted
        message = self._book.compose(tuple(waiting.ask for waiting in asks), sent_s, wants)
        raw = await self._link.exchange(*self._on_wire(message), deadline_s)
        now_s = self._clock()
        if self._is_failing and now_s - sent_s > DEADLINE_S:
            # It had more time because it had to connect; the next one would be too late again.
            raise LinkFailed("slow answers")
        self._company.observe_exchange(now_s - sent_s, True)
        self._took(message, wire.decode(raw), asks, now_s)

    def _took(self, message: Message, reply: wire.Reply, asks: list[_Waiting], now_s: float) -> None:
        self._exchange_s += (now_s - message.sent_s - self._exchange_s) * (1 - EXCHANGE_KEEP)
        served = self._book.absorb(message, reply.answer, now_s)
        if reply.answer.status != "ok":
            # The fleet does not know us: whoever asked is carried by the full report that follows at once.
            self._asks = asks + self._asks
            self._wake.set()
            return
        self._recovered(now_s)
        for waiting, one in zip(asks, served, strict=True):
            self._settle(waiting, one, now_s)
        for want in message.wants:
            self._tell_room(want.backend_ids)
        if self._asks:
            self._wake.set()
        self._circuits.told()
        for event in (*self._drains.heard(reply.drains_left_ms, now_s), *reply.openings):
            self._company.apply(event)
        for backend_id, summary in reply.latencies.items():
            self._company.apply(LatencyHeard(backend_id, summary))

    def _on_wire(self, message: Message, *, is_leaving: bool = False) -> tuple[list[str], bytes]:
        latency = None
        if message.sent_s >= self._latency_due_s:
            self._latency_due_s = message.sent_s + IDLE_TICK_S
            latency = self._company.latencies()
        openings, closings = self._circuits.to_tell(message.sent_s)
        extras = wire.Extras(
            openings=openings,
            closings=closings,
            is_leaving=is_leaving,
            drains=self._drains.to_tell(message.sent_s),
            known_drains=self._drains.known(message.sent_s) if message.is_full else (),
            latency=latency,
        )
        return wire.encode(self._keys, self.gateway_id, message, extras)

    # --- failing and coming back ---------------------------------------------------------------------

    def _missed(self, failed: LinkFailed, asks: list[_Waiting], deadline_s: float) -> None:
        stood_still = failed.is_timeout and self._clock() - self._started_exchange_s > 2 * deadline_s
        if stood_still and not self._is_failing:
            # It was this process that stood still, not the store: what it holds may be gone, so it asks anew.
            self._book.void()
            self._asks = asks + self._asks
            self._wake.set()
            return
        self._lose(str(failed))
        self._let_go_of_waiting([*asks, *self._asks])

    def _lose(self, reason: str) -> None:
        self._book.cut_off()
        self._tell_room(tuple(self._book.slots))  # a share may be more than the grant
        if not self._is_failing and self._clock() - self._recovered_s > STEADY_S:
            self._strikes = 0
        self._is_failing = True
        ceiling_s = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2**self._strikes)
        self._strikes = min(self._strikes + 1, 16)
        self._backoff_s = max(ceiling_s * self._company.draw(), MIN_GAP_S)
        self._trouble = reason
        if self._degraded_since_s is None:
            self._degraded_since_s = self._clock()
            log.warning("store: degraded, every gateway keeps its share of the limits (%s)", reason)

    def _recovered(self, now_s: float) -> None:
        self._is_failing = False
        if self._degraded_since_s is not None:
            self._recovered_s = now_s
            log.warning("store: back after %.1f s", now_s - self._degraded_since_s)
            self._degraded_since_s = None

    # --- news ----------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while not self._is_stopping:
            try:
                async with contextlib.aclosing(self._link.news()) as news:
                    async for raw in news:
                        self._hear(raw)
            except LinkFailed:
                pass  # the exchanges fail too, and say so
            except Exception:
                log.exception("listening to the store's news failed")
            await asyncio.sleep(MIN_BACKOFF_S + MAX_BACKOFF_S * self._company.draw())

    def _hear(self, raw: bytes) -> None:
        try:
            kind, sender, *rest = msgspec.msgpack.decode(raw)
        except (msgspec.DecodeError, TypeError, ValueError):
            log.debug("store: news that is not of this version")
            return
        if sender == self.gateway_id:
            return
        if kind == NewsKind.RECALL:
            if self._book.recall(map(self._keys.backend_of, rest[0]), self._clock()):
                self._wake.set()
        elif kind == NewsKind.FREED:
            if self.gateway_id in rest[0]:
                self._wake.set()
        elif kind in (NewsKind.DRAINS, NewsKind.FORGOTTEN):
            self._wake.set()
        elif kind == NewsKind.CIRCUITS:
            openings, closings = rest
            for opening in openings:
                if (event := opening_heard(sender, tuple(opening))) is not None:
                    self._company.apply(event)
            for backend_id in closings:
                self._company.apply(ClosingShared(sender, backend_id))
