"""The circuit of one backend: a table of transitions, and what each of them sets.

Rules:
- a closed circuit opens on own evidence (see evidence.py), or because another gateway says so and this one
  has no fresh evidence against it (see circuits.py, and ADR 0014);
- an open circuit gets no work; when its time is over it is half-open, and that is all that time can do;
- a half-open circuit admits one attempt as the probe: its success closes the circuit, its failure opens it
  for twice as long, and an outcome that says nothing about the backend only frees the permit;
- each change of state begins a new `generation`; the result of an attempt begun under another one changes
  nothing. No green health check closes a circuit: a hung engine still answers those.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from gateway.core.evidence import Evidence
from gateway.core.taxonomy import LESSONS, Reason


class Circuit(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Sign(StrEnum):
    """What can move a circuit."""

    TRIPPED = "tripped"  # by own evidence
    TOLD_OPEN = "told_open"  # another gateway's verdict, and nothing here to say against it
    WAITED = "waited"  # the open time is over
    ENCOURAGED = "encouraged"  # another gateway's probe went well; own evidence said otherwise: try now
    PROBE_SUCCEEDED = "probe_succeeded"
    PROBE_DROPPED = "probe_dropped"
    PROBE_IGNORED = "probe_ignored"
    TOLD_CLOSED = "told_closed"  # another gateway's probe went well, and only hearsay had opened this one


_CLOSED, _OPEN, _HALF_OPEN = Circuit.CLOSED, Circuit.OPEN, Circuit.HALF_OPEN

TRANSITIONS: dict[tuple[Circuit, Sign], Circuit] = {
    (_CLOSED, Sign.TRIPPED): _OPEN,
    (_CLOSED, Sign.TOLD_OPEN): _OPEN,
    (_OPEN, Sign.WAITED): _HALF_OPEN,
    (_OPEN, Sign.ENCOURAGED): _HALF_OPEN,
    (_OPEN, Sign.TOLD_CLOSED): _CLOSED,
    (_HALF_OPEN, Sign.PROBE_SUCCEEDED): _CLOSED,
    (_HALF_OPEN, Sign.PROBE_DROPPED): _OPEN,
    (_HALF_OPEN, Sign.PROBE_IGNORED): _HALF_OPEN,
    (_HALF_OPEN, Sign.TOLD_OPEN): _OPEN,
    (_HALF_OPEN, Sign.TOLD_CLOSED): _CLOSED,
}


class IllegalTransition(Exception):
    """A sign that means nothing in this state: a mistake of the caller, and nothing was changed."""


def next_circuit(circuit: Circuit, sign: Sign) -> Circuit:
    """Applies the table. Raises IllegalTransition."""
    try:
        return TRANSITIONS[circuit, sign]
    except KeyError:
        raise IllegalTransition(f"{sign} in a circuit that is {circuit}") from None


class Trigger(StrEnum):
    """Why a circuit opened."""

    CONSECUTIVE = "consecutive"
    RATIO = "ratio"
    NO_PROGRESS = "no_progress"
    PROBE_FAILED = "probe_failed"
    CONFIRMED = "confirmed"  # one drop of its own, after another gateway's verdict
    TOLD = "told"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When circuits open, for how long, and how they come back. Times in seconds.

    The second block has no key in the configuration: `hung_*` are the terms of the formula in circuits.py,
    `min_available` and `hold_down_s` say when a cluster counts as down (view.py), `probe_wait_s` is how
    long a half-open circuit waits for real traffic, `fresh_s` how old evidence against another's verdict
    may be.
    """

    consecutive: int = 5
    ratio: float = 0.5
    min_samples: int = 20
    window_s: float = 10.0
    open_s: float = 1.0
    open_max_s: float = 60.0
    slow_start_s: float = 30.0

    hung_factor: float = 3.0
    hung_floor_s: float = 3.0
    hung_per_kib_s: float = 0.02
    min_available: float = 0.5
    hold_down_s: float = 10.0
    probe_wait_s: float = 2.0
    fresh_s: float = 1.0

    def __post_init__(self) -> None:
        if self.consecutive < 1 or self.min_samples < 1:
            raise ValueError("consecutive and min_samples must be at least 1")
        if not 0 < self.ratio <= 1 or not 0 <= self.min_available <= 1:
            raise ValueError("ratio must be above 0, min_available from 0, both at most 1")
        if not (self.window_s > 0 and 0 < self.open_s <= self.open_max_s and self.slow_start_s >= 0):
            raise ValueError("window_s and open_s must be above 0, open_max_s at least open_s")

    def open_time_s(self, streak: int, draw: int) -> float:
        """How long the `streak`th opening in a row lasts: doubling, and up to a quarter less by the draw.

        Gateways and backends that fail together do not come back together.
        """
        whole_s = min(self.open_s * 2.0 ** min(streak - 1, 30), self.open_max_s)
        return whole_s * (1.0 - JITTER * (draw % 2**32) / 2**32)


DEFAULTS = BreakerSettings()
JITTER = 0.25
# An ejected backend keeps this share of its limit, for probes and for panic; slow start begins with it.
FIRST_SHARE = 0.1
# This gateway itself among the voters for an opening.
OWN = ""
# An attempt that belongs to no generation: it teaches the breaker nothing.
NO_GENERATION = -1


class Opening(NamedTuple):
    """One verdict: the backend is not to be used for `open_s`. The `streak`th in a row."""

    trigger: Trigger
    reason: Reason
    open_s: float
    streak: int


class Doubt(NamedTuple):
    """Another gateway's verdict that own evidence contradicts, for now."""

    voter: str
    reason: Reason
    until_s: float


class Breaker:
    """One circuit. Only `circuits.py` calls what changes it; the table has the last word.

    Invariants: `probes` is 0 unless half-open; `voters` is empty exactly when closed; a method that raises
    has changed nothing.
    """

    __slots__ = (
        "circuit",
        "closed_at_s",
        "doubt",
        "evidence",
        "generation",
        "opening",
        "probes",
        "since_s",
        "synthetic_at_s",
        "takes_real_from_s",
        "until_s",
        "voters",
    )

    def __init__(self, window_s: float = DEFAULTS.window_s) -> None:
        self.circuit = _CLOSED
        self.since_s: float | None = None  # of this state; None: it has never been another
        self.generation = 0
        self.evidence = Evidence(window_s)
        self.opening: Opening | None = None  # the last one; kept when the circuit closes
        self.until_s = 0.0
        self.voters: frozenset[str] = frozenset()
        self.doubt: Doubt | None = None
        self.probes = 0
        self.takes_real_from_s = 0.0
        self.synthetic_at_s = 0.0
        self.closed_at_s = float("-inf")

    def _move(self, sign: Sign, expected: Circuit) -> None:
        circuit = next_circuit(self.circuit, sign)
        if circuit is not expected:
            raise IllegalTransition(f"{sign} leads to {circuit}, not to {expected}")
        if circuit is not self.circuit:
            self.circuit = circuit
            self.generation += 1
            self.probes = 0
            self.doubt = None
            self.evidence.forget()

    def open(self, sign: Sign, opening: Opening, voters: frozenset[str], now_s: float) -> None:
        self._move(sign, _OPEN)
        self.opening = opening
        self.since_s = now_s
        self.until_s = now_s + opening.open_s
        self.voters = voters

    def try_again(self, sign: Sign, settings: BreakerSettings, now_s: float) -> None:
        """Half-open. After a failure that was found out by waiting, a synthetic probe goes first."""
        self._move(sign, _HALF_OPEN)
        self.since_s = now_s
        is_slow = self.opening is not None and LESSONS[self.opening.reason].is_slow
        synthetic_first = is_slow and sign is Sign.WAITED
        later_s = now_s + settings.probe_wait_s
        self.synthetic_at_s, self.takes_real_from_s = (
            (now_s, later_s) if synthetic_first else (later_s, now_s)
        )

    def close(self, sign: Sign, now_s: float) -> None:
        self._move(sign, _CLOSED)
        self.voters = frozenset()
        self.since_s = self.closed_at_s = now_s

    def probe_began(self, generation: int | None) -> bool:
        """Whether an attempt of this generation is a probe. More than one is the store's mistake."""
        if self.circuit is not _HALF_OPEN or generation not in (None, self.generation):
            return False
        self.probes += 1
        return True

    def probe_ignored(self, now_s: float) -> None:
        """It told nothing: the next request may try at once."""
        self._move(Sign.PROBE_IGNORED, _HALF_OPEN)
        self.probes -= 1
        self.takes_real_from_s = min(self.takes_real_from_s, now_s)

    def wants_probe(self, now_s: float) -> bool:
        """Whether the next request may be the probe."""
        return self.circuit is _HALF_OPEN and self.probes == 0 and now_s >= self.takes_real_from_s

    def next_streak(self, settings: BreakerSettings, now_s: float) -> int:
        """The number of the next opening in a row: a relapse during slow start counts on."""
        is_relapse = self.circuit is not _CLOSED or now_s - self.closed_at_s < settings.slow_start_s
        return self.opening.streak + 1 if is_relapse and self.opening is not None else 1

    def share(self, settings: BreakerSettings, now_s: float) -> float:
        """The share of limit and weight that the backend has now: 10 % to 100 % over the slow start."""
        if self.circuit is not _CLOSED:
            return FIRST_SHARE
        closed_for_s = now_s - self.closed_at_s
        if closed_for_s >= settings.slow_start_s:
            return 1.0
        return FIRST_SHARE + (1.0 - FIRST_SHARE) * max(closed_for_s, 0.0) / settings.slow_start_s

    def __repr__(self) -> str:
        why = f" by {self.opening.trigger} ({self.opening.reason})" if self.opening and self.voters else ""
        probing = ", probing" if self.probes else ""
        return f"<Breaker {self.circuit}{why}, generation {self.generation}{probing}>"
