"""How soon a process that has ended is started again, and the error for one that does not start."""

from __future__ import annotations

# A process that lived so long had nothing wrong from the start.
GOOD_LIFE_S = 10.0
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0


class StartFailed(Exception):
    """Why it can't start, in words for the person who started it."""


class Backoff:
    """At once after a good life; then 0.5 s, doubling to 30 s, while it ends at once again and again."""

    def __init__(self) -> None:
        self._early_ends = 0

    def pause_s(self, lived_s: float) -> float:
        """Seconds to wait after a life of `lived_s`."""
        self._early_ends = 0 if lived_s >= GOOD_LIFE_S else self._early_ends + 1
        if self._early_ends <= 1:
            return 0.0
        return min(FIRST_PAUSE_S * 2.0 ** min(self._early_ends - 2, 16), MAX_PAUSE_S)


def ending(exit_code: int) -> str:
    """`exit code 1` or `signal 9`, from what subprocess gives."""
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
