"""The step model's promises: exact durations, FCFS, KV never over, everything finishes exactly once."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sim.engine import A100_80, H100_80, L4_24, PRESETS, EnginePreset, Step, StepEngine

SMALL = EnginePreset("small", 10.0, 1.0, 4, 1000.0, kv_cache_tokens=60, max_num_seqs=3, max_batched_tokens=8)

requests = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=20)


def steps(engine: StepEngine, now_s: float = 0.0) -> Iterator[Step]:
    """Step until idle, each step starting where the last one ended."""
    while not engine.is_idle:
        step = engine.step(now_s)
        now_s = step.ends_s
        yield step


def submitted(sizes: list[tuple[int, int]], preset: EnginePreset = SMALL) -> StepEngine:
    engine = StepEngine(preset)
    for request_id, (input_tokens, output_tokens) in enumerate(sizes):
        engine.submit(request_id, input_tokens, output_tokens)
    return engine


def test_a_step_takes_what_the_formula_says() -> None:
    engine = submitted([(6, 3)])
    first, second, third = steps(engine, now_s=5.0)
    assert first.starts_s == 5.0
    assert first.duration_s == pytest.approx(0.010 + 0.001 * 2)  # 6 tokens computed, 4 free, no context yet
    assert second.duration_s == pytest.approx(0.010 + 0.006)  # 1 token computed, 6 of context
    assert third.duration_s == pytest.approx(0.010 + 0.007)
    assert (first.first_tokens, second.first_tokens) == ((0,), ())
    assert (second.finished, third.finished) == ((), (0,))


def test_a_long_prompt_is_prefilled_in_chunks() -> None:
    engine = submitted([(20, 1)])
    assert [step.tokens for step in steps(engine)] == [(), (), (0,)]


def test_decodes_come_before_prefills_in_the_token_budget() -> None:
    engine = submitted([(2, 9), (20, 1)])
    history = list(steps(engine))
    assert history[0].tokens == (0,)  # 2 + 6 of the second prompt fill the budget of 8
    assert history[1].tokens == (0,)  # 1 + 7
    assert history[2].tokens == (0, 1)  # 1 + the last 7


def test_a_head_without_kv_room_blocks_those_behind_it() -> None:
    engine = submitted([(8, 32), (8, 32), (1, 1)])
    engine.step(0.0)
    engine.step(0.1)
    assert (engine.running, engine.waiting) == (1, 2)


def test_an_idle_step_takes_no_time() -> None:
    assert StepEngine(SMALL).step(3.0) == Step(3.0, 3.0, (), (), ())


def test_what_can_never_run_is_refused() -> None:
    engine = submitted([(1, 1)])
    with pytest.raises(ValueError, match="never fit"):
        engine.submit(1, 60, 1)
    with pytest.raises(ValueError, match="already here"):
        engine.submit(0, 1, 1)
    with pytest.raises(ValueError, match="at least one"):
        engine.submit(2, 0, 1)


def test_a_batch_smaller_than_its_seats_is_refused() -> None:
    with pytest.raises(ValueError, match="max_batched_tokens"):
        replace(H100_80, max_num_seqs=10_000)


def test_the_presets_are_those_of_the_design() -> None:
    assert PRESETS == {"h100-80": H100_80, "a100-80": A100_80, "l4-24": L4_24}
    lone = StepEngine(H100_80)
    lone.submit(0, 512, 2)
    first, second = steps(lone)
    assert first.duration_s * 1e3 == pytest.approx(7.2 + (512 - 150) * 0.025)
    assert second.duration_s * 1e3 == pytest.approx(7.2 + 512 * 0.052e-3)


def test_steps_are_listed_in_readable_form() -> None:
    assert repr(submitted([(5, 5)])) == "StepEngine(small: running 0/3, waiting 1, kv 0/60)"


@given(requests)
def test_seats_and_kv_are_never_over(sizes: list[tuple[int, int]]) -> None:
    engine = submitted(sizes)
    for _ in steps(engine):
        assert 0 <= engine.kv_used_tokens <= engine.kv_reserved_tokens <= SMALL.kv_cache_tokens
        assert engine.running <= SMALL.max_num_seqs
    assert (engine.kv_used_tokens, engine.kv_reserved_tokens) == (0, 0)


@given(requests)
def test_everything_finishes_exactly_once_with_all_its_tokens(sizes: list[tuple[int, int]]) -> None:
    tokens = dict.fromkeys(range(len(sizes)), 0)
    finished: list[int] = []
    for step in steps(submitted(sizes)):
        assert step.duration_s > 0
        for request_id in step.tokens:
            tokens[request_id] += 1
        finished += step.finished
    assert sorted(finished) == sorted(tokens)
    assert list(tokens.values()) == [output_tokens for _, output_tokens in sizes]


@given(requests)
def test_first_tokens_come_in_the_order_of_submission(sizes: list[tuple[int, int]]) -> None:
    first = [request_id for step in steps(submitted(sizes)) for request_id in step.first_tokens]
    assert first == list(range(len(sizes)))


@given(requests, st.data())
@settings(max_examples=50)
def test_cancel_frees_all_and_the_others_still_finish(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    engine = submitted(sizes)
    victims = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    for _ in range(data.draw(st.integers(0, 8))):
        engine.step(0.0)
    gone = {victim for victim in victims if engine.cancel(victim)}
    assert not any(engine.cancel(victim) for victim in gone)
    finished = [request_id for step in steps(engine) for request_id in step.finished]
    assert not gone & set(finished)
    assert len(finished) == len(set(finished))
    assert (engine.kv_used_tokens, engine.kv_reserved_tokens, engine.running) == (0, 0, 0)


def test_a_cancelled_id_may_come_again() -> None:
    engine = submitted([(1, 5)])
    engine.step(0.0)
    assert engine.cancel(0)
    engine.submit(0, 1, 9)
    assert sum(len(step.tokens) for step in steps(engine)) == 9
