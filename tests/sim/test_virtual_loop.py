"""The asyncio loop on virtual time, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sim.timeline import Timeline
from gateway.sim.virtual_loop import VirtualLoop


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def test_what_is_asked_for_now_comes_after_what_was_asked_for_this_instant_before():
    timeline, told = Timeline(), []
    timeline.at(1.0, lambda: timeline.at(0.5, told.append, "now"))
    timeline.at(1.0, told.append, "before")
    timeline.at(1.0, lambda: timeline.at(1.0, told.append, "now too"))
    timeline.at(2.0, told.append, "later")
    timeline.run()
    assert told == ["before", "now", "now too", "later"]


def test_tasks_and_timers_take_virtual_time_and_a_cancelled_timer_none():
    timeline, told = Timeline(), []
    loop = VirtualLoop(timeline)

    async def sleeper() -> None:
        await asyncio.sleep(30.0)
        loop.call_later(1.0, told.append, loop.time())
        loop.call_later(1.0, told.append, "cancelled").cancel()

    with loop.running():
        loop.create_task(sleeper())
        timeline.run()
    assert told == [30.0]
    assert loop.is_closed()


def test_a_run_that_breaks_off_leaves_no_task_pending_and_does_nothing_more():
    timeline, told = Timeline(), []
    loop = VirtualLoop(timeline)
    with pytest.raises(KeyboardInterrupt), loop.running():
        task = loop.create_task(for_ever())
        timeline.at(1.0, timeline.at, 0.0, told.append, "went on")
        raise KeyboardInterrupt
    assert task.cancelled()
    assert told == []
    assert loop.is_closed()


def test_a_task_that_waits_for_what_never_comes_is_a_mistake_and_is_cancelled():
    timeline = Timeline()
    loop = VirtualLoop(timeline)
    with pytest.raises(RuntimeError, match="for_ever"), loop.running():
        task = loop.create_task(for_ever())
        timeline.run()
    assert task.cancelled()
