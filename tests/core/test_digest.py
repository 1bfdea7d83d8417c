"""First-byte times as a histogram: quantiles within a bucket, a minute of memory, mergeable."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.digest import BUCKETS, LOWEST_S, LatencyDigest, bucket_of, upper_bound_s


def digest_of(*seconds: float, at_s: float = 0.0) -> LatencyDigest:
    digest = LatencyDigest()
    for sample in seconds:
        digest.add(sample, at_s)
    return digest


@given(st.floats(0, 1500))
def test_a_sample_lies_within_its_bucket(seconds):
    bucket = bucket_of(seconds)
    assert seconds <= upper_bound_s(bucket) * (1 + 1e-9)
    if bucket:
        assert seconds >= upper_bound_s(bucket - 1) * (1 - 1e-9)


def test_what_is_off_the_scale_is_at_its_ends():
    assert bucket_of(-1.0) == bucket_of(0.0) == bucket_of(LOWEST_S) == 0
    assert bucket_of(1e9) == BUCKETS - 1
    assert upper_bound_s(BUCKETS - 1) > 29 * 60


@given(st.lists(st.floats(0.001, 100), min_size=20, max_size=200), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_is_never_too_low_and_at_most_a_bucket_too_high(samples, share):
    exact = sorted(samples)[ceil(share * len(samples)) - 1]
    told = digest_of(*samples).quantile_s(share, 1.0)
    assert exact * (1 - 1e-9) <= told <= exact * 2**0.25 * (1 + 1e-9)


def test_a_few_samples_say_nothing():
    assert digest_of(*[0.1] * 19).quantile_s(0.99, 0.0) is None
    assert digest_of(*[0.1] * 20).quantile_s(0.99, 0.0) == pytest.approx(0.1, rel=0.19)


def test_samples_are_forgotten_after_a_minute_and_no_sooner_than_fifty_seconds():
    digest = digest_of(*[5.0] * 50, at_s=9.9)
    assert sum(digest.counts(59.9)) == 50
    assert sum(digest.counts(60.0)) == 0
    digest = digest_of(*[5.0] * 50, at_s=9.9)
    assert sum(digest.counts(10_000.0)) == 0, "after a long pause too"
    digest.add(1.0, 10_001.0)
    assert sum(digest.counts(10_001.0)) == 1


def test_a_quantile_is_fresh_within_half_a_second():
    digest = digest_of(*[0.1] * 30)
    assert digest.quantile_s(0.5, 0.0) == pytest.approx(0.1, rel=0.19)
    for _ in range(100):
        digest.add(2.0, 0.1)
    assert digest.quantile_s(0.5, 0.4) == pytest.approx(0.1, rel=0.19)
    assert digest.quantile_s(0.5, 0.5) == pytest.approx(2.0, rel=0.19)


def test_a_busy_backend_is_sampled_and_its_counts_and_quantiles_stay_right():
    digest = LatencyDigest()
    for number in range(100_000):
        digest.add(0.1 if number % 100 < 97 else 3.0, 1.0)
    assert sum(digest.counts(1.0)) == pytest.approx(100_000, abs=16)
    assert digest.quantile_s(0.95, 1.0) == pytest.approx(0.1, rel=0.19)
    assert digest.quantile_s(0.99, 1.0) == pytest.approx(3.0, rel=0.19)
    for _ in range(30):
        digest.add(0.5, 61.0)
    assert sum(digest.counts(61.0)) >= 30 - 16, "a new slot is exact again"
