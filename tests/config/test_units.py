"""Durations and sizes: what is written reads back as exactly the same value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.problems import BadValue
from gateway.config.units import (
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)
from gateway.core.admission import Rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("20ms", 0.02),
        ("0.5ms", 0.0005),
        ("2s", 2.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("0s", 0.0),
        ("10 s", 10.0),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("512B", 512),
        ("700KiB", 716_800),
        ("32MiB", 33_554_432),
        ("1.5GiB", 1_610_612_736),
    ],
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "250ms"),
        (1.5, "1500ms"),
        (2.0, "2s"),
        (90.0, "90s"),
        (600.0, "10m"),
        (7200.0, "2h"),
    ],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1KiB"), (1536, "1536"), (32 * 2**20, "32MiB")]
)
def test_a_size_is_written_in_its_largest_whole_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 10**9).map(lambda count: count / 1000))
def test_durations_of_whole_milliseconds_survive_a_round_trip(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.floats(1e-9, 1e9, allow_subnormal=False))
def test_odd_durations_survive_a_round_trip(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 2**50))
def test_sizes_survive_a_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 999), st.sampled_from(["ms", "s", "m", "h"]))
def test_a_written_duration_comes_back_as_the_same_time(count: int, unit: str) -> None:
    seconds = parse_duration(f"{count}{unit}")
    assert seconds == pytest.approx(count * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit])


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1s",
        "1s ",
        "s",
        "-1s",
        "+1s",
        "1e3s",
        "1,5s",
        ".5s",
        "1m30s",
        "\N{ARABIC-INDIC DIGIT ONE}s",
        "1S",
        "30",
    ],
)
def test_no_duration(text: str) -> None:
    with pytest.raises(BadValue):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1e3", "1 k i b", "1kib", "1KB", "1M", "0x10", "1.5", "\N{ARABIC-INDIC DIGIT THREE}", "KiB"],
)
def test_no_size(text: str) -> None:
    with pytest.raises(BadValue):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50/s", Rate(50, 1.0)), ("600 / m", Rate(600, 60.0)), ("10000/h", Rate(10_000, 3600.0))],
)
def test_rates(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize(
    "text", ["", "50", "/s", "50/", "-1/s", "1.5/s", "0/s", "1e3/s", "5/S", "5/ms", "5/d"]
)
def test_no_rate(text: str) -> None:
    with pytest.raises(BadValue):
        parse_rate(text)
