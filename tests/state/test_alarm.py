"""The alarm that ends a nap before its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.state.alarm import Alarm
from tests.virtual_loop import in_virtual_time


def left_of(for_s: float) -> Callable[[], float]:
    """What is left of so many seconds from now."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + for_s
    return lambda: until_s - loop.time()


@in_virtual_time
async def test_a_nap_ends_by_itself_at_the_alarm_or_does_not_begin():
    loop, alarm = asyncio.get_running_loop(), Alarm()
    await alarm.nap(left_of(2.0))
    assert (loop.time(), alarm.is_set()) == (2.0, False)
    loop.call_later(0.5, alarm.set)
    await alarm.nap(left_of(2.0))
    assert (loop.time(), alarm.is_set()) == (2.5, True)
    await alarm.nap(left_of(2.0))
    assert loop.time() == 2.5
    alarm.clear()
    await alarm.nap(left_of(1.0))
    assert loop.time() == 3.5


@in_virtual_time
async def test_a_cancelled_nap_leaves_nothing_and_an_alarm_just_in_time_is_remembered():
    loop, alarm = asyncio.get_running_loop(), Alarm()
    napping = loop.create_task(alarm.nap(left_of(60.0)))
    await asyncio.sleep(1.0)
    napping.cancel()
    await asyncio.wait([napping])
    assert napping.cancelled()
    alarm.set()
    alarm.clear()
    loop.call_later(1.0, alarm.set)
    loop.call_later(1.0, alarm.set)
    await alarm.nap(left_of(1.0))  # both at the same instant
    assert loop.time() == 2.0


@in_virtual_time
async def test_it_looks_again_as_often_as_it_was_told_and_only_then():
    loop, alarm, looked = asyncio.get_running_loop(), Alarm(), []

    def look() -> float:
        looked.append(loop.time())
        return 0.5 if len(looked) < 4 else 0.0

    await alarm.nap(look)
    assert looked == [0.0, 0.5, 1.0, 1.5]
    await alarm.nap(look)
    assert looked == [0.0, 0.5, 1.0, 1.5, 1.5]
    await asyncio.sleep(10.0)
    assert len(looked) == 5


@in_virtual_time
async def test_a_mistake_while_looking_is_the_nappers():
    waits_s = [1.0]
    with pytest.raises(IndexError):
        await Alarm().nap(lambda: waits_s.pop())
    assert asyncio.get_running_loop().time() == 1.0
