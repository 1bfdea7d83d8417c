"""The drivers' timing, without sockets, in virtual time."""

import asyncio

import pytest

from gateway.mock_engine.serving import Generation, StepServing, serving_for
from gateway.mock_engine.settings import Settings
from gateway.sim.engine import H100_80
from tests.virtual_loop import in_virtual_time


class Diary:
    """Notes when tokens appear, in seconds since its creation."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self.tokens_s: list[float] = []
        self.finished = asyncio.Event()

    def on_token(self) -> None:
        self.tokens_s.append(self._loop.time() - self._started_s)

    def on_finish(self) -> None:
        self.finished.set()


@in_virtual_time
async def test_fixed_durations_are_exact() -> None:
    serving = serving_for(Settings(ttft_s=0.03, tpot_s=0.01), asyncio.get_running_loop())
    diary = Diary()
    serving.submit(Generation(diary, 1, 5, is_streamed=True))
    await diary.finished.wait()
    assert diary.tokens_s == pytest.approx([0.03, 0.04, 0.05, 0.06, 0.07], abs=1e-6)


@in_virtual_time
async def test_fixed_seats_are_given_in_order() -> None:
    serving = serving_for(Settings(ttft_s=0.01, max_num_seqs=1), asyncio.get_running_loop())
    diaries = [Diary() for _ in range(3)]
    for diary in diaries:
        serving.submit(Generation(diary, 1, 1, is_streamed=True))
    assert (serving.gauges.running, serving.gauges.waiting) == (1, 2)
    await diaries[2].finished.wait()
    assert [diary.tokens_s[0] for diary in diaries] == pytest.approx([0.01, 0.02, 0.03], abs=1e-6)


@in_virtual_time
async def test_a_thousand_waiting_without_duration_need_no_recursion() -> None:
    serving = serving_for(Settings(ttft_s=0, tpot_s=0, max_num_seqs=1), asyncio.get_running_loop())
    seat = Generation(Diary(), 1, 1, is_streamed=True)
    serving.submit(seat)
    diaries = [Diary() for _ in range(3000)]
    for diary in diaries:
        serving.submit(Generation(diary, 1, 1, is_streamed=False))
    serving.cancel(seat)
    assert all(diary.finished.is_set() for diary in diaries)
    assert (serving.gauges.running, serving.gauges.waiting, serving.gauges.peak_running) == (0, 0, 1)


@in_virtual_time
async def test_steps_take_the_models_time() -> None:
    serving = StepServing(asyncio.get_running_loop(), H100_80)
    diary = Diary()
    serving.submit(Generation(diary, 1000, 8, is_streamed=True))
    await diary.finished.wait()
    expected_s = H100_80.step_s(1000, 0) + sum(H100_80.step_s(1, 1000 + index) for index in range(7))
    assert diary.tokens_s[-1] == pytest.approx(expected_s, abs=1e-6)
    assert serving.gauges.kv_usage == 0.0


@in_virtual_time
async def test_a_cancelled_generation_hears_nothing_more() -> None:
    serving = StepServing(asyncio.get_running_loop(), H100_80)
    leaver, stayer = Diary(), Diary()
    leaving = Generation(leaver, 10, 2, is_streamed=True)
    serving.submit(leaving)
    serving.submit(Generation(stayer, 10, 2, is_streamed=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert serving.gauges.running == 2
    serving.cancel(leaving)
    await stayer.finished.wait()
    assert leaver.tokens_s == []
    assert len(stayer.tokens_s) == 2
    assert (serving.gauges.running, serving.gauges.peak_running) == (0, 2)


@in_virtual_time
async def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown preset 'b200'"):
        serving_for(Settings(preset="b200"), asyncio.get_running_loop())
