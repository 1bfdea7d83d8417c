"""Counts over the last seconds: exact, and forgotten whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.windows import Tally


def test_what_is_older_than_the_window_is_gone_and_what_is_younger_is_whole():
    tally = Tally(10.0)
    for second in range(10):
        tally.add(second + 0.5)
        tally.mark(second + 0.5)
    assert tally.counts(9.9) == (10, 10)
    assert tally.counts(10.0) == (9, 9)
    assert tally.counts(18.9) == (1, 1)
    assert tally.counts(19.0) == (0, 0)


def test_a_late_told_thing_counts_now_and_not_in_the_past():
    tally = Tally(10.0)
    tally.add(100.0)
    tally.add(3.0)
    assert tally.counts(100.5) == (2, 0)


def test_buckets_that_no_float_hits_exactly_lose_nothing():
    tally = Tally(1.0)
    for tenth in range(1, 1000):
        tally.add(tenth * 0.1)
        tally.mark(tenth * 0.1)
        total, marked = tally.counts(tenth * 0.1)
        assert total == marked and min(tenth, 9) <= total <= 11


def test_another_window_begins_empty_and_the_same_one_goes_on():
    tally = Tally(10.0)
    tally.add(1.0)
    tally.resize(10.0)
    assert tally.counts(1.0) == (1, 0)
    tally.resize(5.0)
    assert tally.counts(1.0) == (0, 0)
    tally.add(1.0)
    assert tally.counts(5.9) == (1, 0)
    assert tally.counts(6.0) == (0, 0)


@given(
    st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=60),
    st.sampled_from((1.25, 5.0, 10.0)),
)
def test_it_counts_what_a_list_of_everything_would(steps, window_s):
    tally, now_s, seen = Tally(window_s), 0.0, []
    for gap_s, is_marked in steps:
        now_s += gap_s
        tally.add(now_s)
        if is_marked:
            tally.mark(now_s)
        seen.append((now_s, is_marked))
    bucket_s = window_s / 10
    recent = [marked for at_s, marked in seen if at_s // bucket_s > now_s // bucket_s - 10]
    assert tally.counts(now_s) == (len(recent), sum(recent))


def test_its_line_for_the_operator():
    tally = Tally(10.0)
    tally.add(1.0)
    tally.add(1.0)
    tally.mark(1.0)
    assert repr(tally) == "<Tally 1/2>"
