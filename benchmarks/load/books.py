"""What happened, told twice: by the clients' record and by the gateways' access logs; and who had slots.

All times are Unix seconds. The logs' are whole milliseconds; clients and gateways share one clock.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One request as its client saw it. `outcome` is ok, refused, left or failed."""

    request_id: str
    kind: str
    due_s: float
    sent_s: float
    took_s: float
    outcome: str
    error: str | None
    ttft_s: float | None
    tier: str | None
    spill_reason: str | None


class Served(NamedTuple):
    """One request as its gateway logged it. If it has a tier it had a slot from `admitted_s` to `ended_s`."""

    request_id: str
    began_s: float
    admitted_s: float
    ended_s: float
    status: int
    error_code: str | None
    tier: str | None
    attempts: int
    spill_reason: str | None
    reason: str | None

    @property
    def is_refused(self) -> bool:
        return self.status == 429


def read_record(lines: Iterable[str]) -> tuple[float, list[Asked]]:
    """When the load began, and its requests in the order in which they were due."""
    start_s, asked = 0.0, []
    for line in lines:
        fields = json.loads(line)
        if "start_s" in fields:
            start_s = fields["start_s"]
        else:
            names = [fields["id"], *(fields[name] for name in Asked._fields[1:])]
            asked.append(Asked(*names))
    return start_s, sorted(asked, key=lambda one: one.due_s)


def read_access_log(lines: Iterable[str]) -> list[Served]:
    return [_served(json.loads(line)) for line in lines]


def _served(fields: dict[str, Any]) -> Served:
    ended_s = datetime.fromisoformat(fields["ts"]).timestamp()
    began_s = ended_s - fields["duration_ms"] / 1000
    waited_s = min(fields["queue_ms"] + fields["overhead_ms"], fields["duration_ms"]) / 1000
    return Served(
        fields["request_id"], began_s, began_s + waited_s, ended_s, fields["status"], fields["error_code"],
        fields["tier"] or None, fields["attempts"], fields["spill_reason"], fields["reason"],
    )  # fmt: skip


@dataclass(frozen=True)
class Occupancy:
    """How many slots of one tier were in use, at any moment."""

    _changed_s: Sequence[float]
    _in_flight: Sequence[int]

    @classmethod
    def of(cls, served: Iterable[Served], tier: str) -> Occupancy:
        mine = [one for one in served if one.tier == tier]
        changes = [(one.admitted_s, 1) for one in mine] + [(one.ended_s, -1) for one in mine]
        # At equal times the one that comes before the one that goes: times are rounded to milliseconds.
        changes.sort(key=lambda change: (change[0], -change[1]))
        return cls([at_s for at_s, _ in changes], list(accumulate(step for _, step in changes)))

    def most(self, from_s: float, to_s: float) -> int:
        """The highest count between two moments, both included."""
        first, last = bisect_right(self._changed_s, from_s) - 1, bisect_right(self._changed_s, to_s) - 1
        if last < 0:
            return 0
        return max(self._in_flight[max(first, 0) : last + 1])

    def first_at(self, count: int, from_s: float) -> float | None:
        """When it first had so many, at or after `from_s`."""
        for place in range(bisect_left(self._changed_s, from_s), len(self._changed_s)):
            if self._in_flight[place] >= count:
                return self._changed_s[place]
        return None
