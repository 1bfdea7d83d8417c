"""The whole of it against scripted backends: what is asked becomes what the fleet knows."""

from __future__ import annotations

import asyncio
import logging

from gateway.health.checks import HealthChecks
from tests.health.asking import FAST, config_of
from tests.proxy.dialogue import HANG, reply, settled

VLLM = b"vllm:num_requests_running %d\nvllm:num_requests_waiting 0\n"
PROBED = f"{{{FAST}, rise: 2, fall: 3}}"


async def test_a_backend_goes_down_after_fall_and_comes_back_after_rise(asked, start_backend, caplog) -> None:
    backend = await start_backend()
    asked.follow(config_of(backend, health=PROBED))
    await asked.until(lambda: asked.state(backend).health.probe.state == "up")
    with caplog.at_level(logging.INFO):
        backend.default = [reply(b"", status="503 No")]
        await asked.until(lambda: not asked.state(backend).health.is_open)
        last = [event.passed for event in asked.events][-4:]
        assert last == [True, False, False, False], "after the third failure, not before"
        backend.default = [reply(b"")]
        await asked.until(lambda: asked.state(backend).health.is_open)
    assert [event.passed for event in asked.events][-3:] == [False, True, True]
    lines = [record.message for record in caplog.records]
    assert len(lines) == 2, "one line for each change"
    assert "gets no new work" in lines[0]
    assert "status_503" in lines[0]
    assert "may get work again" in lines[1]


async def test_a_hanging_health_endpoint_is_down(asked, start_backend) -> None:
    backend = await start_backend()
    backend.default = [HANG]
    asked.follow(config_of(backend, health=PROBED))
    await asked.until(lambda: asked.state(backend).health.is_down)
    assert asked.state(backend).health.probe.reason == "first_byte_timeout"
    assert len(backend.open_connections) <= 1


async def test_health_is_200_while_completions_hang(asked, start_backend) -> None:
    backend = await start_backend()
    backend.default = lambda request: [HANG] if request.method == "POST" else [reply(b"")]
    synthetic = f"{{{FAST}, model: m}}"
    asked.follow(config_of(backend, health=f"{{{FAST}, fall: 2, synthetic: {synthetic}}}"))
    await asked.until(lambda: asked.state(backend).health.synthetic.is_down)
    health = asked.state(backend).health
    assert (health.probe.is_down, health.is_open) == (False, False)
    backend.default = [reply(b'{"choices":[{}]}')]
    await asked.until(lambda: health.is_open)


async def test_agent_words_drain_cap_and_let_go(asked, start_backend) -> None:
    backend = await start_backend()
    asked.follow(config_of(backend, health=PROBED))
    state = asked.state(backend)
    backend.default = [reply(b"50% maxconn:2\n")]
    await asked.until(lambda: state.limit == 2)
    assert state.health.advice.weight_share == 0.5
    backend.default = [reply(b"drain\n")]
    await asked.until(lambda: not state.health.is_open)
    assert state.limit == 8
    backend.default = [reply(b"ready\n")]
    await asked.until(lambda: state.health.is_open)


async def test_engine_metrics_come_with_their_age_and_a_failing_scrape_changes_nothing(
    asked, start_backend
) -> None:
    backend = await start_backend()
    backend.default = [reply(VLLM % 5)]
    asked.follow(config_of(backend, engine_metrics=f"{{{FAST}, stale_after: 150ms}}"))
    state = asked.state(backend)
    await asked.until(lambda: state.health.others(asked.around.clock()) == 5)
    backend.default = [reply(b"", status="500 Broken")]
    await asked.until(lambda: state.health.fresh_reading(asked.around.clock()) is None)
    assert state.health.others(asked.around.clock()) == 0
    assert state.health.is_open, "a failing scrape never stops traffic"
    assert state.health.reading.running == 5
    await backend.refuse()
    seen = len(asked.events)
    await asyncio.sleep(0.1)
    assert len(asked.events) == seen
    assert state.health.is_open
    await backend.listen()
    backend.default = [reply(VLLM % 7)]
    await asked.until(lambda: state.health.others(asked.around.clock()) == 7)


async def test_without_sections_nobody_is_asked(asked, start_backend) -> None:
    backend = await start_backend()
    asked.follow(config_of(backend))
    await asyncio.sleep(0.05)
    assert not backend.connections


async def test_a_backend_that_left_is_asked_no_longer_and_one_that_joined_is(asked, start_backend) -> None:
    old, kept, new = [await start_backend() for _ in range(3)]
    asked.follow(config_of(old, kept, health=PROBED))
    await asked.until(lambda: old.requests and kept.requests)
    asked.follow(config_of(kept, new, health=PROBED))
    await settled(lambda: not old.open_connections)
    seen = len(old.connections)
    await asked.until(lambda: len(new.requests) >= 3)
    assert len(old.connections) == seen
    assert f"here@127.0.0.1:{old.port}" not in asked.fleet.view.backends


async def test_one_slow_backend_does_not_hold_up_the_others(asked, start_backend) -> None:
    slow, quick = await start_backend(), await start_backend()
    slow.default = [HANG]
    asked.follow(config_of(slow, quick, health="{interval: 20ms, timeout: 20ms, fall: 1000}"))
    # The quick one too may be late once, on a machine that stands still: it is up when it is heard in time.
    await asked.until(lambda: len(quick.requests) >= 5 and asked.state(quick).health.probe.state == "up")


async def test_stop_cancels_what_is_under_way(asked, start_backend, recwarn) -> None:
    backend = await start_backend()
    backend.default = [HANG]
    sections = {"health": "{interval: 10s, synthetic: {model: m}}", "engine_metrics": "{interval: 10s}"}
    asked.follow(config_of(backend, **sections))
    assert await settled(lambda: len(backend.open_connections) == 3), "a probe, a completion, a reading"
    assert asked.store.leases_held(asked.state(backend).id) == 1
    await asyncio.wait_for(asked.checks.stop(), 1)
    assert asked.store.leases_held(asked.state(backend).id) == 0
    assert await settled(lambda: not backend.open_connections)
    assert await settled(lambda: asyncio.all_tasks() == {asyncio.current_task()}), "a task was left"
    assert not asked.events, "nothing is told of what was cut"
    assert len(recwarn) == 0


async def test_stopping_before_the_start_is_nothing(asked) -> None:
    await HealthChecks(asked.around).stop()
