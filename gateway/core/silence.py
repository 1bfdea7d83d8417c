"""What a backend owes: attempts that wait for their first byte, and since when no byte has come at all.

For non-streaming work the first byte is the end, so no timeout between bytes can see that an engine hangs.
What can be seen is absence: several attempts wait, and nothing comes on any exchange.
"""

from __future__ import annotations

# One attempt waits beyond its backend's p99 in one of a hundred cases; three at once, were they independent,
# in one of a million. A single lone request, however long, is left to its first-byte timeout.
WITNESSES = 3
# The longest prompt counts for at least this long, at most twice that.
PROMPTS_S = 30.0
FOREVER_S = float("inf")


class Silence:
    """Counts of one backend; each call is one comparison or two.

    Nobody tells which attempt ended. So each one that leaves without a byte is taken for one of the
    witnesses: `witnessed_s` is a lower bound of how long three attempts have all waited, never more.
    """

    __slots__ = (
        "_kib",
        "_kib_before",
        "_owed_before_s",
        "_prompts_turn_s",
        "_since_s",
        "_witnessed_since_s",
        "_witnesses",
        "waiting",
    )

    def __init__(self) -> None:
        self.waiting = 0
        self._since_s = FOREVER_S
        self._owed_before_s = 0.0
        self._witnesses = 0
        self._witnessed_since_s = FOREVER_S
        self._kib = self._kib_before = 0.0
        self._prompts_turn_s = float("-inf")

    def asked(self, body_bytes: int, now_s: float) -> None:
        """An attempt began."""
        self.waiting += 1
        if self.waiting == 1:
            self._since_s = now_s
        elif self._witnesses < WITNESSES <= self.waiting:
            self._call_witnesses(now_s)
        kib = body_bytes / 1024
        if kib > self._kib or now_s >= self._prompts_turn_s:
            self._note_prompt(kib, now_s)

    def answered(self, now_s: float) -> None:
        """One of those that waited got its first byte. Then as `heard`, without a call: nearly all do."""
        waiting = self.waiting
        if waiting:
            self.waiting = waiting = waiting - 1
        self._since_s = now_s if waiting else FOREVER_S
        self._owed_before_s = 0.0
        if waiting >= WITNESSES or self._witnesses:
            self._call_witnesses(now_s)

    def heard(self, now_s: float) -> None:
        """A byte came on some exchange: the backend works."""
        waiting = self.waiting
        self._since_s = now_s if waiting else FOREVER_S
        self._owed_before_s = 0.0
        if waiting >= WITNESSES or self._witnesses:
            self._call_witnesses(now_s)

    def gave_up(self, now_s: float) -> None:
        """One of those that waited ended without a byte: its client left, or its time was up."""
        if not self.waiting:
            return
        self.waiting -= 1
        if not self.waiting:
            # The silence is not over, only nobody listens: its clock stands still until somebody asks.
            self._owed_before_s = self.owed_s(now_s)
            self._since_s = FOREVER_S
        self._witnesses -= 1
        if self._witnesses < WITNESSES:
            self._call_witnesses(now_s)

    def forget(self) -> None:
        """What waits now is no longer counted: the backend has begun anew."""
        self.waiting = 0
        self.heard(0.0)

    def _call_witnesses(self, now_s: float) -> None:
        self._witnesses = self.waiting
        self._witnessed_since_s = now_s if self.waiting >= WITNESSES else FOREVER_S

    def _note_prompt(self, kib: float, now_s: float) -> None:
        if now_s >= self._prompts_turn_s:
            self._kib_before, self._kib = self._kib, 0.0
            self._prompts_turn_s = now_s + PROMPTS_S
        self._kib = max(self._kib, kib)

    def owed_s(self, now_s: float) -> float:
        """How long the backend has given nothing to anybody though asked, since its last byte.

        Those who gave up meanwhile count too: one that answers nobody in time is the slower the more it
        has been asked, and is not asked again as soon as the last of them has left.
        """
        return self._owed_before_s + max(now_s - self._since_s, 0.0)

    def witnessed_s(self, now_s: float) -> float:
        """How long at least three attempts have waited while no byte came on any exchange."""
        return max(now_s - self._witnessed_since_s, 0.0)

    @property
    def largest_prompt_kib(self) -> float:
        """Of the attempts that may still wait."""
        return max(self._kib, self._kib_before)

    def __repr__(self) -> str:
        return f"<Silence {self.waiting} waiting>"
