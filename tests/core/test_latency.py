"""Latency as routing sees it, and how often slots come free."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.latency import DECAY_S, INITIAL_S, MAX_PENALTY_S, PeakEwma, SlotGap


def ewma(*samples: tuple[float, float]) -> PeakEwma:
    """Each sample is (seconds, at_s)."""
    made = PeakEwma()
    for latency_s, at_s in samples:
        made.observe(latency_s, at_s)
    return made


def test_before_the_first_sample_all_look_alike():
    assert PeakEwma().value_s(0.0) == PeakEwma().value_s(1e6) == INITIAL_S


def test_the_first_sample_counts_in_full():
    assert ewma((0.2, 5.0)).value_s(5.0) == 0.2


def test_a_peak_counts_at_once_and_in_full():
    assert ewma((0.1, 0.0), (3.0, 0.0)).value_s(0.0) == 3.0
    assert ewma((0.1, 0.0), (3.0, 7.0)).value_s(7.0) == 3.0


def test_a_better_sample_counts_by_the_time_that_has_passed():
    assert ewma((1.0, 0.0), (0.2, 0.0)).value_s(0.0) == 1.0, "no time, no change"
    kept = exp(-0.5)
    assert ewma((1.0, 0.0), (0.2, DECAY_S / 2)).value_s(DECAY_S / 2) == pytest.approx(kept + 0.2 * (1 - kept))


def test_good_samples_bring_a_slow_spell_down_step_by_step():
    average = ewma((5.0, 0.0))
    seen = []
    for second in range(1, 61):
        average.observe(0.1, float(second))
        seen.append(average.value_s(float(second)))
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 4.0, "one good sample forgives nothing"
    assert seen[-1] == pytest.approx(0.1, rel=0.25)


def test_an_idle_one_forgets():
    average = ewma((1.0, 0.0))
    assert average.value_s(DECAY_S) == pytest.approx(exp(-1))
    assert average.value_s(30 * DECAY_S) == INITIAL_S


def test_reading_changes_nothing():
    average = ewma((1.0, 0.0))
    average.value_s(100.0)
    assert average.value_s(0.0) == 1.0


def test_a_late_told_sample_does_not_turn_time_back():
    average = ewma((1.0, 10.0), (0.5, 4.0))
    assert average.value_s(10.0) == 1.0
    assert average.value_s(9.0) == 1.0, "no growth before the last sample"


@given(st.lists(st.tuples(st.floats(0, 600), st.floats(0, 30)), min_size=1, max_size=20))
def test_the_average_stays_between_the_best_and_the_worst_sample(steps):
    average, now_s = PeakEwma(), 0.0
    for latency_s, passed_s in steps:
        now_s += passed_s
        average.observe(latency_s, now_s)
        assert INITIAL_S <= average.value_s(now_s) <= max(INITIAL_S, *(sample for sample, _ in steps))
        assert average.value_s(now_s) >= min(sample for sample, _ in steps) * (1 - 1e-9)


def test_its_line_for_the_operator():
    assert repr(ewma((0.25, 0.0))) == "<PeakEwma 250.0 ms>"


def gap_after(*freed_at_s: float) -> float | None:
    gap = SlotGap()
    for now_s in freed_at_s:
        gap.slot_freed(now_s)
    return gap.gap_s


def test_one_slot_freed_is_no_gap_yet():
    assert SlotGap().gap_s is gap_after() is gap_after(5.0) is None


def test_the_first_gap_counts_in_full_and_later_ones_an_eighth():
    assert gap_after(5.0, 7.0) == 2.0
    assert gap_after(5.0, 7.0, 17.0) == pytest.approx(2.0 * 7 / 8 + 10.0 / 8)


def test_slots_freed_together_bring_the_gap_down():
    assert gap_after(0.0, 8.0, 8.0, 8.0) == pytest.approx(8.0 * (7 / 8) ** 2)


def test_the_gap_begins_with_the_work_and_not_with_the_slot_freed_before_a_pause():
    gap = SlotGap()
    gap.work_began(10.0)
    gap.slot_freed(12.0)
    assert gap.gap_s == 2.0
    gap.work_began(5000.0)
    gap.slot_freed(5002.0)
    assert gap.gap_s == pytest.approx(2.0)


# --- what did not succeed ----------------------------------------------------------------------------


def test_an_abandoned_wait_can_only_raise_the_average():
    average = ewma((0.2, 0.0))
    average.waited(0.1, 0.0)
    assert average.value_s(0.0) == 0.2, "a client in a hurry says nothing good"
    average.waited(1.0, 0.0)
    assert average.value_s(0.0) == 1.0


def test_a_fast_failure_never_looks_fast_and_each_one_in_a_row_looks_worse():
    average = ewma((0.2, 0.0))
    seen = []
    for _ in range(8):
        average.failed(0.005, 0.0)
        seen.append(average.value_s(0.0))
    assert seen == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MAX_PENALTY_S, MAX_PENALTY_S]
    slow = ewma((0.2, 0.0))
    slow.failed(90.0, 0.0)
    assert slow.value_s(0.0) == 90.0


def test_a_newcomer_that_fails_is_not_cheaper_than_one_that_works():
    newcomer, known = PeakEwma(), ewma((0.5, 0.0))
    newcomer.failed(0.001, 0.0)
    assert newcomer.value_s(0.0) > known.value_s(0.0)


def test_a_new_beginning_forgives_what_is_worse_than_typical():
    average = ewma((30.0, 0.0))
    average.forgive(0.4)
    assert average.value_s(0.0) == 0.4
    average.forgive(2.0)
    assert average.value_s(0.0) == 0.4
