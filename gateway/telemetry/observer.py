"""The Telemetry port: one RequestRecord in, metrics and an access-log line out."""

from __future__ import annotations

import logging

from gateway.ports import RequestRecord
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class Observer:
    """Never raises: a request that went well must not fail because it could not be counted."""

    def __init__(self, metrics: Metrics, access_log: AccessLog | None = None) -> None:
        self._metrics = metrics
        self._access_log = access_log

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

    def _failed(self, exc: Exception) -> None:
        self._metrics.failures += 1
        # Once: what fails for one request fails for thousands a second.
        if self._metrics.failures == 1:
            logger.error("a request could not be recorded (further failures are only counted)", exc_info=exc)
