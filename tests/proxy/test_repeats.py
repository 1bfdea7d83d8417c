"""Heads that come again: what is known without the parser, and what never is."""

from __future__ import annotations

import pytest

from gateway.proxy.repeats import RepeatedHead


def message(body_bytes: int, said: bytes | None = None, path: bytes = b"/") -> bytes:
    length = b"%d" % body_bytes if said is None else said
    return b"POST %b HTTP/1.1\r\nContent-Length: %b\r\nhost: a\r\n\r\n%b" % (path, length, b"x" * body_bytes)


def after(first: bytes) -> RepeatedHead:
    head = RepeatedHead()
    head.learn(first)
    return head


def test_the_same_head_is_known_with_any_length():
    head = after(message(50))
    for body_bytes in (50, 51, 7, 7, 3000, 42, 5, 123_456, 50):
        whole = message(body_bytes)
        assert head.body_start(whole) == len(whole) - body_bytes, body_bytes


@pytest.mark.parametrize("before", [0, 9, 10, 99, 500, 1000])
@pytest.mark.parametrize("now", [0, 1, 9, 10, 11, 98, 99, 100, 101, 998, 999, 1000, 1001])
def test_a_head_near_to_a_power_of_ten_is_known_or_left_to_the_parser(before, now):
    whole = message(now)
    assert after(message(before)).body_start(whole) in (0, len(whole) - now)
    for wrong in (now - 1, now + 1):
        assert after(message(before)).body_start(message(now, b"%d" % wrong)) == 0


@pytest.mark.parametrize("before", [0, 5, 50, 51, 500])
@pytest.mark.parametrize(
    "said", [b"49", b"51", b"5", b"500", b"-50", b"+50", b"050", b"5_0", b" 50", b"", b"x"]
)
def test_another_length_than_that_of_the_body_is_never_known(before, said):
    head = after(message(before))
    assert head.body_start(message(50, said)) == 0
    assert head.body_start(message(50)) == len(message(50)) - 50, "it has forgotten the head"


def test_what_is_cut_or_goes_on_is_not_known():
    whole = message(50)
    head = after(whole)
    assert not any(head.body_start(whole[:size]) for size in range(len(whole)))
    assert head.body_start(whole + b"G") == 0
    assert head.body_start(whole + whole) == 0
    assert head.body_start(message(50, path=b"/x")) == 0


def test_before_the_first_head_nothing_is_known():
    for begun in (b"", b"\0", b"\0\0", b"\x000\r", b"\x001\rx", b"0", b"-1", message(50)):
        assert RepeatedHead().body_start(begun) == 0, begun
