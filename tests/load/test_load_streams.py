"""What a client learns from a stream: when its tokens came, and whether it is whole."""

from __future__ import annotations

import json

import pytest

from benchmarks.load.streams import StreamReading


def chunk(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n"


def read(*lines: tuple[float, bytes], sent_s: float = 10.0) -> StreamReading:
    reading = StreamReading(sent_s)
    for at_s, line in lines:
        reading.line(line, at_s)
    return reading


def test_ttft_is_until_the_first_text_and_gaps_lie_between_texts():
    reading = read(
        (10.5, chunk(role="assistant", content="")),
        (10.5, b"\n"),
        (11.0, chunk(content="a")),
        (11.2, b": a comment keeps the connection alive\n"),
        (11.25, chunk(content="b")),
        (11.75, chunk(content="c")),
        (11.75, b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n'),
        (11.75, b"data: [DONE]\n"),
    )
    assert (reading.ttft_s, reading.gaps_s, reading.tokens) == (1.0, [0.25, 0.5], 3)
    assert reading.failure is None


def test_completions_tool_calls_and_thoughts_are_text_too():
    call = b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}\n'
    thought = chunk(reasoning_content="hm")
    completion = b'data: {"choices": [{"text": "t"}]}\r\n'
    assert read((11, call), (12, thought), (13, completion), (13, b"data: [DONE]\r\n")).tokens == 3


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        ([], "the stream ended without [DONE]"),
        ([chunk(content="a")], "the stream ended without [DONE]"),
        (
            [b'data: {"error": {"code": "upstream_timeout_stall"}}\n'],
            "an error event: upstream_timeout_stall",
        ),
        ([b'data: {"error": "gone"}\n', b"data: [DONE]\n"], "an error event: without a code"),
        ([b"data: {\n", b"data: [DONE]\n"], "an event that is not a JSON object"),
        ([b"data: [DONE]\n", chunk(content="late")], "an event after [DONE]"),
    ],
)
def test_a_stream_that_does_not_end_well_is_a_failure(lines: list[bytes], failure: str):
    assert read(*((11.0, line) for line in lines)).failure == failure


def test_a_stream_without_text_has_no_ttft():
    reading = read((11.0, chunk(role="assistant")), (11.5, b"data: [DONE]\n"))
    assert (reading.ttft_s, reading.tokens, reading.failure) == (None, 0, None)
