"""How soon a process is started again."""

from __future__ import annotations

from gateway.processes.restarts import GOOD_LIFE_S, Backoff, ending


def test_the_first_end_is_mended_at_once_and_each_one_after_it_later() -> None:
    backoff = Backoff()
    assert [backoff.pause_s(0.1) for _ in range(10)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_good_life_makes_it_forget() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.pause_s(1.0)
    assert backoff.pause_s(GOOD_LIFE_S) == 0
    assert [backoff.pause_s(1.0) for _ in range(2)] == [0, 0.5]


def test_it_never_overflows() -> None:
    backoff = Backoff()
    assert {backoff.pause_s(0.0) for _ in range(5000)} == {0, 0.5, 1, 2, 4, 8, 16, 30}


def test_an_ending_in_words() -> None:
    assert [ending(code) for code in (1, -9)] == ["exit code 1", "signal 9"]
