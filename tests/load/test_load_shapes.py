"""Load shapes as functions of time, and the arrivals drawn from them."""

from __future__ import annotations

import pytest

from benchmarks.load.shapes import Arrival, Diurnal, Replay, Shape, Spike
from benchmarks.load.traces import Row


def between(shape: Shape, from_s: float, to_s: float, seed: int = 1) -> int:
    return sum(from_s <= arrival.at_s < to_s for arrival in shape.arrivals(seed))


def test_a_spike_begins_and_ends_from_one_moment_to_the_next():
    spike = Spike(base_rps=10, factor=12, before_s=10, spike_s=20, after_s=15)
    assert [spike.rate_at(at_s) for at_s in (0, 9.999, 10, 29.999, 30, 44)] == [10, 10, 120, 120, 10, 10]
    assert spike.duration_s == 45


def test_a_spikes_arrivals_come_at_its_rates():
    spike = Spike(base_rps=10, factor=12, before_s=100, spike_s=100, after_s=100)
    # Five standard deviations of a Poisson count on either side.
    assert between(spike, 0, 100) == pytest.approx(1_000, abs=160)
    assert between(spike, 100, 200) == pytest.approx(12_000, abs=550)
    assert between(spike, 200, 300) == pytest.approx(1_000, abs=160)
    assert between(spike, 300, 1_000) == 0


def test_what_comes_before_a_spike_does_not_depend_on_its_height():
    low, high = (list(Spike(factor=factor).arrivals(1)) for factor in (2, 12))
    assert [a for a in low if a.at_s < 10] == [a for a in high if a.at_s < 10]


def test_a_day_is_quiet_at_its_ends_and_busy_at_noon():
    day = Diurnal(base_rps=5, factor=4, period_s=100)
    assert [day.rate_at(at_s) for at_s in (0, 25, 50, 100)] == pytest.approx([5, 12.5, 20, 5])
    day = Diurnal(base_rps=50, factor=4, period_s=100)
    # The integral of the rate: 100 s at the mean of 50 and 200.
    assert between(day, 0, 100) == pytest.approx(12_500, abs=560)
    assert between(day, 45, 55) == pytest.approx(1_988, abs=230)
    assert between(day, 0, 5) == pytest.approx(253, abs=80)


@pytest.mark.parametrize("shape", [Spike(), Diurnal()])
def test_the_same_seed_gives_the_same_arrivals(shape: Shape):
    assert list(shape.arrivals(7)) == list(shape.arrivals(7)) != list(shape.arrivals(8))
    times_s = [arrival.at_s for arrival in shape.arrivals(7)]
    assert times_s == sorted(times_s)
    assert times_s[-1] < shape.duration_s


def test_a_replay_divides_the_times_and_keeps_the_sizes():
    rows = [Row(0.0, 10, 1), Row(3.0, 20, 2)]
    replay = Replay(rows, speed_up=2)
    assert list(replay.arrivals(1)) == [Arrival(0.0, rows[0]), Arrival(1.5, rows[1])]
    assert replay.duration_s == 1.5
