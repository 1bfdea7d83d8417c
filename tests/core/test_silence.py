"""What a backend owes: who waits, and since when nothing has come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.silence import PROMPTS_S, Silence


def asked(times: int, at_s: float = 0.0) -> Silence:
    silence = Silence()
    for _ in range(times):
        silence.asked(1024, at_s)
    return silence


def test_an_idle_backend_owes_nothing():
    silence = Silence()
    assert silence.owed_s(100.0) == silence.witnessed_s(100.0) == 0.0
    silence = asked(1, at_s=1.0)
    silence.answered(2.0)
    assert silence.owed_s(100.0) == 0.0


def test_silence_begins_with_the_first_that_waits_and_every_byte_ends_it():
    silence = asked(2, at_s=1.0)
    silence.asked(1024, 3.0)
    assert silence.owed_s(4.0) == 3.0
    silence.heard(5.0)
    assert silence.owed_s(6.0) == 1.0
    silence.answered(7.0)
    assert silence.owed_s(7.5) == 0.5, "two wait on"


def test_it_takes_three_to_witness_a_silence():
    silence = asked(2, at_s=0.0)
    assert silence.witnessed_s(50.0) == 0.0
    silence.asked(1024, 50.0)
    assert silence.witnessed_s(60.0) == 10.0


def test_who_leaves_may_have_been_the_one_that_waited_longest():
    silence = asked(5)
    silence.answered(0.0)
    silence.gave_up(8.0)
    assert silence.witnessed_s(10.0) == 10.0, "three of the four are left for certain"
    silence.gave_up(10.0)
    assert silence.witnessed_s(10.0) == 0.0, "two are no witnesses"
    silence.asked(1024, 11.0)
    assert silence.witnessed_s(15.0) == 4.0


def test_clients_that_come_and_give_up_prove_nothing_but_slowness():
    """A backend of two seconds whose clients wait for one: nobody ever gets a byte."""
    silence, waiting = Silence(), []
    for step in range(600):
        now_s = step / 20
        silence.asked(1024, now_s)
        waiting.append(now_s)
        if now_s - waiting[0] >= 1.0:
            waiting.pop(0)
            silence.gave_up(now_s)
        assert silence.witnessed_s(now_s) <= 1.0 + 1e-9
    assert silence.owed_s(30.0) == 30.0


def test_the_clock_stands_still_while_nobody_asks():
    silence = asked(1)
    silence.gave_up(1.0)
    assert silence.owed_s(500.0) == 1.0
    silence.asked(1024, 500.0)
    assert silence.owed_s(502.0) == 3.0
    silence.answered(502.0)
    assert silence.owed_s(502.0) == 0.0


def test_the_largest_prompt_counts_for_a_while():
    silence = asked(1)
    silence.asked(500 * 1024, 1.0)
    silence.asked(1024, PROMPTS_S + 1.0)
    assert silence.largest_prompt_kib == 500.0
    silence.asked(1024, 2 * PROMPTS_S + 2.0)
    assert silence.largest_prompt_kib == 1.0


@given(st.lists(st.tuples(st.sampled_from("abgh"), st.floats(0, 5)), max_size=60))
def test_three_have_really_waited_as_long_as_is_said(steps):
    """Against a list of everybody, whoever it is that leaves or is answered."""
    silence, waiting, now_s, heard_s = Silence(), [], 0.0, 0.0
    for number, (what, gap_s) in enumerate(steps):
        now_s += gap_s
        if what == "a":
            silence.asked(1024, now_s)
            waiting.append(now_s)
        elif what == "h":
            silence.heard(now_s)
            heard_s = now_s
        elif waiting:
            waiting.pop(number % len(waiting))
            if what == "b":
                silence.answered(now_s)
                heard_s = now_s
            else:
                silence.gave_up(now_s)
        assert silence.waiting == len(waiting)
        third = sorted(waiting)[2] if len(waiting) >= 3 else now_s
        assert silence.witnessed_s(now_s) <= now_s - max(third, heard_s) + 1e-9
