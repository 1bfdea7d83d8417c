"""Made-up workloads: their rates, and what is said of a mistake."""

from __future__ import annotations

import pytest

from gateway.sim.workloads import WorkloadError, make_workload


def rate(text: str, first_s: float, last_s: float) -> float:
    return sum(first_s <= a.at_s < last_s for a in make_workload(text, 1)) / (last_s - first_s)


@pytest.mark.parametrize("peak", ["1.5x", "2x", "3x", "10x"])
def test_a_day_has_the_mean_and_the_peak_that_were_asked_for(peak):
    text = f"diurnal(mean=10rps, peak={peak}, period=20m) + span(for=40m)"
    assert rate(text, 0, 2400) == pytest.approx(10, rel=0.04)
    most = 10 * float(peak.rstrip("x"))
    assert rate(text, 590, 610) == pytest.approx(most, rel=0.25)
    assert rate(text, 0, 30) < 10


def test_parts_add_up_and_bursts_come_again():
    text = "steady(rate=5rps) + burst(at=10s, rate=45rps, for=10s, every=50s) + span(for=2m)"
    assert rate(text, 20, 60) == pytest.approx(5, rel=0.3)
    assert rate(text, 10, 20) == pytest.approx(50, rel=0.2)
    assert rate(text, 60, 70) == pytest.approx(50, rel=0.2)
    ramp = "ramp(from=0rps, to=20rps, for=100s) + span(for=200s)"
    assert rate(ramp, 0, 100) == pytest.approx(10, rel=0.15)
    assert rate(ramp, 100, 200) == pytest.approx(20, rel=0.15)


def test_lengths_lie_around_their_medians_and_the_seed_decides():
    text = "steady(rate=10rps) + tokens(input=500, output=0) + span(for=5m)"
    first = make_workload(text, 1)
    assert sorted(a.input_tokens for a in first)[len(first) // 2] == pytest.approx(500, rel=0.1)
    assert {a.output_tokens for a in first} == {0}
    assert make_workload(text, 1) == first
    assert make_workload(text, 2) != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write NAME(key=value, ...)"),
        ("span(for=1m)", "has no rate; add steady"),
        ("stedy(rate=1rps)", "has 'stedy(rate=1rps)'"),
        ("steady()", "steady needs rate; write rate=20rps"),
        ("steady(rate=1)", "steady: rate must be a rate such as 20rps, not '1'"),
        ("steady(rat=1rps)", "steady has no 'rat'; it knows: rate"),
        ("diurnal(mean=1rps, peak=0.5x)", "peak must be at least 1x"),
        ("burst(rate=1rps, for=5)", "burst: for must have a unit"),
        ("steady(rate=100000rps)", "more than 5,000,000 requests; shorten it"),
        ("steady(rate=0rps)", "has no request in 3600 s; raise its rate"),
    ],
)
def test_a_mistake_is_one_line_with_a_fix(text, said):
    with pytest.raises(WorkloadError) as raised:
        make_workload(text, 0)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
