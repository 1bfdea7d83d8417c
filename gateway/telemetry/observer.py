"""The Telemetry port: one RequestRecord in, metrics, an access-log line and spans out."""

from __future__ import annotations

import logging
from typing import Protocol

from gateway.ports import RequestRecord
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class Spans(Protocol):
    """Who sends traces: spans.py, which is imported only where it is wanted."""

    def record(self, record: RequestRecord) -> None: ...


class Observer:
    """Never raises: a request that went well must not fail because it could not be counted."""

    def __init__(
        self, metrics: Metrics, access_log: AccessLog | None = None, spans: Spans | None = None
    ) -> None:
        self._metrics = metrics
        self._access_log = access_log
        self._spans = spans

    def record(self, record: RequestRecord) -> None:
        try:
            self._metrics.record(record)
        except Exception as exc:  # noqa: BLE001 - the port's promise; counted and logged, not swallowed
            self._failed(exc)
        if self._access_log is not None:
            try:
                self._access_log.record(record)
            except Exception as exc:  # noqa: BLE001 - as above
                self._failed(exc)
        if self._spans is not None:
            try:
                self._spans.record(record)
            except Exception as exc:  # noqa: BLE001 - as above
                self._failed(exc)

    def _failed(self, exc: Exception) -> None:
        self._metrics.failures += 1
        # Once: what fails for one request fails for thousands a second.
        if self._metrics.failures == 1:
            logger.error("a request could not be recorded (further failures are only counted)", exc_info=exc)
