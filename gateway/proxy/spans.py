"""Spans of time that headers tell: how long a client still has, and when a full backend has room again."""

from __future__ import annotations

import re
from email.utils import mktime_tz, parsedate_tz

from gateway.proxy.errors import invalid
from gateway.proxy.headers import RequestHead, ResponseHead

_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_LINE = re.compile(rb"\r\n(retry-after(?:-ms)?|date):([^\r\n]*)", re.IGNORECASE)
MAX_DATE_BYTES = 64


def deadline_s(head: RequestHead) -> float | None:
    """How long the client still waits, from the first byte of its request. Raises Refusal."""
    if head.deadline is None:
        return None
    if _SECONDS.fullmatch(head.deadline) is None:
        name = "x-spillway-deadline"
        raise invalid(f"{name} must be the seconds left, such as 30 or 2.5.", param=name)
    return float(head.deadline)


def retry_after_s(head: ResponseHead) -> float | None:
    """What a backend asks for; None when it asks nothing that can be read.

    `retry-after-ms` is the more exact one and wins. An HTTP-date in Retry-After (RFC 9110 10.2.3) is taken
    from the answer's own Date: no clock of ours need agree with the backend's. Without a Date it is ignored.
    """
    told = {name.lower(): value.strip(b" \t") for name, value in _LINE.findall(head.forward)}
    asked_ms, asked = told.get(b"retry-after-ms", b""), told.get(b"retry-after", b"")
    if _SECONDS.fullmatch(asked_ms):
        return float(asked_ms) / 1000
    if _SECONDS.fullmatch(asked):
        return float(asked)
    until, now = _unix_s(asked), _unix_s(told.get(b"date", b""))
    return None if until is None or now is None else max(until - now, 0.0)


def _unix_s(http_date: bytes) -> float | None:
    """None for what is no date; a backend may send anything."""
    if len(http_date) > MAX_DATE_BYTES:
        return None
    try:
        parts = parsedate_tz(http_date.decode("latin-1"))
        return None if parts is None else float(mktime_tz(parts))
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
