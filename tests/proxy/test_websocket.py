"""Frames followed at every cut, and the model in a query read in one way only."""

from __future__ import annotations

import pytest

from gateway.proxy.errors import Refusal
from gateway.proxy.queries import model_in_query, with_query_model
from gateway.proxy.websocket import MAX_FRAMES_PER_SEGMENT, FrameCount, close_frame

FRAMES = (
    b"\x81\x00",
    b"\x82\x7d" + b"a" * 125,
    b"\x82\x7e\x01\x00" + b"b" * 256,
    b"\x82\x7f" + (70_000).to_bytes(8, "big") + b"c" * 70_000,
    b"\x89\x84mask" + b"ping",
    close_frame(1000, b"bye", mask=0xDEADBEEF),
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 100_000])
def test_between_two_frames_and_nowhere_else_another_may_be_put(size):
    wire, ends, at = b"".join(FRAMES), {0}, 0
    for frame in FRAMES:
        at += len(frame)
        ends.add(at)
    count = FrameCount()
    for start in range(0, len(wire), size):
        assert count.is_between is (start in ends), start
        count.follow(wire[start : start + size])
    assert count.is_between


def test_a_flood_of_empty_frames_is_not_counted_through():
    count = FrameCount()
    count.follow(b"\x81\x00" * (MAX_FRAMES_PER_SEGMENT - 1))
    assert count.is_between
    count.follow(b"\x81\x00" * 100_000)
    assert not count.is_between
    count.follow(b"")
    assert not count.is_between, "once lost it stays lost"


@pytest.mark.parametrize(
    ("target", "model"),
    [
        (b"/v1/realtime", None),
        (b"/v1/realtime?", None),
        (b"/v1/realtime?intent=transcription&models=x", None),
        (b"/v1/realtime?model=gpt-4o", "gpt-4o"),
        (b"/v1/realtime?a&model=org%2Fm+x&b=2", "org/m x"),
        (b"/v1/realtime?m%6Fdel=x&&", "x"),
        (b"/v1/realtime?model=%ff", "\ufffd"),
        (b"/v1/realtime?model=", ""),
    ],
)
def test_the_model_of_a_query(target, model):
    assert model_in_query(target) == model
    renamed = with_query_model(target, b"a/b c&d")
    assert model_in_query(renamed) == (None if model is None else "a/b c&d")


@pytest.mark.parametrize("query", [b"model=a&model=a", b"model=a;x=1", b"x;model=a", b"model=a&%6dodel=b"])
def test_what_two_readers_may_read_differently(query):
    with pytest.raises(Refusal):
        model_in_query(b"/v1/realtime?" + query)
