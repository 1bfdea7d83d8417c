"""The alarm that ends a nap before its time."""

from __future__ import annotations

import asyncio

from gateway.state.alarm import Alarm
from tests.virtual_loop import in_virtual_time


@in_virtual_time
async def test_a_nap_ends_by_itself_at_the_alarm_or_does_not_begin():
    loop, alarm = asyncio.get_running_loop(), Alarm()
    await alarm.nap(2.0)
    assert (loop.time(), alarm.is_set()) == (2.0, False)
    loop.call_later(0.5, alarm.set)
    await alarm.nap(2.0)
    assert (loop.time(), alarm.is_set()) == (2.5, True)
    await alarm.nap(2.0)
    assert loop.time() == 2.5
    alarm.clear()
    await alarm.nap(1.0)
    assert loop.time() == 3.5


@in_virtual_time
async def test_a_cancelled_nap_leaves_nothing_and_an_alarm_just_in_time_is_remembered():
    loop, alarm = asyncio.get_running_loop(), Alarm()
    napping = loop.create_task(alarm.nap(60.0))
    await asyncio.sleep(1.0)
    napping.cancel()
    await asyncio.wait([napping])
    assert napping.cancelled()
    alarm.set()
    alarm.clear()
    loop.call_later(1.0, alarm.set)
    loop.call_later(1.0, alarm.set)
    await alarm.nap(1.0)  # both at the same instant
    assert loop.time() == 2.0
