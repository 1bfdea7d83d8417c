"""What answers in a simulation: a request of so many tokens goes in, its first and last token come out.

Two kinds behind one signature: service times that do not depend on the load, and the step model of engine.py,
in which a fuller batch is slower and what does not fit queues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from random import Random
from typing import Protocol

from gateway.sim.arrivals import Arrival
from gateway.sim.engine import EnginePreset, Step, StepEngine
from gateway.sim.timeline import Timeline


class Job(Protocol):
    """One request at one backend. `number` is the place of the request in the trace."""

    number: int
    arrival: Arrival

    @property
    def is_over(self) -> bool:
        """Nobody waits for it any more."""

    def on_first_byte(self, status: int) -> None: ...

    def on_end(self) -> None:
        """The answer is whole."""

    def on_broken(self, is_refused: bool) -> None:
        """No connection could be made; or it broke."""

    def on_frozen(self) -> None:
        """From now on nothing comes, and nothing says so."""


Tell = Callable[[Job], None]


class Engine(Protocol):
    """The inside of one backend. It calls `on_first` and `on_last`, in virtual time, for each job begun."""

    is_load_dependent: bool

    def alone_s(self, number: int, arrival: Arrival) -> float:
        """How long a request takes with nothing else running."""

    def can_hold(self, arrival: Arrival) -> bool: ...

    def begin(self, job: Job) -> None: ...

    def cancel(self, job: Job) -> None: ...

    def freeze(self) -> None:
        """It hangs: nothing goes on until `thaw`."""

    def thaw(self) -> None: ...

    def slow_down(self, factor: float) -> None:
        """What begins from now on takes `factor` times as long."""


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Seconds: `base_s` and so much per token; all times exp(`sigma` N - sigma²/2), whose mean is 1.

    The draw of a request is that of its number in the trace, so every policy gets the same ones.
    """

    base_s: float
    per_input_token_s: float
    per_output_token_s: float
    sigma: float = 0.0
    seed: int = 0

    def of(self, number: int, arrival: Arrival) -> tuple[float, float]:
        """Seconds to the first token and to the last: the first is the first of the output tokens."""
        first_s = self.base_s + self.per_input_token_s * arrival.input_tokens
        whole_s = first_s + self.per_output_token_s * arrival.output_tokens
        first_s += self.per_output_token_s * min(arrival.output_tokens, 1)
        if self.sigma:
            draw = Random(f"{self.seed}:{number}").gauss(0.0, 1.0)
            factor = exp(self.sigma * draw - self.sigma * self.sigma / 2)
            return first_s * factor, whole_s * factor
        return first_s, whole_s


class TimedEngine:
    """Any number of requests at once, none of which slows another down."""

    is_load_dependent = False

    def __init__(self, timeline: Timeline, times: ServiceTimes, on_first: Tell, on_last: Tell) -> None:
        self._timeline = timeline
        self._times = times
        self._on_first, self._on_last = on_first, on_last
        self._due: dict[Job, tuple[float, float]] = {}  # when its first and its last token come
        self._epoch = 0  # what was scheduled before a freeze does not happen
        self._frozen_at_s: float | None = None
        self._factor = 1.0

    def alone_s(self, number: int, arrival: Arrival) -> float:
        return self._times.of(number, arrival)[1]

    def can_hold(self, arrival: Arrival) -> bool:
        return True

    def begin(self, job: Job) -> None:
        first_s, whole_s = self._times.of(job.number, job.arrival)
        now_s = self._timeline.now_s
        since_s = now_s if self._frozen_at_s is None else self._frozen_at_s
        self._due[job] = since_s + first_s * self._factor, since_s + whole_s * self._factor
        if self._frozen_at_s is None:
            self._schedule(job)

    def _schedule(self, job: Job) -> None:
        first_s, last_s = self._due[job]
        if first_s >= self._timeline.now_s:
            self._timeline.at(first_s, self._first, job, self._epoch)
        self._timeline.at(last_s, self._last, job, self._epoch)

    def _first(self, job: Job, epoch: int) -> None:
        if epoch == self._epoch and job in self._due:
            self._on_first(job)

    def _last(self, job: Job, epoch: int) -> None:
        if epoch == self._epoch and self._due.pop(job, None) is not None:
            self._on_last(job)

    def cancel(self, job: Job) -> None:
        self._due.pop(job, None)

    def freeze(self) -> None:
        if self._frozen_at_s is None:
            self._frozen_at_s = self._timeline.now_s
            self._epoch += 1

    def thaw(self) -> None:
        if self._frozen_at_s is None:
            return
        stood_s = self._timeline.now_s - self._frozen_at_s
        self._frozen_at_s = None
        for job, (first_s, last_s) in self._due.items():
            if first_s >= self._timeline.now_s - stood_s:  # else it had come before
                first_s += stood_s
            self._due[job] = first_s, last_s + stood_s
            self._schedule(job)

    def slow_down(self, factor: float) -> None:
        self._factor = factor


class SteppedEngine:
    """One continuous-batching engine: see engine.py for the rules of a step."""

    is_load_dependent = True

    def __init__(self, timeline: Timeline, preset: EnginePreset, on_first: Tell, on_last: Tell) -> None:
        self._timeline = timeline
        self._engine = StepEngine(preset)
        self._on_first, self._on_last = on_first, on_last
        self._jobs: dict[int, Job] = {}
        self._is_stepping = self._is_frozen = False
        self._factor = 1.0
        self._held: Step | None = None  # ended while frozen

    def alone_s(self, number: int, arrival: Arrival) -> float:
        return self._engine.preset.alone_s(max(arrival.input_tokens, 1), max(arrival.output_tokens, 1))

    def begin(self, job: Job) -> None:
        self._jobs[job.number] = job
        arrival = job.arrival
        self._engine.submit(job.number, max(arrival.input_tokens, 1), max(arrival.output_tokens, 1))
        if not self._is_stepping and not self._is_frozen:
            self._step()

    def can_hold(self, arrival: Arrival) -> bool:
        return self._engine.can_hold(max(arrival.input_tokens, 1), max(arrival.output_tokens, 1))

    def _step(self) -> None:
        self._is_stepping = not self._engine.is_idle
        if self._is_stepping:
            now_s = self._timeline.now_s
            step = self._engine.step(now_s)
            self._timeline.at(now_s + step.duration_s * self._factor, self._stepped, step)

    def _stepped(self, step: Step) -> None:
        if self._is_frozen:
            self._held = step
            return
        for number in step.first_tokens:
            if (job := self._jobs.get(number)) is not None:
                self._on_first(job)
        for number in step.finished:
            if (job := self._jobs.pop(number, None)) is not None:
                self._on_last(job)
        self._step()

    def cancel(self, job: Job) -> None:
        if self._jobs.pop(job.number, None) is not None:
            self._engine.cancel(job.number)

    def freeze(self) -> None:
        self._is_frozen = True

    def thaw(self) -> None:
        self._is_frozen = False
        held, self._held = self._held, None
        if held is not None:
            self._stepped(held)
        elif not self._is_stepping:
            self._step()

    def slow_down(self, factor: float) -> None:
        self._factor = factor
