"""The fault taxonomy: every way an attempt can end, and what it teaches, as two tables.

Three verdicts, not a boolean: a caller's mistake, a client that left and a backend that is full say nothing
about a backend's health, and must neither open a circuit nor close one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """What breaker and limits learn from one attempt: a caller's error teaches them nothing."""

    SUCCESS = "success"
    IGNORED = "ignored"
    DROPPED = "dropped"


class Reason(StrEnum):
    """Why an attempt ended as it did."""

    COMPLETED = "completed"
    CLIENT_ERROR = "client_error"
    CLIENT_LEFT = "client_left"
    OVERTAKEN = "overtaken"
    REFUSED = "refused"
    BACKEND_FULL = "backend_full"
    SHUTDOWN = "shutdown"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    RESET = "reset"
    SERVER_ERROR = "server_error"
    BAD_RESPONSE = "bad_response"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    HUNG = "hung"
    STALL_TIMEOUT = "stall_timeout"
    TRUNCATED = "truncated"
    TOTAL_TIMEOUT = "total_timeout"


class Lesson(NamedTuple):
    """One row: what happened, and what it teaches.

    `may_move`: another backend may try, of any tier; whatever is worth a second try at all is worth it
    anywhere. `cuts_limit`: backpressure. `is_slow`: found out by waiting, so the next trial may cost a
    client that wait too. `is_late`: happens after the first byte, so a first byte does not disprove it.
    """

    verdict: Verdict
    happened: str
    may_move: bool = False
    cuts_limit: bool = False
    is_slow: bool = False
    is_late: bool = False


_S, _I, _D = Verdict.SUCCESS, Verdict.IGNORED, Verdict.DROPPED

LESSONS: dict[Reason, Lesson] = {
    Reason.COMPLETED: Lesson(_S, "a whole answer with a status below 400"),
    Reason.CLIENT_ERROR: Lesson(_I, "a whole answer with another 4xx: the caller's own error, final"),
    Reason.CLIENT_LEFT: Lesson(_I, "the client went away, or the deadline that it set has passed"),
    Reason.OVERTAKEN: Lesson(_I, "a second attempt of the same request answered first"),
    Reason.REFUSED: Lesson(_I, "the gateway itself refused: bad input, no capacity, no longer admitted"),
    Reason.BACKEND_FULL: Lesson(_I, "429 or 503: full, not broken", may_move=True, cuts_limit=True),
    Reason.SHUTDOWN: Lesson(_I, "the gateway shuts down"),
    Reason.CONNECT_FAILED: Lesson(_D, "the connection was refused or could not be made", may_move=True),
    Reason.CONNECT_TIMEOUT: Lesson(_D, "no connection in time", may_move=True),
    Reason.RESET: Lesson(_D, "closed or reset before the first body byte", may_move=True),
    Reason.SERVER_ERROR: Lesson(_D, "a whole answer with another 5xx", may_move=True),
    Reason.BAD_RESPONSE: Lesson(_D, "an answer that is not valid HTTP", may_move=True),
    Reason.FIRST_BYTE_TIMEOUT: Lesson(_D, "no first body byte in time", may_move=True, is_slow=True),
    Reason.HUNG: Lesson(_D, "no byte on any exchange for longer than its p99 explains", True, is_slow=True),
    Reason.STALL_TIMEOUT: Lesson(_D, "silence after the first byte", is_slow=True, is_late=True),
    Reason.TRUNCATED: Lesson(_D, "cut short after the first byte", is_late=True),
    Reason.TOTAL_TIMEOUT: Lesson(_D, "longer than a request may take", is_slow=True, is_late=True),
}


class StatusRule(NamedTuple):
    """What a whole answer of one of `statuses` counts as. The first rule that fits decides."""

    shown: str
    statuses: Collection[int]
    reason: Reason
    may_move: bool


# RFC 9110 15.5: a 4xx other than 429 is the caller's own, whoever would be asked. Of the other 5xx, such as
# 501 and 505, the next backend says the same: they are passed on, and still count against the one that sent.
STATUS_RULES: tuple[StatusRule, ...] = (
    StatusRule("below 400", range(400), Reason.COMPLETED, False),
    StatusRule("429, 503", (429, 503), Reason.BACKEND_FULL, True),
    StatusRule("other 4xx", range(400, 500), Reason.CLIENT_ERROR, False),
    StatusRule("500, 502, 504", (500, 502, 504), Reason.SERVER_ERROR, True),
    StatusRule("other 5xx", range(500, 1000), Reason.SERVER_ERROR, False),
)
# A status line has three digits.
_RULE_OF = {
    status: next(rule for rule in STATUS_RULES if status in rule.statuses) for status in range(100, 1000)
}


def may_succeed_elsewhere(status: int) -> bool:
    """Whether an answer of this status, before its first body byte has gone on, is worth a second try."""
    return _RULE_OF[status].may_move


def reason_of_status(status: int) -> Reason:
    """What an answer of this status, received whole, counts as."""
    return _RULE_OF[status].reason


def may_move(reason: Reason) -> bool:
    """Whether an attempt that failed for `reason` before its first byte may be repeated elsewhere."""
    return LESSONS[reason].may_move


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One verdict with its reason. There is one object for each reason: see `of`."""

    verdict: Verdict
    reason: Reason

    @classmethod
    def of(cls, reason: Reason) -> Outcome:
        """What an attempt that ended for `reason` teaches."""
        return OUTCOMES[reason]


OUTCOMES = {reason: Outcome(LESSONS[reason].verdict, reason) for reason in Reason}
SUCCESS = OUTCOMES[Reason.COMPLETED]
