"""What a SharedStore does between a request and the store: how long it waits, and for what."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest

from gateway.core.model import Backend, Candidate, Plan, PlanReason
from gateway.state import shared
from gateway.state.grants import TTL_S
from gateway.state.keys import Keys
from gateway.state.redis import RedisLink
from gateway.state.shared import LinkFailed, SharedStore
from tests.contract.conftest import lonely_company


def plan_over(*tiers: str) -> Plan:
    """A plan over backends called like their tier and a number: `primary1`."""
    seats = [
        Candidate(Backend(name, "http://b", 1), name, name.rstrip("0123456789"), PlanReason.FIRST_CHOICE)
        for name in tiers
    ]
    return Plan(tuple(seats), "primary")


@pytest.fixture
async def pair(redis_server) -> AsyncIterator[tuple[SharedStore, SharedStore]]:
    """Two gateways of a fleet, with one slot each at two backends of the primary and many at the backup."""
    fleet = f"pair-{uuid4().hex}"
    stores = [
        SharedStore(RedisLink(redis_server.url, Keys(fleet).news), fleet, lonely_company()) for _ in range(2)
    ]
    for store in stores:
        store.set_limits({"primary1": 1, "primary2": 1, "backup": 100})
        await store.start()
    yield stores[0], stores[1]
    for store in stores:
        await store.stop()


@pytest.fixture
def endless_patience(monkeypatch) -> None:
    """Who waits, waits for ever: so a test sees whether, and not how long."""
    monkeypatch.setattr(shared, "RECALL_PATIENCE_S", 60.0)
    monkeypatch.setattr(shared, "GRACE_IN_EXCHANGES", 1e9)
    monkeypatch.setattr(shared, "MAX_GRACE_S", 60.0)


async def test_before_a_lower_tier_a_slot_on_its_way_is_waited_for(pair, endless_patience):
    here, there = pair
    held = await here.lease(plan_over("primary1"))
    asking = asyncio.get_running_loop().create_task(there.lease(plan_over("primary1", "backup")))
    await asyncio.wait([asking], timeout=0.05)
    assert not asking.done(), "it went to a lower tier at once"
    here.release(held)
    assert (await asking).candidate.backend.id == "primary1"


async def test_without_a_slot_anywhere_the_lower_tier_is_taken_after_a_moment(pair):
    here, there = pair
    await here.lease(plan_over("primary1"))
    started_s = time.monotonic()
    lease = await there.lease(plan_over("primary1", "backup"))
    assert lease.candidate.backend.id == "backup"
    assert time.monotonic() - started_s < shared.RECALL_PATIENCE_S + 2 * shared.DEADLINE_S


async def test_another_backend_of_the_tier_is_taken_without_waiting(pair, endless_patience):
    here, there = pair
    await here.lease(plan_over("primary1"))
    async with asyncio.timeout(5):
        lease = await there.lease(plan_over("primary1", "primary2", "backup"))
    assert lease.candidate.backend.id == "primary2"


def test_all_come_back_before_the_others_time_is_over():
    assert shared.MAX_BACKOFF_S + shared.FIRST_DEADLINE_S < TTL_S


class StubbornLink:
    """Takes the first cancellation for a failure, as redis-py does at times."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self._calls = 0

    async def exchange(self, keys: Sequence[str], payload: bytes, deadline_s: float) -> bytes:
        self._calls += 1
        if self._calls == 2:
            self.has_begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        raise LinkFailed("nobody there")

    async def news(self) -> AsyncIterator[bytes]:
        raise LinkFailed("nobody there")
        yield b""

    async def close(self) -> None: ...


async def test_stopping_ends_although_a_cancellation_is_lost():
    link = StubbornLink()
    store = SharedStore(link, "stubborn", lonely_company())
    await store.start()
    await link.has_begun.wait()
    done, _ = await asyncio.wait([asyncio.get_running_loop().create_task(store.stop())], timeout=5)
    assert done, "it waits for a task that was cancelled in vain"
