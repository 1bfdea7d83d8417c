"""A record that cannot be counted or logged never becomes the client's problem."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from gateway.ports import RequestRecord
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observer


class BrokenLog:
    def __init__(self) -> None:
        self.asked = 0

    def record(self, record: RequestRecord) -> None:
        self.asked += 1
        raise RuntimeError("broken")


def test_failures_are_counted_and_logged_once(
    record: Callable[..., RequestRecord], caplog: pytest.LogCaptureFixture
) -> None:
    metrics, log = Metrics(float), BrokenLog()
    observer = Observer(metrics, log)  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            observer.record(record())
    assert metrics.failures == 3
    assert len(caplog.records) == 1
    assert sum(series.count for series in metrics.requests.values()) == 3


def test_a_record_that_breaks_the_metrics_is_still_logged(record: Callable[..., RequestRecord]) -> None:
    metrics, log = Metrics(float), BrokenLog()
    Observer(metrics, log).record(record(duration_s="never"))  # type: ignore[arg-type]
    assert log.asked == 1
    assert metrics.failures == 2
