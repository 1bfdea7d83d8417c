"""What happens to a backend, as its circuit sees it: triggers, probes, and the word of other gateways.

An attempt's end, a tick, or another gateway's message comes in; effects come out. `None` instead of effects
means that the circuit is as it was: nothing has to be planned anew.

**No progress.** A backend hangs when at least three attempts have waited for their first byte for longer than

    hung_floor_s + hung_factor x p99 of its first bytes (one minute, at least 20 samples)
                 + hung_per_kib_s x the largest prompt of the last 30 to 60 s

while no byte came on any of its exchanges. The floor and the part per KiB (the default of
`timeouts.first_byte_per_kib`) are for prompts that p99 has not seen yet: 126 k tokens are about 500 KiB.
It also hangs when one attempt's whole first-byte time ran out, nobody had a byte in all that time, and two
more wait: five such in a row would take as long again as five requests take to come. What neither can tell
from a hang is a batch of long whole answers on an engine that has only given short ones for a minute; the
probe that follows, a synthetic one, then closes the circuit at once.

**Verdicts of others** (ADR 0014). One gateway's verdict binds every other that has no evidence against it,
at once, and once: until this gateway has tried for itself, the same gateway alone cannot bind it again. The
verdicts of two (this one counts) bind as long as they say.
"""

from __future__ import annotations

from gateway.core.breaker import OWN, BreakerSettings, Circuit, Doubt, Opening, Sign, Trigger
from gateway.core.events import (
    AttemptFinished,
    CloseIdleConnections,
    ClosingShared,
    Effect,
    OpeningShared,
    ReportCircuit,
    SendSyntheticProbe,
    ShareClosing,
    ShareOpening,
)
from gateway.core.latency import MIN_PENALTY_S
from gateway.core.silence import WITNESSES
from gateway.core.taxonomy import LESSONS, Reason, Verdict
from gateway.core.view import BackendState

Effects = tuple[Effect, ...]


class Circuits:
    """Drives the circuits of a fleet. Holds the settings, and the draw that jitters open times."""

    def __init__(self) -> None:
        self.settings = BreakerSettings()
        self._draw = 0

    def stir(self, draw: int) -> None:
        """Takes in fresh randomness."""
        self._draw ^= draw

    def _next_draw(self) -> int:
        # Knuth's MMIX generator; its upper bits are the random ones.
        self._draw = (self._draw * 6364136223846793005 + 1442695040888963407) % 2**64
        return self._draw >> 32

    # --- own attempts --------------------------------------------------------------------------------

    def ended(self, state: BackendState, event: AttemptFinished, now_s: float) -> Effects | None:
        """The end of an attempt. One that began under another generation changes nothing."""
        breaker = state.breaker
        if event.generation not in (None, breaker.generation):
            return None
        if breaker.circuit is Circuit.CLOSED:
            return self._learn(state, event, now_s)
        if breaker.circuit is Circuit.HALF_OPEN and breaker.probes:
            return self._judge_probe(state, event, now_s)
        return None

    def _learn(self, state: BackendState, event: AttemptFinished, now_s: float) -> Effects | None:
        breaker, outcome = state.breaker, event.outcome
        if outcome.verdict is Verdict.SUCCESS:
            breaker.evidence.succeeded(now_s)
            breaker.doubt = None
        elif outcome.verdict is Verdict.DROPPED:
            breaker.evidence.dropped(now_s)
            trigger = self._trigger(state, event, now_s)
            if trigger is not None:
                return self._trip(state, Sign.TRIPPED, trigger, outcome.reason, now_s)
        return None

    def _trigger(self, state: BackendState, event: AttemptFinished, now_s: float) -> Trigger | None:
        """Whether this drop was the one too many."""
        settings, breaker, silence = self.settings, state.breaker, state.silence
        if breaker.evidence.drops_in_a_row >= settings.consecutive:
            return Trigger.CONSECUTIVE
        if breaker.evidence.is_mostly_drops(settings.ratio, settings.min_samples, now_s):
            return Trigger.RATIO
        waited_s = event.elapsed_s if LESSONS[event.outcome.reason].is_slow else None
        if waited_s is not None and silence.waiting >= WITNESSES - 1 and silence.owed_s(now_s) >= waited_s:
            return Trigger.NO_PROGRESS
        if breaker.doubt is not None and now_s < breaker.doubt.until_s:
            return Trigger.CONFIRMED
        return None

    def _judge_probe(self, state: BackendState, event: AttemptFinished, now_s: float) -> Effects | None:
        breaker, outcome = state.breaker, event.outcome
        if outcome.verdict is Verdict.DROPPED:
            return self._trip(state, Sign.PROBE_DROPPED, Trigger.PROBE_FAILED, outcome.reason, now_s)
        if outcome.verdict is Verdict.IGNORED:
            breaker.probe_ignored(now_s)
            return ()
        self._close(state, Sign.PROBE_SUCCEEDED, now_s, event.ttft_s)
        breaker.evidence.succeeded(now_s)
        return (_report(state), ShareClosing(state.id))

    @staticmethod
    def _close(state: BackendState, sign: Sign, now_s: float, ttft_s: float | None = None) -> None:
        state.breaker.close(sign, now_s)
        # What hung before the circuit opened may hang on: it is no witness against the new generation.
        state.silence.forget()
        # Slow start says how much it gets; the penalties for its failures must not say it again. Of a probe
        # that was a stream the first byte has been told already: it is the last one seen, if any was.
        known_s = (ttft_s, state.digest.quantile_s(0.5, now_s), state.latency.answered_s, MIN_PENALTY_S)
        state.latency.forgive(next(s for s in known_s if s is not None))

    def _trip(
        self, state: BackendState, sign: Sign, trigger: Trigger, reason: Reason, now_s: float
    ) -> Effects:
        """Own evidence: stop at once, and tell the others."""
        breaker = state.breaker
        streak = breaker.next_streak(self.settings, now_s)
        open_s = self.settings.open_time_s(streak, self._next_draw())
        doubted = frozenset((breaker.doubt.voter,)) if breaker.doubt is not None else frozenset()
        voters = breaker.voters | doubted | {OWN}
        breaker.open(sign, Opening(trigger, reason, open_s, streak), voters, now_s)
        return (
            _report(state),
            ShareOpening(state.id, reason, open_s, streak),
            CloseIdleConnections((state.id,)),
        )

    # --- time ----------------------------------------------------------------------------------------

    def tick(self, state: BackendState, now_s: float) -> Effects | None:
        """What time alone has changed."""
        breaker = state.breaker
        if breaker.circuit is Circuit.CLOSED:
            return self._watch(state, now_s)
        if breaker.circuit is Circuit.OPEN:
            if now_s < breaker.until_s:
                return None
            breaker.try_again(Sign.WAITED, self.settings, now_s)
            return (_report(state), *self._synthetic(state, now_s))
        return self._synthetic(state, now_s)

    def _synthetic(self, state: BackendState, now_s: float) -> Effects:
        """Asks for a synthetic probe when it is its turn, or when no request has come to be the probe."""
        breaker = state.breaker
        if breaker.probes or now_s < breaker.synthetic_at_s:
            return ()
        breaker.synthetic_at_s = now_s + self.settings.probe_wait_s
        return (SendSyntheticProbe(state.id, breaker.generation),)

    def _watch(self, state: BackendState, now_s: float) -> Effects | None:
        breaker, silence, settings = state.breaker, state.silence, self.settings
        if silence.witnessed_s(now_s) > settings.hung_floor_s:
            p99_s = state.digest.quantile_s(0.99, now_s)
            explained_s = settings.hung_floor_s + settings.hung_per_kib_s * silence.largest_prompt_kib
            if p99_s is not None and silence.witnessed_s(now_s) > explained_s + settings.hung_factor * p99_s:
                return self._trip(state, Sign.TRIPPED, Trigger.NO_PROGRESS, Reason.HUNG, now_s)
        doubt = breaker.doubt
        if doubt is None:
            return None
        if now_s >= doubt.until_s:
            breaker.doubt = None
        elif silence.owed_s(now_s) > settings.fresh_s:
            # What spoke against the other's verdict has grown old, and work waits: it was right.
            return self._obey(state, doubt.voter, doubt.reason, doubt.until_s - now_s, 1, now_s)
        return None

    # --- the word of others --------------------------------------------------------------------------

    def told_open(self, state: BackendState, event: OpeningShared, now_s: float) -> Effects | None:
        breaker, settings = state.breaker, self.settings
        voter = event.gateway_id
        if breaker.circuit is Circuit.OPEN:
            breaker.voters |= {voter}
            return None
        if breaker.circuit is Circuit.CLOSED:
            if breaker.evidence.contradicts(event.reason, settings.fresh_s, settings.ratio, now_s):
                until_s = now_s + max(event.open_s, 2 * settings.fresh_s)
                breaker.doubt = Doubt(voter, event.reason, until_s)
                return None
        elif breaker.probes or breaker.voters == {voter}:
            return None
        return self._obey(state, voter, event.reason, event.open_s, event.streak, now_s)

    def _obey(
        self, state: BackendState, voter: str, reason: Reason, open_s: float, streak: int, now_s: float
    ) -> Effects:
        breaker, settings = state.breaker, self.settings
        voters = breaker.voters | {voter}
        if len(voters) == 1:
            # It may be alone in seeing failures: its own streak is not ours.
            open_s, streak = min(open_s, settings.open_s), 1
        elif breaker.opening is not None:
            streak = max(streak, breaker.opening.streak)
        open_s = min(max(open_s, 0.0), settings.open_max_s)
        breaker.open(Sign.TOLD_OPEN, Opening(Trigger.TOLD, reason, open_s, streak), voters, now_s)
        return (_report(state), CloseIdleConnections((state.id,)))

    def told_closed(self, state: BackendState, event: ClosingShared, now_s: float) -> Effects | None:
        """Hearsay is taken back by hearsay. Own evidence is not, but it is worth trying at once."""
        breaker = state.breaker
        if breaker.circuit is Circuit.CLOSED:
            if breaker.doubt is not None and breaker.doubt.voter == event.gateway_id:
                breaker.doubt = None
            return None
        if OWN not in breaker.voters:
            self._close(state, Sign.TOLD_CLOSED, now_s)
        elif breaker.circuit is Circuit.OPEN:
            breaker.try_again(Sign.ENCOURAGED, self.settings, now_s)
        else:
            return None
        return (_report(state),)


def _report(state: BackendState) -> ReportCircuit:
    breaker = state.breaker
    opening = breaker.opening if breaker.circuit is Circuit.OPEN else None
    if opening is None:
        return ReportCircuit(state.id, breaker.circuit)
    return ReportCircuit(state.id, breaker.circuit, opening.trigger, opening.reason)
