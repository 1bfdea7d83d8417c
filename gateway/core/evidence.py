"""What this gateway has seen of one backend with its own eyes, since the circuit last changed."""

from __future__ import annotations

from gateway.core.taxonomy import LESSONS, Reason
from gateway.core.windows import Tally

NEVER_S = float("-inf")


class Evidence:
    """Successes and drops: in a row, and over the window. Ignored outcomes are never told here."""

    __slots__ = ("drops_in_a_row", "first_byte_s", "success_s", "tally")

    def __init__(self, window_s: float) -> None:
        self.drops_in_a_row = 0
        self.tally = Tally(window_s)
        # When a good answer was last told to have begun, and when one was last whole.
        self.first_byte_s = self.success_s = NEVER_S

    def succeeded(self, now_s: float) -> None:
        self.drops_in_a_row = 0
        self.success_s = now_s
        self.tally.add(now_s)

    def dropped(self, now_s: float) -> None:
        self.drops_in_a_row += 1
        self.tally.add(now_s)
        self.tally.mark(now_s)

    def is_mostly_drops(self, ratio: float, min_samples: int, now_s: float) -> bool:
        """At least `ratio` of at least `min_samples` attempts in the window were dropped."""
        total, dropped = self.tally.counts(now_s)
        return total >= min_samples and dropped >= ratio * total

    def contradicts(self, reason: Reason, fresh_s: float, ratio: float, now_s: float) -> bool:
        """Whether the backend has just done for this gateway what it is said not to do any more.

        A first byte is no answer to a verdict about what comes after it; and who sees drops himself does
        not contradict.
        """
        seen_s = self.success_s if LESSONS[reason].is_late else max(self.first_byte_s, self.success_s)
        return now_s - seen_s <= fresh_s and not self.is_mostly_drops(ratio, 1, now_s)

    def forget(self) -> None:
        """A new circuit generation starts with a clean sheet."""
        self.drops_in_a_row = 0
        self.first_byte_s = self.success_s = NEVER_S
        self.tally.clear()

    def __repr__(self) -> str:
        return f"<Evidence {self.drops_in_a_row} drops in a row, {self.tally!r}>"
