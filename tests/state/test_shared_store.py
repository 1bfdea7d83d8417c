"""One gateway's side of the fleet: what it does while others take slots, and when the store is not there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from gateway.core.fleet import (
    ClosingShared,
    Drained,
    LatencyHeard,
    OpeningShared,
    ShareClosing,
    ShareOpening,
    Undrained,
)
from gateway.core.latency import LatencySummary
from gateway.core.model import Backend, Candidate, Plan, PlanReason, Reason
from gateway.state.grants import TTL_S
from gateway.state.keys import Keys
from gateway.state.redis import RedisLink
from gateway.state.shared import Company, LinkFailed, SharedStore
from tests.waiting import Waiting

LONG_S = 5.0


def plan_over(*backend_ids: str) -> Plan:
    """Each backend in a tier of its own."""
    seats = [
        Candidate(Backend(b, "http://b", 1), "c", f"tier-{b}", PlanReason.FIRST_CHOICE) for b in backend_ids
    ]
    return Plan(tuple(seats), seats[0].tier)


class Gateway:
    """A store, and what it told its fleet."""

    def __init__(self, link, fleet: str, expected_gateways: int = 1) -> None:
        self.events: list[object] = []
        self.latencies: dict[str, LatencySummary] = {}
        self.clock_ahead_s = 0.0
        company = Company(
            clock=lambda: time.monotonic() + self.clock_ahead_s,
            draw=lambda: 0.5,
            apply=self.events.append,
            latencies=lambda: self.latencies,
            observe_exchange=lambda seconds, went_well: None,
        )
        self.store = SharedStore(link, fleet, company, expected_gateways)

    async def take(self, requests: int, *backend_ids: str) -> list[str]:
        leases = [await self.store.lease(plan_over(*backend_ids)) for _ in range(requests)]
        return [lease.candidate.backend.id for lease in leases if lease is not None]


class BrokenLink:
    """A wire that can be cut and mended; nothing is behind it."""

    def __init__(self, behind=None) -> None:
        self.behind = behind
        self.failure: LinkFailed | None = None
        self.hangs = False
        self.keeps_next = False
        self.has_kept = asyncio.Event()
        self.calls = 0

    async def exchange(self, keys: Sequence[str], payload: bytes, deadline_s: float) -> bytes:
        self.calls += 1
        if self.keeps_next:
            self.keeps_next = False
            self.has_kept.set()
            await asyncio.Event().wait()  # until it is cancelled
        if self.hangs:
            await asyncio.sleep(deadline_s)
            raise LinkFailed("no answer in time", is_timeout=True)
        if self.failure is not None:
            raise self.failure
        return await self.behind.exchange(keys, payload, deadline_s)

    async def news(self) -> AsyncGenerator[bytes, None]:
        if self.behind is not None:
            async with aclosing(self.behind.news()) as news:
                async for message in news:
                    yield message
        raise LinkFailed("closed")

    async def close(self) -> None:
        if self.behind is not None:
            await self.behind.close()


async def until(is_so, what: str) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"not in time: {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def gateways(server, count: int, **limits: int):
    fleet = f"shared-{uuid4().hex}"
    made = [Gateway(BrokenLink(RedisLink(server.url, Keys(fleet).news)), fleet) for _ in range(count)]
    for gateway in made:
        gateway.store.set_limits(limits)
        await gateway.store.start()
    try:
        yield made
    finally:
        for gateway in made:
            await gateway.store.stop()


@asynccontextmanager
async def lonely(link, expected_gateways: int, **limits: int):
    gateway = Gateway(link, "lonely", expected_gateways)
    gateway.store.set_limits(limits)
    await gateway.store.start()
    try:
        yield gateway
    finally:
        await gateway.store.stop()


# --- together --------------------------------------------------------------------------------------------


async def test_a_request_spills_only_when_the_whole_fleet_has_no_slot(redis_server):
    async with gateways(redis_server, 2, a=3, b=9) as (one, two):
        assert await one.take(2, "a", "b") == ["a", "a"]
        assert await two.take(2, "a", "b") == ["a", "b"]


async def test_a_slot_that_comes_free_at_one_gateway_serves_the_next_request_at_another(redis_server):
    async with gateways(redis_server, 2, a=2, b=9) as (one, two):
        lease = await one.store.lease(plan_over("a"))
        assert await one.take(1, "a") == ["a"]
        for _ in range(50):
            one.store.release(lease)
            other = await two.store.lease(plan_over("a", "b"))
            assert other.candidate.backend.id == "a"
            lease, one, two = other, two, one


async def test_an_idle_slot_is_called_back_from_the_gateway_that_holds_it(redis_server):
    async with gateways(redis_server, 2, a=40, b=9) as (one, two):
        assert await one.take(1, "a") == ["a"]
        await until(lambda: one.store._book.slots["a"].idle > 0, "a reserve")
        assert await two.take(40, "a", "b") == ["a"] * 39 + ["b"]


async def test_many_requests_at_once_get_exactly_the_limit(redis_server):
    async with gateways(redis_server, 4, a=10) as made:
        plans = [gateway.store.lease(plan_over("a")) for gateway in made for _ in range(30)]
        leases = [lease for lease in await asyncio.gather(*plans) if lease is not None]
        assert len(leases) == 10


async def test_who_leaves_gives_everything_back_at_once(redis_server):
    async with gateways(redis_server, 2, a=3) as (leaving, staying):
        await leaving.take(3, "a")
        await leaving.store.stop()
        assert await staying.take(4, "a") == ["a"] * 3


async def test_who_asks_a_store_that_stops_or_has_stopped_is_told_that_there_is_no_slot(
    redis_server, monkeypatch
):
    # Cut off from the store, each would take its part: not because the machine was slow.
    monkeypatch.setattr("gateway.state.shared.DEADLINE_S", LONG_S)
    async with gateways(redis_server, 2, a=3) as (leaving, staying):
        assert await staying.take(3, "a") == ["a"] * 3
        asking = asyncio.create_task(leaving.take(1, "a"))
        await asyncio.sleep(0)  # it has asked
        leaving.store._link.keeps_next = True
        await asyncio.wait_for(leaving.store._link.has_kept.wait(), LONG_S)
        assert not asking.done()
        await leaving.store.stop()
        assert await asyncio.wait_for(asking, LONG_S) == []
        assert await asyncio.wait_for(leaving.take(1, "a"), LONG_S) == []


async def test_drains_reach_every_gateway_and_end_everywhere(redis_server):
    async with gateways(redis_server, 2, a=3) as (one, two):
        one.store.share_drain("c", float("inf"))
        await until(lambda: two.events == [Drained("c")], "the drain")
        two.store.share_drain("c", None)
        await until(lambda: one.events == [Undrained("c")], "its end")


async def test_who_starts_later_learns_the_drains_that_are_in_force(redis_server):
    async with gateways(redis_server, 1, a=3) as (one,):
        one.store.share_drain("c", float("inf"))
        await until(lambda: not one.store._drains._untold, "told")
        late = Gateway(RedisLink(redis_server.url, one.store._keys.news), fleet_of(one))
        await late.store.start()
        assert late.events == [Drained("c")]
        await late.store.stop()


async def test_a_drain_told_at_the_start_ends_when_the_fleet_does_not_know_it(redis_server):
    async with gateways(redis_server, 1, a=3) as (one,):
        with redis_server.client() as client:
            await until(lambda: old_enough(client, one), "a memory older than a heartbeat")
        late = Gateway(RedisLink(redis_server.url, one.store._keys.news), fleet_of(one))
        late.store.assume_drain("c", float("inf"))
        await late.store.start()
        assert late.events == [Undrained("c")]
        await late.store.stop()


async def test_a_drain_told_at_the_start_is_taken_over_by_a_fleet_without_a_memory(redis_server):
    first = Gateway(RedisLink(redis_server.url, Keys("reborn").news), "reborn")
    first.store.assume_drain("c", float("inf"))
    await first.store.start()
    second = Gateway(RedisLink(redis_server.url, Keys("reborn").news), "reborn")
    await second.store.start()
    assert first.events == []
    assert second.events == [Drained("c")]
    for gateway in (first, second):
        await gateway.store.stop()


async def test_who_is_idle_is_called_when_the_memory_is_lost(redis_server, monkeypatch):
    monkeypatch.setattr("gateway.state.shared.IDLE_TICK_S", 60.0)  # so nobody comes by itself
    async with gateways(redis_server, 3, a=9) as (asker, *idle):
        with redis_server.client() as client:
            channel, known = asker.store._keys.news, asker.store._keys.gateways
            await until(lambda: dict(client.pubsub_numsub(channel))[channel.encode()] == 3, "all listen")
            await until(lambda: not any(one.store._book.has_news() for one in idle), "they are idle")
            client.delete(known, asker.store._keys.grants("a"))
            await asker.take(3, "a")
            for one in idle:
                await until(lambda one=one: client.hexists(known, one.store.gateway_id), "it has come back")


def old_enough(client, gateway: Gateway) -> bool:
    marks = client.hgetall(gateway.store._keys.gateways)
    return int(marks[b"!clock"]) > int(marks[b"!born"]) + TTL_S * 1000


def fleet_of(gateway: Gateway) -> str:
    return gateway.store._keys.news.split("{")[1].split("}")[0]


async def test_latencies_are_heard_with_their_age(redis_server):
    async with gateways(redis_server, 2, a=3) as (one, two):
        one.latencies = {"a": LatencySummary(0.25, 4)}
        await until(lambda: any(isinstance(e, LatencyHeard) for e in two.events), "the latency")
        heard = next(e for e in two.events if isinstance(e, LatencyHeard))
        assert (heard.backend_id, heard.summary[:2]) == ("a", (0.25, 4))
        assert 0.0 <= heard.summary.age_s < LONG_S


def probe_of(backend_id: str) -> Plan:
    plan = plan_over(backend_id)
    return replace(plan, candidates=(replace(plan.candidates[0], is_probe=True),))


async def test_the_whole_fleet_has_one_probe_at_a_backend(redis_server):
    async with gateways(redis_server, 3, a=5) as made:
        plans = [gateway.store.lease(probe_of("a")) for gateway in made for _ in range(4)]
        leases = [lease for lease in await asyncio.gather(*plans) if lease is not None]
        assert len(leases) == 1
        holder = next(gateway for gateway in made if gateway.store.leases_held("a"))
        holder.store.release(leases[0])
        others = [gateway for gateway in made if gateway is not holder]
        again = await asyncio.gather(*(gateway.store.lease(probe_of("a")) for gateway in others))
        assert len([lease for lease in again if lease is not None]) == 1


async def test_an_opening_reaches_all_within_a_tenth_of_a_second_and_so_does_its_closing(redis_server):
    async with gateways(redis_server, 3, a=5) as (one, *others):
        with redis_server.client() as client:
            channel = one.store._keys.news
            await until(lambda: dict(client.pubsub_numsub(channel))[channel.encode()] == 3, "all listen")
        told_s = time.monotonic()
        one.store.share_circuit(ShareOpening("a", Reason.HUNG, 2.0, 3))
        expected = OpeningShared(one.store.gateway_id, "a", Reason.HUNG, 2.0, 3)
        await until(lambda: all(about(expected) in map(about, other.events) for other in others), "the word")
        assert time.monotonic() - told_s < 1.0, "a second is for a machine that is busy otherwise"
        one.store.share_circuit(ShareClosing("a"))
        closing = ClosingShared(one.store.gateway_id, "a")
        await until(lambda: all(closing in other.events for other in others), "the closing")
        assert one.events == [], "nobody hears itself"


async def test_who_starts_later_learns_the_circuits_that_are_open(redis_server):
    async with gateways(redis_server, 1, a=3) as (one,):
        one.store.share_circuit(ShareOpening("a", Reason.HUNG, 60.0, 1))
        one.store.share_circuit(ShareOpening("b", Reason.RESET, 60.0, 1))
        one.store.share_circuit(ShareClosing("b"))
        await until(lambda: not one.store._circuits._untold, "told")
        late = Gateway(RedisLink(redis_server.url, one.store._keys.news), fleet_of(one))
        await late.store.start()
        (heard,) = late.events
        assert about(heard) == about(OpeningShared(one.store.gateway_id, "a", Reason.HUNG, 60.0, 1))
        assert 55.0 < heard.open_s <= 60.0
        await late.store.stop()


def about(event):
    """An opening but for the time that has passed since."""
    return event._replace(open_s=0.0) if isinstance(event, OpeningShared) else event


# --- without the store -----------------------------------------------------------------------------------


async def test_absent_at_the_start_each_gateway_keeps_an_equal_part():
    link = BrokenLink()
    link.failure = LinkFailed("refused")
    async with lonely(link, 3, a=10, b=2) as gateway:
        assert await gateway.take(5, "a", "b") == ["a", "a", "a", "b"]
        assert gateway.store.health().is_degraded
        assert gateway.store.health().detail == "refused"


async def test_a_store_that_hangs_costs_a_request_one_deadline_and_the_next_nothing(redis_server):
    async with gateways(redis_server, 1, a=1, b=2) as (gateway,):
        assert await gateway.take(1, "a") == ["a"]
        await until(lambda: not gateway.store._wake.is_set(), "rest")
        gateway.store._link.hangs = True
        gateway.store._book.slots["a"].granted = 0  # somebody else's: it has to ask
        gateway.store._book.slots["b"].granted = gateway.store._book.slots["b"].allowance = 0
        async with asyncio.timeout(LONG_S):
            assert await gateway.take(1, "b") == ["b"], "cut off, it has its part"
        before = gateway.store._link.calls
        assert gateway.store.lease_now(plan_over("b")) is not None
        assert gateway.store._link.calls == before


async def test_gone_and_back_is_told_once_each(redis_server, caplog):
    caplog.set_level(logging.INFO)
    async with gateways(redis_server, 1, a=4) as (gateway,):
        assert await gateway.take(2, "a") == ["a", "a"]
        gateway.store._link.failure = LinkFailed("gone")
        await until(lambda: gateway.store.health().is_degraded, "degraded")
        calls = gateway.store._link.calls
        await until(lambda: gateway.store._link.calls > calls + 3, "attempts to come back")
        gateway.store._link.failure = None
        await until(lambda: not gateway.store.health().is_degraded, "back")
        assert await gateway.take(3, "a") == ["a", "a"], "the two streams that ran on are counted"
    told = [record.message for record in caplog.records if record.name == "gateway.state.shared"]
    assert len(told) == 2
    assert "degraded" in told[0]
    assert "back" in told[1]


async def test_a_gateway_that_stood_still_asks_before_it_takes(redis_server):
    """As after SIGSTOP: its clock says that the heartbeat has ended, though nothing has failed."""
    async with gateways(redis_server, 2, a=2) as (stopped, other):
        assert await stopped.take(1, "a") == ["a"]
        stopped.clock_ahead_s = 60.0
        assert stopped.store.lease_now(plan_over("a")) is None
        assert await other.take(1, "a") == ["a"]
        assert await stopped.take(1, "a") == []
        assert not stopped.store.health().is_degraded


@pytest.mark.parametrize("pause_s", (0.0, 0.0005, 0.002, 0.01))
async def test_cancelled_while_it_asks_a_request_leaves_no_slot_taken(redis_server, pause_s):
    async with gateways(redis_server, 2, a=1) as (one, two):
        lease = await one.store.lease(plan_over("a"))
        asking = asyncio.get_running_loop().create_task(two.store.lease(plan_over("a")))
        await asyncio.sleep(pause_s)
        one.store.release(lease)
        asking.cancel()
        served = (await asyncio.gather(asking, return_exceptions=True))[0]
        if not isinstance(served, BaseException) and served is not None:
            two.store.release(served)
        assert two.store.leases_held("a") == 0
        assert await one.take(1, "a") == ["a"]


async def test_who_waits_gets_the_slot_that_another_gateway_frees(redis_server):
    async with gateways(redis_server, 2, a=1) as (one, other):
        lease = await one.store.lease(plan_over("a"))
        waiting = Waiting(other.store, "a")
        waiting.begin()
        await asyncio.sleep(0.08)
        calls = other.store._link.calls
        began_s = time.monotonic()
        one.store.release(lease)
        await until(lambda: waiting.leases, "the slot has come")
        assert time.monotonic() - began_s < 0.5
        assert other.store._link.calls - calls <= 6, "it is told, and does not ask all the time"
        assert other.store.leases_held("a") == 1


async def test_a_slot_is_kept_for_who_waits_and_goes_to_who_has_waited_longest(redis_server):
    async with gateways(redis_server, 3, a=1) as (one, early, late):
        lease = await one.store.lease(plan_over("a"))
        first, second = Waiting(early.store, "a"), Waiting(late.store, "a")
        first.begin()
        await asyncio.sleep(0.06)
        second.begin()
        await asyncio.sleep(0.06)
        asking = asyncio.ensure_future(one.store.lease(plan_over("a")))
        await asyncio.sleep(0.003)
        one.store.release(lease)
        assert await asking is None, "a new request takes nothing that others wait for"
        await until(lambda: first.leases, "who has waited longest has it")
        assert second.leases == []
        early.store.release(first.leases.pop())
        await until(lambda: second.leases, "then the next")


async def test_who_waits_no_more_or_is_gone_holds_nobody_up(redis_server):
    async with gateways(redis_server, 3, a=1) as (one, other, third):
        lease = await one.store.lease(plan_over("a"))
        waiting, left = Waiting(other.store, "a"), Waiting(third.store, "a")
        waiting.begin()
        left.begin()
        await asyncio.sleep(0.06)
        waiting.wanted = left.wanted = 0
        third.store._link.hangs = True  # it can't even say so
        await asyncio.sleep(0.1)
        one.store.release(lease)
        await asyncio.sleep(0.35)
        assert await other.take(1, "a") == ["a"]
        third.store._link.hangs = False


async def test_many_wait_at_two_gateways_and_each_slot_wakes_one(redis_server):
    async with gateways(redis_server, 3, a=4) as (one, other, third):
        leases = [await one.store.lease(plan_over("a")) for _ in range(4)]
        rooms = [Waiting(other.store, "a"), Waiting(third.store, "a")]
        for room in rooms:
            room.begin(4)
        await asyncio.sleep(0.06)
        for lease in leases:
            one.store.release(lease)
        await until(lambda: sum(len(room.leases) for room in rooms) == 4, "all four have gone on")
        await asyncio.sleep(0.1)
        assert sum(len(room.leases) for room in rooms) == 4
        assert other.store.leases_held("a") + third.store.leases_held("a") == 4


async def test_cut_off_who_waits_gets_this_gateway_s_share(redis_server):
    async with gateways(redis_server, 2, a=4) as (one, other):
        leases = [await one.store.lease(plan_over("a")) for _ in range(4)]
        waiting = Waiting(other.store, "a")
        waiting.begin(3)
        await asyncio.sleep(0.06)
        other.store._link.failure = LinkFailed("gone")
        await until(lambda: waiting.leases, "its share is in use")
        assert len(waiting.leases) == 1, "what others hold above their part is not its own"
        other.store._link.failure = None
        for lease in leases:
            one.store.release(lease)
