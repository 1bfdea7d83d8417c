"""Real-time drivers: they decide when a generation's tokens appear, with one timer for all of them."""

import asyncio
import heapq
import itertools
from dataclasses import replace
from typing import Protocol

from gateway.mock_engine.counters import EngineGauges
from gateway.mock_engine.settings import FIXED, Settings
from gateway.sim.engine import PRESETS, EnginePreset, StepEngine

# uvloop's clock counts whole milliseconds: what is due within half of one is due now.
CLOCK_SLACK_S = 0.0005
# A driver further behind than this (a starved machine) gives up the lost time instead of racing after it.
MAX_LAG_S = 0.25
FIXED_MAX_NUM_SEQS = 256


class Listener(Protocol):
    """Whoever waits for a generation. Each call may cancel the generation."""

    def on_token(self) -> None:
        """One more token (streamed generations only)."""

    def on_finish(self) -> None:
        """The last token has appeared."""


class Generation:
    """One request inside the engine."""

    __slots__ = (
        "emitted_tokens",
        "generation_id",
        "input_tokens",
        "is_over",
        "is_streamed",
        "listener",
        "output_tokens",
        "slow_factor",
    )
    _ids = itertools.count()

    def __init__(
        self,
        listener: Listener,
        input_tokens: int,
        output_tokens: int,
        is_streamed: bool,
        slow_factor: float = 1.0,
    ) -> None:
        self.generation_id = next(self._ids)
        self.listener = listener
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.is_streamed = is_streamed
        self.slow_factor = slow_factor
        self.emitted_tokens = 0
        self.is_over = False


class Serving(Protocol):
    """What the server needs of a driver."""

    @property
    def gauges(self) -> EngineGauges:
        """The engine's state now."""

    def can_hold(self, generation: Generation) -> bool:
        """Whether this generation could ever run."""

    def submit(self, generation: Generation) -> None:
        """Take it into the queue; the listener may be called before this returns."""

    def cancel(self, generation: Generation) -> None:
        """Forget it and free its seat. Harmless when it is over."""


class FixedServing:
    """First token after `ttft_s`, each further one `tpot_s` later, whatever else runs."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ttft_s: float, tpot_s: float, max_num_seqs: int
    ) -> None:
        self._loop = loop
        self._ttft_s = ttft_s
        self._tpot_s = tpot_s
        self._max_num_seqs = max_num_seqs
        self._running = 0
        self._peak_running = 0
        self._waiting: dict[Generation, None] = {}
        self._due: list[tuple[float, int, Generation]] = []  # heap by (due_s, order of entry)
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._is_ticking = False
        self._is_admitting = False

    @property
    def gauges(self) -> EngineGauges:
        """The engine's state now; its KV cache is as full as its seats are taken."""
        kv_usage = self._running / self._max_num_seqs
        return EngineGauges(self._running, len(self._waiting), self._peak_running, kv_usage)

    def can_hold(self, generation: Generation) -> bool:
        """Always: no KV cache is modelled."""
        return True

    def submit(self, generation: Generation) -> None:
        """Start at once or queue for a seat. Without any duration a whole answer is finished in place."""
        self._waiting[generation] = None
        self._admit()

    def cancel(self, generation: Generation) -> None:
        """Forget it; its seat goes to the oldest waiting one."""
        if generation in self._waiting:
            del self._waiting[generation]
        elif not generation.is_over:
            self._running -= 1
            self._admit()
        generation.is_over = True

    def _admit(self) -> None:
        if self._is_admitting:  # a generation that finished in place freed its seat: the loop below sees it
            return
        self._is_admitting = True
        while self._waiting and self._running < self._max_num_seqs:
            generation = next(iter(self._waiting))
            del self._waiting[generation]
            self._start(generation)
        self._is_admitting = False

    def _start(self, generation: Generation) -> None:
        self._running += 1
        self._peak_running = max(self._peak_running, self._running)
        delay_s = self._ttft_s
        if not generation.is_streamed:
            delay_s += (generation.output_tokens - 1) * self._tpot_s
            if delay_s == 0.0:
                self._finish(generation)
                return
        self._wake_at(self._loop.time() + delay_s * generation.slow_factor, generation)

    def _wake_at(self, due_s: float, generation: Generation) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), generation))
        if not self._is_ticking:
            self._arm()

    def _arm(self) -> None:
        if not self._due:
            return
        due_s = self._due[0][0]
        if self._timer is not None:
            if self._timer_s <= due_s:
                return
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self._loop.call_at(due_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._is_ticking = True
        now_s = self._loop.time()
        # Taken out first: what a token schedules for this very moment waits for the next turn of the loop,
        # so that a stream without any duration cannot starve the sockets.
        ripe: list[tuple[float, Generation]] = []
        while self._due and self._due[0][0] <= now_s + CLOCK_SLACK_S:
            due_s, _, generation = heapq.heappop(self._due)
            ripe.append((due_s if now_s - due_s < MAX_LAG_S else now_s, generation))
        for due_s, generation in ripe:
            if not generation.is_over:
                self._advance(generation, due_s)
        self._is_ticking = False
        self._arm()

    def _advance(self, generation: Generation, due_s: float) -> None:
        if generation.is_streamed:
            generation.emitted_tokens += 1
            generation.listener.on_token()
            if generation.is_over:  # cut or stalled at this token
                return
            if generation.emitted_tokens < generation.output_tokens:
                self._wake_at(due_s + self._tpot_s * generation.slow_factor, generation)
                return
        self._finish(generation)

    def _finish(self, generation: Generation) -> None:
        generation.is_over = True
        self._running -= 1
        generation.listener.on_finish()
        self._admit()


class StepServing:
    """The step model in real time: one timer per engine step, whatever the number of streams."""

    def __init__(self, loop: asyncio.AbstractEventLoop, preset: EnginePreset) -> None:
        self._loop = loop
        self._engine = StepEngine(preset)
        self._live: dict[int, Generation] = {}
        self._slow_factors: dict[int, float] = {}
        self._finishing: tuple[int, ...] = ()  # finished in the model, not yet at the wall clock
        self._peak_running = 0
        self._is_stepping = False

    @property
    def gauges(self) -> EngineGauges:
        """The engine's state now."""
        engine = self._engine
        running = engine.running + sum(finishing in self._live for finishing in self._finishing)
        kv_usage = engine.kv_used_tokens / engine.preset.kv_cache_tokens
        return EngineGauges(running, engine.waiting, self._peak_running, kv_usage)

    def can_hold(self, generation: Generation) -> bool:
        """Whether its tokens fit into the KV cache at all."""
        return self._engine.can_hold(generation.input_tokens, generation.output_tokens)

    def submit(self, generation: Generation) -> None:
        """Queue it for the next step."""
        self._live[generation.generation_id] = generation
        if generation.slow_factor != 1.0:
            self._slow_factors[generation.generation_id] = generation.slow_factor
        self._engine.submit(generation.generation_id, generation.input_tokens, generation.output_tokens)
        if not self._is_stepping:
            self._is_stepping = True
            # In the loop's next turn: what arrived in the same turn starts in the same step.
            self._loop.call_soon(self._begin, self._loop.time())

    def cancel(self, generation: Generation) -> None:
        """Forget it; its seat and KV room are free for the next step."""
        self._forget(generation.generation_id)
        self._engine.cancel(generation.generation_id)
        generation.is_over = True

    def _forget(self, generation_id: int) -> Generation | None:
        self._slow_factors.pop(generation_id, None)
        return self._live.pop(generation_id, None)

    def _begin(self, now_s: float) -> None:
        if self._engine.is_idle:
            self._is_stepping = False
            return
        step = self._engine.step(now_s)
        self._finishing = step.finished
        self._peak_running = max(self._peak_running, self._engine.running + len(step.finished))
        # A batch moves in lockstep, so its slowest member sets the pace of all.
        slow_factor = max(self._slow_factors.values(), default=1.0)
        ends_s = now_s + step.duration_s * slow_factor
        self._loop.call_at(ends_s, self._end, step.tokens, step.finished, ends_s)

    def _end(self, tokens: tuple[int, ...], finished: tuple[int, ...], ends_s: float) -> None:
        live = self._live
        for generation_id in tokens:
            generation = live.get(generation_id)
            if generation is not None and generation.is_streamed:
                generation.emitted_tokens += 1
                generation.listener.on_token()
        self._finishing = ()
        for generation_id in finished:
            ended = self._forget(generation_id)
            if ended is not None:
                ended.is_over = True
                ended.listener.on_finish()
        # From the planned end, not from now: rounding of timers must not add up over a thousand steps.
        now_s = self._loop.time()
        self._begin(ends_s if now_s - ends_s < MAX_LAG_S else now_s)


def serving_for(settings: Settings, loop: asyncio.AbstractEventLoop) -> Serving:
    """The driver these settings ask for. Raises ValueError for an unknown preset or impossible seats."""
    if settings.preset == FIXED:
        seats = settings.max_num_seqs or FIXED_MAX_NUM_SEQS
        return FixedServing(loop, settings.ttft_s, settings.tpot_s, seats)
    if settings.preset not in PRESETS:
        raise ValueError(f"unknown preset {settings.preset!r}; known are {FIXED}, {', '.join(PRESETS)}")
    preset = PRESETS[settings.preset]
    if settings.max_num_seqs is not None:
        preset = replace(preset, max_num_seqs=settings.max_num_seqs)
    return StepServing(loop, preset)
