"""Whether the primary saw exactly its limit: judged by what was seen while nobody was cut off from the store.

Who has no answer for 100 ms is cut off and goes on with its share, at least one slot, which may lie above the
limit (ADR 0018). A machine that stands still for a moment does that, too. So a look counts only if no gateway
said meanwhile that it was cut off or back; else there is another one, and one of LOOKS has to count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from tests.chaos.fleet import Fleet, Member, eventually
from tests.chaos.load import Load

LOOKS = 10
TOGETHER_S = 10.0  # the longest back-off, and a try, on a loaded machine
ENDED_S = 5.0
LASTS_S = 0.3
SHOWN_LINES = 12


class Look:
    """One look at a fleet, from now on. Whoever was cut off before is back."""

    def __init__(self, fleet: Fleet) -> None:
        eventually(lambda: not any(m.is_degraded for m in fleet.members), TOGETHER_S, "all are together")
        self._members: Sequence[Member] = tuple(fleet.members)
        self._said = self._all_said()
        self._began = datetime.now()
        # It may have been cut off since it was asked: its last word tells.
        self._was_together = not any(lines and "degraded" in lines[-1] for lines in self._said)

    def was_anybody_cut_off(self) -> bool:
        return not self._was_together or self._all_said() != self._said

    def times_cut_off(self) -> list[int]:
        """How often each gateway was, since the look began."""
        both = zip(self._all_said(), self._said, strict=True)
        return [sum("degraded" in line for line in lines[len(before) :]) for lines, before in both]

    def __str__(self) -> str:
        """For who wants to know why: what each gateway said last, and what it holds now."""
        told = [f"from {self._began:%T.%f} to {datetime.now():%T.%f}, by the clock of the lines:"]
        for number, member in enumerate(self._members):
            told += [f"gateway {number} holds {held(member)}", *member.log_lines("")[-SHOWN_LINES:]]
        return "\n  ".join(told)

    def _all_said(self) -> list[list[str]]:
        return [member.log_lines() for member in self._members]


def held(member: Member) -> str:
    if member.child.poll() is not None:
        return "nothing, it has ended"
    return f"{member.metric('spillway_leases_held', cluster='primary'):g} of the primary"


def check_peak(fleet: Fleet, story: Callable[[], int], at_most: int, at_least: int = 0) -> None:
    """`story` returns the most that was in flight at once; it is told again where somebody was cut off."""
    looks: list[str] = []
    for _ in range(LOOKS):
        look = Look(fleet)
        peak = story()
        looks.append(f"peak {peak} {look}")
        if not look.was_anybody_cut_off():
            assert at_least <= peak <= at_most, looks[-1]
            return
    raise AssertionError("somebody was cut off in each look:\n" + "\n".join(looks))


def check_peak_over_a_fault(fleet: Fleet, look: Look) -> None:
    """Exact where nobody was cut off; where all were at once, each had its part and at least one slot.

    Who is cut off alone, while the others go on with the store, may be above the limit by its whole share.
    """
    peak, times, gateways = fleet.backend.peak, look.times_cut_off(), len(fleet.members)
    above = 0
    if set(times) == {1}:
        above = gateways - 1
    elif any(times):
        above = sum(map(bool, times)) * max(fleet.limit // gateways, 1)
    assert peak <= fleet.limit + above, f"cut off so often: {times}, peak {peak} {look}"


def check_that_it_is_exact(fleet: Fleet, load: Load, answers: int = 0) -> None:
    """Under a load above the limit; for a while, and for so many answers."""

    def story() -> int:
        # What began while somebody was cut off has to end first.
        began_s = time.monotonic()
        eventually(lambda: load.has_ended(began_s), ENDED_S, "what was under way has ended")
        fleet.backend.reset()
        began_s = time.monotonic()
        eventually(lambda: fleet.backend.peak >= fleet.limit, 5, "the primary is full again")
        full_s = time.monotonic()
        eventually(lambda: time.monotonic() - full_s > LASTS_S, LASTS_S + 1, "time")
        eventually(lambda: len(load.since(began_s)) > answers, 20, "requests go on")
        return fleet.backend.peak

    check_peak(fleet, story, at_most=fleet.limit, at_least=fleet.limit)
