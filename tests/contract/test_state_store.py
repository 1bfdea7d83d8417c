"""What every StateStore promises, whichever way it keeps its counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.core.model import Plan
from tests.waiting import plan_over


async def taken(store, *backend_ids: str) -> str | None:
    lease = await store.lease(plan_over(*backend_ids))
    return None if lease is None else lease.candidate.backend.id


async def test_the_first_candidate_with_room_wins(store):
    store.set_limits({"a": 1, "b": 2})
    assert [await taken(store, "a", "b") for _ in range(4)] == ["a", "b", "b", None]
    assert (store.leases_held("a"), store.leases_held("b")) == (1, 2)


async def test_hundreds_at_once_get_exactly_the_limit(store):
    store.set_limits({"a": 7, "b": 5})
    leases = await asyncio.gather(*(store.lease(plan_over("a", "b")) for _ in range(300)))
    given = [lease.candidate.backend.id for lease in leases if lease is not None]
    assert (given.count("a"), given.count("b")) == (7, 5)


async def test_a_slot_given_back_goes_to_the_next(store):
    store.set_limits({"a": 1})
    lease = await store.lease(plan_over("a"))
    assert await taken(store, "a") is None
    store.release(lease)
    assert store.leases_held("a") == 0
    assert await taken(store, "a") == "a"


async def test_releasing_twice_is_releasing_once(store):
    store.set_limits({"a": 2})
    first = await store.lease(plan_over("a"))
    await store.lease(plan_over("a"))
    store.release(first)
    store.release(first)
    assert store.leases_held("a") == 1
    assert [await taken(store, "a") for _ in range(2)] == ["a", None]


async def test_a_backend_that_left_gives_no_lease_and_takes_back_those_out(store):
    store.set_limits({"a": 2, "b": 1})
    lease = await store.lease(plan_over("a"))
    store.set_limits({"b": 1})
    assert await taken(store, "a", "b") == "b"
    store.release(lease)
    assert store.leases_held("a") == 0


async def test_a_limit_may_change_while_leases_are_out(store):
    store.set_limits({"a": 3})
    leases = [await store.lease(plan_over("a")) for _ in range(3)]
    store.set_limits({"a": 1})
    for lease in leases[:2]:
        store.release(lease)
        assert await taken(store, "a") is None, "given above the lowered limit"
    store.release(leases[2])
    assert await taken(store, "a") == "a"
    store.set_limits({"a": 2})
    assert [await taken(store, "a") for _ in range(2)] == ["a", None]


async def test_what_is_given_without_asking_is_what_asking_would_give(store):
    store.set_limits({"a": 1, "b": 1})
    lease = store.lease_now(plan_over("a", "b"))
    assert lease is None or lease.candidate.backend.id == "a"
    expected = "a" if lease is None else "b"
    assert await taken(store, "a", "b") == expected


async def test_a_gateway_may_be_told_to_hold_less_than_the_limit(store):
    store.set_limits({"a": 5, "b": 5}, {"a": 2})
    assert [await taken(store, "a", "b") for _ in range(3)] == ["a", "a", "b"]
    store.set_limits({"a": 5, "b": 5})
    assert await taken(store, "a", "b") == "a"


def probe_of(backend_id: str) -> Plan:
    plan = plan_over(backend_id)
    return replace(plan, candidates=(replace(plan.candidates[0], is_probe=True, generation=3),))


async def test_a_backend_has_one_probe_permit_beside_its_slots(store):
    store.set_limits({"a": 3, "b": 1})
    probe = await store.lease(probe_of("a"))
    assert store.leases_held("a") == 1
    assert await store.lease(probe_of("a")) is None, "a second probe"
    assert await store.lease(probe_of("b")) is not None, "each backend has its own"
    store.release(probe)
    store.release(probe)
    assert store.leases_held("a") == 0
    again = await store.lease(probe_of("a"))
    assert again is not None
    assert again.candidate.is_probe


async def test_a_probe_with_its_verdict_keeps_the_slot_and_gives_the_permit_back(store):
    store.set_limits({"a": 2})
    probe = await store.lease(probe_of("a"))
    store.release_permit(probe)
    store.release_permit(probe)
    assert store.leases_held("a") == 1
    next_probe = await store.lease(probe_of("a"))
    assert next_probe is not None
    store.release(probe)
    store.release_permit(probe)
    assert store.leases_held("a") == 1
    assert await store.lease(probe_of("a")) is None, "the permit is the next probe's now"


async def test_a_probe_needs_a_slot_too(store):
    store.set_limits({"a": 1})
    work = await store.lease(plan_over("a"))
    assert await store.lease(probe_of("a")) is None
    store.release(work)
    assert await store.lease(probe_of("a")) is not None
    assert await taken(store, "a") is None


async def test_who_gets_no_permit_goes_to_the_next_candidate(store):
    store.set_limits({"a": 3, "b": 3})
    both = Plan((*probe_of("a").candidates, *plan_over("b").candidates), "primary")
    served = [(await store.lease(both)).candidate for _ in range(3)]
    assert [(candidate.backend.id, candidate.is_probe) for candidate in served] == [
        ("a", True),
        ("b", False),
        ("b", False),
    ]


@pytest.mark.parametrize("steps", range(4))
async def test_cancelled_while_it_asks_it_leaves_no_slot_taken(store, steps):
    store.set_limits({"a": 1})
    asking = asyncio.get_running_loop().create_task(store.lease(plan_over("a")))
    for _ in range(steps):
        await asyncio.sleep(0)
    asking.cancel()
    lease = (await asyncio.gather(asking, return_exceptions=True))[0]
    if not isinstance(lease, BaseException):  # it had ended before: the lease is ours
        store.release(lease)
    assert store.leases_held("a") == 0
    assert await taken(store, "a") == "a"


async def test_a_backend_that_comes_back_has_the_leases_still_out_on_it(store):
    store.set_limits({"a": 3, "b": 1})
    out = [await store.lease(plan_over("a")) for _ in range(2)]
    store.set_limits({"b": 1})
    assert await taken(store, "a") is None
    store.set_limits({"a": 3, "b": 1})
    assert store.leases_held("a") == 2
    assert [await taken(store, "a") for _ in range(2)] == ["a", None], "two of three were out all the time"
    for lease in out:
        store.release(lease)
        store.release(lease)
    assert store.leases_held("a") == 1
    assert [await taken(store, "a") for _ in range(3)] == ["a", "a", None]


async def test_a_backend_may_leave_and_come_back_any_number_of_times(store):
    for count in range(20):
        store.set_limits({"a": 2})
        lease = await store.lease(plan_over("a"))
        assert lease is not None, f"round {count}"
        store.set_limits({})
        store.release(lease)
        if count % 3 == 0:  # long enough for the fleet to hear that it has left
            await asyncio.sleep(0.06)
    store.set_limits({"a": 2})
    assert store.leases_held("a") == 0
    assert [await taken(store, "a") for _ in range(3)] == ["a", "a", None]


@pytest.mark.parametrize("steps", range(4))
async def test_who_waits_for_a_backend_that_leaves_gets_an_answer(store, steps):
    store.set_limits({"a": 1, "b": 1})
    held = await store.lease(plan_over("a"))
    plans = [plan_over("a"), plan_over("a", "b"), probe_of("a")]
    asking = [asyncio.get_running_loop().create_task(store.lease(plan)) for plan in plans]
    for _ in range(steps):
        await asyncio.sleep(0)
    store.set_limits({"b": 1})
    async with asyncio.timeout(2):
        none, at_b, no_probe = await asyncio.gather(*asking)
    assert (none, no_probe) == (None, None)
    assert at_b is not None and at_b.candidate.backend.id == "b"
    store.release(held)
    store.release(at_b)
    assert (store.leases_held("a"), store.leases_held("b")) == (0, 0)
