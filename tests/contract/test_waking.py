"""What every StateStore promises to those who wait for a slot: see RoomWatcher in ports.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.model import Plan
from tests.proxy.dialogue import settled
from tests.waiting import Waiting, plan_over


@pytest.fixture
def waiting(store) -> Waiting:
    return Waiting(store, "a")


async def all_of(store, backend_id: str, count: int) -> list:
    leases = [await store.lease(plan_over(backend_id)) for _ in range(count)]
    assert None not in leases
    return leases


async def test_a_slot_given_back_is_taken_before_release_returns(store, waiting):
    store.set_limits({"a": 1})
    (lease,) = await all_of(store, "a", 1)
    waiting.begin()
    store.release(lease)
    assert len(waiting.leases) == 1 and store.leases_held("a") == 1
    assert store.lease_now(plan_over("a")) is None


async def test_each_slot_wakes_one(store, waiting):
    store.set_limits({"a": 3})
    leases = await all_of(store, "a", 3)
    waiting.begin(5)
    for count, lease in enumerate(leases, start=1):
        store.release(lease)
        store.release(lease)
        assert len(waiting.leases) == count, "a slot given back twice is one slot"
    assert (waiting.wanted, store.leases_held("a")) == (2, 3)


async def test_what_was_got_by_waiting_is_a_lease_like_any_other(store, waiting):
    store.set_limits({"a": 1})
    (lease,) = await all_of(store, "a", 1)
    waiting.begin(3)
    store.release(lease)
    for count in (2, 3):
        store.release(waiting.leases[-1])
        assert len(waiting.leases) == count
    store.release(waiting.leases[-1])
    assert store.leases_held("a") == 0
    assert await store.lease(plan_over("a")) is not None


async def test_who_comes_later_takes_nothing_from_who_waits(store, waiting):
    store.set_limits({"a": 1})
    (lease,) = await all_of(store, "a", 1)
    waiting.begin()
    asking = asyncio.get_running_loop().create_task(store.lease(plan_over("a")))
    await asyncio.sleep(0)
    store.release(lease)
    async with asyncio.timeout(2):
        assert await asking is None
    assert len(waiting.leases) == 1


async def test_a_slot_of_another_backend_wakes_nobody(store, waiting):
    store.set_limits({"a": 1, "b": 1})
    await all_of(store, "a", 1)
    (other,) = await all_of(store, "b", 1)
    waiting.begin()
    store.release(other)
    assert (waiting.leases, store.leases_held("a")) == ([], 1)
    assert await store.lease(plan_over("b")) is not None


async def test_a_raised_limit_wakes_as_many_as_it_has_room_for(store, waiting):
    store.set_limits({"a": 1})
    await all_of(store, "a", 1)
    waiting.begin(5)
    store.set_limits({"a": 3})
    assert await settled(lambda: len(waiting.leases) == 2)
    assert store.leases_held("a") == 3
    assert await store.lease(plan_over("a")) is None


async def test_a_cap_that_is_taken_away_wakes_too(store, waiting):
    store.set_limits({"a": 3}, {"a": 1})
    await all_of(store, "a", 1)
    waiting.begin(5)
    store.set_limits({"a": 3})
    assert await settled(lambda: len(waiting.leases) == 2)
    assert store.leases_held("a") == 3


async def test_a_backend_that_joins_wakes_who_waits_for_it(store, waiting):
    store.set_limits({"b": 1})
    waiting.begin()
    assert await store.lease(plan_over("a")) is None
    store.set_limits({"a": 1, "b": 1})
    assert await settled(lambda: len(waiting.leases) == 1)


async def test_a_backend_that_has_left_wakes_nobody(store, waiting):
    store.set_limits({"a": 2})
    leases = await all_of(store, "a", 2)
    waiting.begin(2)
    store.set_limits({})
    for lease in leases:
        store.release(lease)
    assert (waiting.leases, store.leases_held("a")) == ([], 0)


async def test_a_slot_above_a_lowered_limit_wakes_nobody(store, waiting):
    store.set_limits({"a": 2})
    leases = await all_of(store, "a", 2)
    waiting.begin(2)
    store.set_limits({"a": 1})
    store.release(leases[0])
    assert (waiting.leases, store.leases_held("a")) == ([], 1)
    store.release(leases[1])
    assert (len(waiting.leases), store.leases_held("a")) == (1, 1)


async def test_who_waits_no_more_leaves_the_slot_to_others(store, waiting):
    store.set_limits({"a": 1})
    (lease,) = await all_of(store, "a", 1)
    waiting.begin()
    waiting.wanted = 0
    store.wants_changed()
    store.release(lease)
    assert waiting.leases == []
    assert await store.lease(plan_over("a")) is not None


async def test_the_slot_of_a_probe_wakes_when_the_probe_is_over(store, waiting):
    store.set_limits({"a": 1})
    plan = plan_over("a")
    probe = await store.lease(Plan((replace(plan.candidates[0], is_probe=True, generation=1),), "primary"))
    waiting.begin()
    store.release_permit(probe)
    assert waiting.leases == [], "its slot is still taken"
    store.release(probe)
    assert len(waiting.leases) == 1
