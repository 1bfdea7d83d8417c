"""What every way of finding backends has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Never, Protocol

from gateway.config.discovered import Discovered
from gateway.ports import Clock

# Of pauses after failures; the longest is what an API server or a name server that comes back has to bear.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
_FULL_DRAW = float(2**64)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What this package works with. `draw` gives 64 uniform bits."""

    clock: Clock
    draw: Callable[[], int]


class SourceFailed(Exception):
    """No answer, or none that can be believed. The text is for operators: it holds no secret.

    `after_s`: how long the other side asks not to be asked again.
    """

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Tell(Protocol):
    """Where a source says what it has seen. What is known of a cluster stays until `found` replaces it."""

    def found(self, found: Discovered) -> None:
        """A whole answer; an empty one is an answer too."""

    def confirmed(self) -> None:
        """What was found last still holds."""

    def failed(self, reason: str) -> None:
        """Nobody knows whether it still holds."""


class Source(Protocol):
    """One way to find the backends of one cluster."""

    async def follow(self, tell: Tell) -> Never:
        """Tells what it finds, again and again, until cancelled. Failures are told, not raised."""


class Pace:
    """How long to pause after failures in a row: doubling, each between half and all of it at random."""

    def __init__(self, draw: Callable[[], int]) -> None:
        self._draw = draw
        self._failures = 0

    def went_well(self) -> None:
        self._failures = 0

    def next_pause_s(self, at_least_s: float = 0.0) -> float:
        longest_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_S)
        self._failures += 1
        pause_s = longest_s * (0.5 + 0.5 * self._draw() / _FULL_DRAW)
        return max(pause_s, min(at_least_s, 3 * LONGEST_PAUSE_S))
