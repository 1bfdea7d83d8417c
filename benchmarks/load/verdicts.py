"""Did the fleet fill its tiers in order, refuse only when all were full, and come back at once?

Judged by the gateways' access logs: when each request had a slot, to the millisecond. A tier counts as full
for a request when it was at its limit at some moment from WINDOW_S before the request came until it was
placed or refused. The same with SLACK_S in place of WINDOW_S is told beside it: full at that very moment.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.load.books import Asked, Occupancy, Served
from benchmarks.load.shapes import Shape, Spike
from benchmarks.load.watching import Look

# The period at which an operator might look, and at which this benchmark does.
WINDOW_S = 0.1
# Log times are whole milliseconds, and a slot that one gateway gave back is another's a few later.
SLACK_S = 0.005
BACK_WITHIN_S = 1.0


class Verdict(NamedTuple):
    what: str
    measured: str
    goal: str
    is_met: bool


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run. Times are Unix seconds; `limits` are in the order of the tiers."""

    shape: Shape
    start_s: float
    limits: dict[str, int]
    asked: Sequence[Asked]
    served: Sequence[Served]
    looks: Sequence[Look]
    occupancy: dict[str, Occupancy] = field(init=False)

    def __post_init__(self) -> None:
        found = {tier: Occupancy.of(self.served, tier) for tier in self.limits}
        object.__setattr__(self, "occupancy", found)

    def was_full(self, tier: str, from_s: float, to_s: float) -> bool:
        return self.occupancy[tier].most(from_s, to_s) >= self.limits[tier]

    def higher_tiers(self, one: Served) -> list[str]:
        """Those that had to be full for this request to go where it went."""
        tiers = list(self.limits)
        return tiers if one.is_refused or one.tier is None else tiers[: tiers.index(one.tier)]

    def without_reason(self, served: Sequence[Served], before_s: float) -> list[Served]:
        """Requests that were placed lower, or refused, though a higher tier was never full meanwhile."""

        def has_reason(one: Served) -> bool:
            from_s = one.began_s - before_s
            to_s = (one.ended_s if one.is_refused else one.admitted_s) + SLACK_S
            return all(self.was_full(tier, from_s, to_s) for tier in self.higher_tiers(one))

        return [one for one in served if not has_reason(one)]


def judge(evidence: Evidence) -> list[Verdict]:
    verdicts = []
    if isinstance(evidence.shape, Spike):
        verdicts.append(_filled_in_order(evidence, evidence.start_s + evidence.shape.starts_s))
    verdicts += [_spills(evidence), _refusals(evidence)]
    if isinstance(evidence.shape, Spike):
        verdicts.append(_back(evidence, evidence.start_s + evidence.shape.ends_s))
    return [*verdicts, _failures(evidence), _limits(evidence), _agreement(evidence)]


def _filled_in_order(evidence: Evidence, spike_s: float) -> Verdict:
    moments = [evidence.occupancy[tier].first_at(limit, spike_s) for tier, limit in evidence.limits.items()]
    # A refusal is one when it is made: until then its request was waiting for a slot.
    refused_s = [one.ended_s for one in evidence.served if one.is_refused and one.ended_s >= spike_s]
    moments.append(min(refused_s, default=None))
    names = [*evidence.limits, "first 429"]
    told = ", ".join(
        f"{name} {'never' if at_s is None else f'{at_s - spike_s:.2f} s'}"
        for name, at_s in zip(names, moments, strict=True)
    )
    known = [at_s for at_s in moments if at_s is not None]
    is_met = len(known) == len(moments) and all(b >= a - SLACK_S for a, b in itertools.pairwise(known))
    return Verdict(
        "after the spike's start each tier was full", told, "one after the other, then 429s", is_met
    )


def _spills(evidence: Evidence) -> Verdict:
    spilled = [one for one in evidence.served if one.tier in list(evidence.limits)[1:] and not one.is_refused]
    reasons = Counter(one.spill_reason for one in spilled)
    false, at_once = (len(evidence.without_reason(spilled, before_s)) for before_s in (WINDOW_S, SLACK_S))
    told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common()) or "none"
    return Verdict(
        f"requests in a lower tier though a higher one was not full within {WINDOW_S:g} s",
        f"{false} of {len(spilled):,} ({at_once} when not full at that very moment; reasons: {told})",
        "0, all for `full`",
        false == 0 and set(reasons) <= {"full"},
    )  # fmt: skip


def _refusals(evidence: Evidence) -> Verdict:
    refused = [one for one in evidence.served if one.is_refused]
    codes = Counter(one.error_code for one in refused)
    false, at_once = (len(evidence.without_reason(refused, before_s)) for before_s in (WINDOW_S, SLACK_S))
    is_spike = isinstance(evidence.shape, Spike)
    return Verdict(
        f"429s though some tier was not full within {WINDOW_S:g} s",
        f"{false} of {len(refused):,} ({at_once} when not full at that very moment)",
        "0 of more than 0" if is_spike else "0",
        false == 0 and set(codes) <= {"no_capacity", "queue_timeout"} and (bool(refused) or not is_spike),
    )


def _back(evidence: Evidence, ends_s: float) -> Verdict:
    """By when they reached a gateway, and by when clients sent them: the later of the two counts."""
    preferred = next(iter(evidence.limits))
    elsewhere = [o.began_s for o in evidence.served if o.tier != preferred and o.began_s >= ends_s]
    elsewhere += [
        a.sent_s for a in evidence.asked
        if a.sent_s >= ends_s and (a.outcome == "refused" or a.tier not in (preferred, None))
    ]  # fmt: skip
    back_s = max(elsewhere, default=ends_s) - ends_s
    after = sum(o.began_s > ends_s + back_s for o in evidence.served if o.tier == preferred)
    return Verdict(
        "seconds from the spike's end until the last request that did not go to the primary",
        f"{back_s:.2f} (then {after} requests in a row to it, until the end)",
        f"at most {BACK_WITHIN_S:g}",
        back_s <= BACK_WITHIN_S and after > 0,
    )


def _failures(evidence: Evidence) -> Verdict:
    errors = Counter(one.error for one in evidence.asked if one.outcome == "failed")
    told = "".join(f"; {error}: {count}" for error, count in errors.most_common(3))
    measured = f"{errors.total()} of {len(evidence.asked):,}{told}"
    return Verdict("failed requests", measured, "0", not errors)


def _limits(evidence: Evidence) -> Verdict:
    """An engine counts a client that has left until it reads of it: its slot may have a new one by then.

    What the gateways say is no witness here: they are not looked at in the same moment.
    """
    told, is_met = [], True
    for tier, limit in evidence.limits.items():
        rises = [
            (before.at_s, after.at_s, after.engine_peaks[tier] - max(before.engine_peaks[tier], limit))
            for before, after in itertools.pairwise(evidence.looks)
            if after.engine_peaks[tier] > max(before.engine_peaks[tier], limit)
        ]
        left = [_left_between(evidence, tier, from_s - WINDOW_S, to_s) for from_s, to_s, _ in rises]
        is_met = is_met and all(rise <= count for (_, _, rise), count in zip(rises, left, strict=True))
        is_met = is_met and evidence.looks[0].engine_peaks[tier] <= limit
        told.append(f"{tier} {evidence.looks[-1].engine_peaks[tier]} of {limit}")
    goal = "the limit, and one more for each client that left in the 0.1 s before"
    return Verdict("the engines' own peaks, all gateways together", ", ".join(told), goal, is_met)


def _left_between(evidence: Evidence, tier: str, from_s: float, to_s: float) -> int:
    return sum(
        one.tier == tier and one.reason == "client_left" and from_s <= one.ended_s <= to_s
        for one in evidence.served
    )


def _agreement(evidence: Evidence) -> Verdict:
    """Clients, logs and metrics tell of the same requests: else one of them is not to be believed.

    Only a client that left may not have heard what became of its request.
    """
    asked, last = evidence.asked, evidence.looks[-1]
    logged = {one.request_id: one for one in evidence.served}
    heard = [one for one in asked if one.outcome != "left" and one.request_id in logged]
    differ = sum(
        (one.outcome == "refused") != logged[one.request_id].is_refused
        or (one.outcome == "ok" and one.tier != logged[one.request_id].tier)
        for one in heard
    )
    refused = sum(one.is_refused for one in evidence.served)
    requests = (len(asked), len(evidence.served), sum(last.requests.values()))
    told = f"requests {_told(*requests)}, 429s in logs and metrics {_told(refused, last.sheds)}"
    is_met = (
        {*logged} == {one.request_id for one in asked} and len({*requests}) == 1 and refused == last.sheds
    )
    return Verdict(
        "clients, logs and metrics tell the same", f"{told}, told differently {differ}", "equal, 0",
        is_met and not differ,
    )  # fmt: skip


def _told(*counts: int) -> str:
    return " / ".join(f"{count:,}" for count in counts)


def facts_of_looks(evidence: Evidence) -> dict[str, Any]:
    """What the looks at /metrics and /api/v1/fleet showed in the intervals in which 429s came."""
    fills = [
        max(sum(a.in_flight.values()), sum(b.in_flight.values()))
        for a, b in itertools.pairwise(evidence.looks) if b.sheds > a.sheds
    ]  # fmt: skip
    fills.sort()
    middle = fills[len(fills) // 2] if fills else None
    return {"looks": len(evidence.looks), "with_429s": len(fills), "slots": sum(evidence.limits.values()),
            "median_in_flight": middle, "least_in_flight": fills[0] if fills else None}  # fmt: skip
