"""Which answers are worth a second try elsewhere, and what each status says about its backend."""

from __future__ import annotations

from gateway.core.model import Reason

# "Full" or broken before its first body byte: another backend may still answer. Every other status is
# either good or the caller's own (RFC 9110 15.5), and final.
_RETRYABLE = frozenset((429, 500, 502, 503, 504))
_FULL = frozenset((429, 503))


def may_succeed_elsewhere(status: int) -> bool:
    return status in _RETRYABLE


def reason_of_status(status: int) -> Reason:
    """What an answer of this status, received whole, counts as."""
    if status < 400:
        return Reason.COMPLETED
    if status in _FULL:
        return Reason.BACKEND_FULL
    return Reason.SERVER_ERROR if status >= 500 else Reason.CLIENT_ERROR
