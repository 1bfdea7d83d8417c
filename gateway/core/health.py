"""Health: what probes, agent words and engine metrics change in a backend's picture.

The rules:
- a backend nobody has probed may get work; `fall` failed probes in a row take it out, `rise` passed ones in a
  row bring it back (see TRANSITIONS);
- probes of its health endpoint and synthetic completions are counted apart: a hung engine answers the first
  with 200 and fails the second; either can take the backend out, and then the same kind must bring it back;
- an outcome that is ignored (a full backend, a refused model) moves nothing;
- agent words are a level, not an edge: they hold until the next passed probe (ADR 0015);
- engine metrics only correct what is known: our own attempts in flight are exact, the engine may know of
  more, never of fewer; a reading older than `stale_after_s` counts for nothing;
- nothing here opens or closes a circuit: that is the breaker's, which needs no probe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from gateway.core.model import HealthRules, Outcome, Verdict

# A reason for a failed probe beside those of attempts and `status_NNN`.
AGENT_DOWN = "agent_down"


class ProbeState(StrEnum):
    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Run(StrEnum):
    """A run of like results that has become long enough to believe."""

    ROSE = "rose"
    FELL = "fell"


TRANSITIONS: dict[tuple[ProbeState, Run], ProbeState] = {
    (ProbeState.UNKNOWN, Run.ROSE): ProbeState.UP,
    (ProbeState.UNKNOWN, Run.FELL): ProbeState.DOWN,
    (ProbeState.UP, Run.ROSE): ProbeState.UP,
    (ProbeState.UP, Run.FELL): ProbeState.DOWN,
    (ProbeState.DOWN, Run.ROSE): ProbeState.UP,
    (ProbeState.DOWN, Run.FELL): ProbeState.DOWN,
}


class ProbeWatch:
    """What one kind of probe has told of one backend. `run` counts the like results at the end."""

    __slots__ = ("at_s", "passed", "reason", "run", "since_s", "state")

    def __init__(self) -> None:
        self.state = ProbeState.UNKNOWN
        self.passed: bool | None = None
        self.run = 0
        self.reason = ""
        self.at_s: float | None = None
        self.since_s: float | None = None

    @property
    def is_down(self) -> bool:
        return self.state is ProbeState.DOWN

    def observe(self, passed: bool, reason: str, rules: HealthRules, now_s: float) -> None:
        self.run = self.run + 1 if passed is self.passed else 1
        self.passed, self.reason, self.at_s = passed, reason, now_s
        if self.run < (rules.rise if passed else rules.fall):
            return
        state = TRANSITIONS[self.state, Run.ROSE if passed else Run.FELL]
        if state is not self.state:
            self.state, self.since_s = state, now_s

    def __repr__(self) -> str:
        return f"<{self.state}, {self.run} x {self.reason or 'nothing'}>"


# --- agent words ----------------------------------------------------------------------------------------


class Advice(NamedTuple):
    """What a backend says about itself. The default says nothing and changes nothing.

    `weight_share` multiplies the configured weight, `max_in_flight` caps the configured limit: a backend can
    ask for less work, never for more.
    """

    is_drained: bool = False
    weight_share: float = 1.0
    max_in_flight: int | None = None
    is_down: bool = False


NO_ADVICE = Advice()
# As in HAProxy's agent check only the first line speaks. What is longer is a page, not an agent.
MAX_WORDS_CHARS = 256
_SEPARATORS = re.compile(r"[ \t,]+")
_PERCENT = re.compile(r"([0-9]{1,9})%", re.ASCII)
_MAX_CONN = re.compile(r"maxconn:([0-9]{1,9})", re.ASCII)
_DRAINS = {"drain": True, "maint": True, "ready": False}
_DOWN = {"down": True, "fail": True, "failed": True, "stopped": True, "up": False}


def read_agent_words(body: str) -> Advice:
    """The advice in a probe's body: the words of HAProxy's agent check (its manual, 5.2, "agent-check").

    Words are parted by blanks, tabs or commas, case does not matter, of two that contradict each other the
    last one holds, and `#` begins a remark. Unknown words are ignored.
    """
    line = body.lstrip("\r\n").split("\n", 1)[0].split("#", 1)[0]
    if len(line) > MAX_WORDS_CHARS:
        return NO_ADVICE
    advice = NO_ADVICE
    for word in _SEPARATORS.split(line.strip().lower()):
        if word in _DRAINS:
            advice = advice._replace(is_drained=_DRAINS[word])
        elif word in _DOWN:
            advice = advice._replace(is_down=_DOWN[word])
        elif match := _PERCENT.fullmatch(word):
            advice = advice._replace(weight_share=min(int(match[1]), 100) / 100)
        elif match := _MAX_CONN.fullmatch(word):
            advice = advice._replace(max_in_flight=int(match[1]))
    return advice


# --- engine metrics ------------------------------------------------------------------------------------


class EngineReading(NamedTuple):
    """What an engine said of itself at `at_s`. `kv_cache_used_share` is in [0, 1], None when not told."""

    running: int
    waiting: int
    kv_cache_used_share: float | None
    at_s: float

    @property
    def in_flight(self) -> int:
        return self.running + self.waiting


# --- events --------------------------------------------------------------------------------------------


class ProbeReported(NamedTuple):
    """A probe of a backend's health ended. `reason` is for people: `completed`, `status_503`, `reset` ..."""

    backend_id: str
    passed: bool
    reason: str
    advice: Advice = NO_ADVICE


class SyntheticProbeReported(NamedTuple):
    """A completion of one token, asked for by the gateway itself, ended."""

    backend_id: str
    outcome: Outcome


class EngineMetricsSeen(NamedTuple):
    backend_id: str
    reading: EngineReading


HealthEvent = ProbeReported | SyntheticProbeReported | EngineMetricsSeen
HEALTH_EVENTS: tuple[type, ...] = (ProbeReported, SyntheticProbeReported, EngineMetricsSeen)


# --- one backend ---------------------------------------------------------------------------------------


class BackendHealth:
    """The health of one backend. Without rules it is not asked after: always open, nothing advised."""

    __slots__ = (
        "_fresh_until_s",
        "_others",
        "advice",
        "advised_at_s",
        "is_open",
        "probe",
        "reading",
        "rules",
        "synthetic",
    )

    def __init__(self, rules: HealthRules | None) -> None:
        self.rules = rules
        self._forget()

    def _forget(self) -> None:
        self.probe = ProbeWatch()
        self.synthetic = ProbeWatch()
        self.advice = NO_ADVICE
        self.advised_at_s: float | None = None
        self.reading: EngineReading | None = None
        self._others = 0
        self._fresh_until_s = float("-inf")
        # May it get new work, as far as health goes? Kept, because routing asks for it often.
        self.is_open = True

    @property
    def is_down(self) -> bool:
        return self.probe.is_down or self.synthetic.is_down

    @property
    def is_drained(self) -> bool:
        """By its own word; no weight or no slots mean the same."""
        advice = self.advice
        return advice.is_drained or advice.weight_share == 0 or advice.max_in_flight == 0

    def follow(self, rules: HealthRules | None) -> None:
        """The configuration was read again. What kinds of probes it no longer has are forgotten."""
        old, self.rules = self.rules, rules
        if rules is None:
            self._forget()
        elif old is not None:
            self._keep_only(rules)

    def _keep_only(self, rules: HealthRules) -> None:
        if not rules.has_probe:
            self.probe, self.advice, self.advised_at_s = ProbeWatch(), NO_ADVICE, None
        if not rules.has_synthetic:
            self.synthetic = ProbeWatch()
        self._reckon()

    def tell(self, event: HealthEvent, in_flight: int, now_s: float) -> None:
        """Takes in one event; `in_flight` are our own attempts on the backend now.

        A result of a kind that the configuration no longer has comes too late and changes nothing.
        """
        if self.rules is not None:
            _TELLS[type(event)](self, event, in_flight, self.rules, now_s)
            self._reckon()

    def _on_probe(self, event: ProbeReported, in_flight: int, rules: HealthRules, now_s: float) -> None:
        if not rules.has_probe:
            return
        passed = event.passed and not event.advice.is_down
        reason = AGENT_DOWN if event.passed and not passed else event.reason
        self.probe.observe(passed, reason, rules, now_s)
        if event.passed:
            self.advice, self.advised_at_s = event.advice, now_s

    def _on_synthetic(
        self, event: SyntheticProbeReported, in_flight: int, rules: HealthRules, now_s: float
    ) -> None:
        verdict = event.outcome.verdict
        if rules.has_synthetic and verdict is not Verdict.IGNORED:
            self.synthetic.observe(verdict is Verdict.SUCCESS, event.outcome.reason.value, rules, now_s)

    def _on_metrics(self, event: EngineMetricsSeen, in_flight: int, rules: HealthRules, now_s: float) -> None:
        reading = event.reading
        if self.reading is None or reading.at_s >= self.reading.at_s:
            self.reading = reading
            self._others = max(reading.in_flight - in_flight, 0)
            self._fresh_until_s = reading.at_s + rules.stale_after_s

    def _reckon(self) -> None:
        self.is_open = not self.is_down and not self.is_drained

    def others(self, now_s: float) -> int:
        """Requests on the engine that are not ours, as far as it has said lately."""
        return self._others if self._others and now_s <= self._fresh_until_s else 0

    def fresh_reading(self, now_s: float) -> EngineReading | None:
        return self.reading if now_s <= self._fresh_until_s else None

    def capped(self, limit: int) -> int:
        """A limit after the backend's own word. Never 0: a backend that takes nothing is drained instead."""
        advised = self.advice.max_in_flight
        return limit if advised is None else max(min(limit, advised), 1)

    def __repr__(self) -> str:
        return f"<{'open' if self.is_open else 'closed'}, probe {self.probe}, synthetic {self.synthetic}>"


_TELLS: dict[type, Callable[[BackendHealth, Any, int, HealthRules, float], None]] = {
    ProbeReported: BackendHealth._on_probe,
    SyntheticProbeReported: BackendHealth._on_synthetic,
    EngineMetricsSeen: BackendHealth._on_metrics,
}


# --- clusters ------------------------------------------------------------------------------------------


class Capacity(NamedTuple):
    """How much of what is expected is there: 2 of 100 ready is 2 %, not all that is left."""

    ready: int
    expected: int

    @property
    def share(self) -> float:
        return self.ready / self.expected if self.expected else 0.0


class _Member(Protocol):
    """A backend's state, as far as it is looked at here."""

    @property
    def health(self) -> BackendHealth: ...
    @property
    def drained_until_s(self) -> float | None: ...


class _Members(Protocol):
    """A cluster's state, as far as it is looked at here."""

    @property
    def backends(self) -> Iterable[_Member]: ...
    @property
    def drained_until_s(self) -> float | None: ...


def is_ruled_out(cluster: _Members) -> bool:
    """Does the cluster lack a backend only because probes say that it is down?"""
    return cluster.drained_until_s is None and any(
        backend.drained_until_s is None and backend.health.is_down for backend in cluster.backends
    )
