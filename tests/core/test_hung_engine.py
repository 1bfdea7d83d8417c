"""The no-progress watchdog against the engine model: ten healthy minutes do not trip it, a hang does.

Prompts from 1 to 126 k tokens, streams and whole answers mixed, in virtual time; the proxy's part is played
by the test: bytes of streams are told in a sweep, first bytes of whole answers at their end.
"""

from __future__ import annotations

from random import Random

import pytest

from gateway.core.breaker import Trigger
from gateway.core.fleet import (
    AttemptFinished,
    AttemptStarted,
    BytesSeen,
    FirstByteSeen,
    ReportCircuit,
    ShareOpening,
    Ticked,
)
from gateway.core.model import SUCCESS, Outcome, Reason
from gateway.sim.engine import A100_80, H100_80, L4_24, EnginePreset, StepEngine
from tests.core.stories import fleet_of

BYTES_PER_TOKEN = 4
FIRST_BYTE_TIMEOUT_S, PER_KIB_S = 30.0, 0.02
TIMED_OUT = Outcome.of(Reason.FIRST_BYTE_TIMEOUT)


class Attempt:
    def __init__(self, began_s: float, prompt_tokens: int, is_stream: bool) -> None:
        self.began_s = began_s
        self.is_stream = is_stream
        self.body_bytes = prompt_tokens * BYTES_PER_TOKEN
        self.ttft_s: float | None = None
        self.deadline_s = began_s + FIRST_BYTE_TIMEOUT_S + PER_KIB_S * self.body_bytes / 1024


class Rig:
    """One engine behind a fleet of one backend; requests arrive at random."""

    def __init__(
        self,
        preset: EnginePreset,
        rate: float,
        median_tokens: int,
        most_tokens: int,
        *,
        most_output_tokens: int = 600,
        seed: int = 0,
    ) -> None:
        self.fleet = fleet_of({"primary": [("engine", 256)]})
        self.engine = StepEngine(preset)
        self.random = Random(f"{preset.name} {rate} {seed}")
        self.most_output_tokens = most_output_tokens
        self.rate, self.median_tokens, self.most_tokens = rate, median_tokens, most_tokens
        self.attempts: dict[int, Attempt] = {}
        self.opened: list[tuple[float, ReportCircuit]] = []
        self.shared: list[ShareOpening] = []
        self.answered = 0
        self.largest_prompt_tokens = 0
        self.began: list[Attempt] = []

    def tell(self, event, now_s: float) -> None:
        for effect in self.fleet.apply(event, now_s):
            if isinstance(effect, ReportCircuit):
                self.opened.append((now_s, effect))
            elif isinstance(effect, ShareOpening):
                self.shared.append(effect)

    def run(self, until_s: float, hangs_at_s: float = float("inf")) -> None:
        arrives_s = ticks_s = now_s = 0.0
        number = 0
        while now_s < until_s and not self.opened:
            step = self.engine.step(now_s) if now_s < hangs_at_s else None
            now_s = step.ends_s if step is not None and step.duration_s else now_s + 0.01
            while arrives_s <= now_s:
                self.arrive(number, arrives_s)
                number += 1
                arrives_s += self.random.expovariate(self.rate)
            if step is not None:
                self.answer(step, now_s)
            while ticks_s <= now_s:
                self.time_out(ticks_s)
                self.tell(Ticked(), ticks_s)
                ticks_s += 0.5

    def arrive(self, number: int, now_s: float) -> None:
        tokens = int(self.random.lognormvariate(0, 1.8) * self.median_tokens)
        tokens = min(max(tokens, 1), self.most_tokens)
        self.largest_prompt_tokens = max(self.largest_prompt_tokens, tokens)
        attempt = self.attempts[number] = Attempt(now_s, tokens, self.random.random() < 0.5)
        self.began.append(attempt)
        self.engine.submit(number, tokens, self.random.randint(1, self.most_output_tokens))
        self.tell(AttemptStarted("engine", 0, attempt.body_bytes), now_s)

    def answer(self, step, now_s: float) -> None:
        flowing = False
        for number in step.first_tokens:
            attempt = self.attempts[number]
            attempt.ttft_s = now_s - attempt.began_s
            if attempt.is_stream and number not in step.finished:
                self.tell(FirstByteSeen("engine", attempt.ttft_s), now_s)
        for number in step.tokens:
            flowing |= number in self.attempts and self.attempts[number].is_stream
        if flowing:
            self.tell(BytesSeen(("engine",)), now_s)
        for number in step.finished:
            attempt = self.attempts.pop(number)
            was_told = attempt.is_stream and now_s - attempt.began_s > (attempt.ttft_s or 0.0)
            ttft_s = None if was_told else now_s - attempt.began_s
            self.tell(AttemptFinished("engine", SUCCESS, ttft_s, None, 0), now_s)
            self.answered += 1

    def time_out(self, now_s: float) -> None:
        late = [n for n, a in self.attempts.items() if now_s >= a.deadline_s and a.ttft_s is None]
        for number in late:
            attempt = self.attempts.pop(number)
            self.engine.cancel(number)
            self.tell(
                AttemptFinished("engine", TIMED_OUT, None, now_s - attempt.began_s, 0),
                now_s,
            )


RIGS = {
    "h100, busy": (H100_80, 3.0, 1000, 126_000),
    "h100, quiet": (H100_80, 0.3, 1000, 126_000),
    "a100, busy": (A100_80, 1.0, 1000, 126_000),
    "a100, quiet": (A100_80, 0.1, 2000, 126_000),
    "l4, busy": (L4_24, 0.25, 300, 25_000),
}


@pytest.mark.parametrize("name", RIGS)
def test_ten_healthy_minutes_with_long_prompts_trip_nothing(name):
    rig = Rig(*RIGS[name])
    rig.run(600.0)
    assert not rig.opened
    assert rig.answered > 40
    assert rig.largest_prompt_tokens > 0.3 * RIGS[name][3], "long prompts did come"


@pytest.mark.parametrize("name", ["h100, busy", "a100, busy"])
@pytest.mark.parametrize("seed", range(3))
def test_a_hang_is_found_out_within_the_first_byte_timeout_and_a_second(name, seed):
    """Half of these answers come whole, after up to six seconds: silence proves something only late."""
    rig = Rig(*RIGS[name], seed=seed)
    rig.run(600.0, hangs_at_s=120.0)
    (opened_s, report), *_ = rig.opened
    assert report.trigger in (Trigger.NO_PROGRESS, Trigger.CONSECUTIVE)
    first_timeout_s = min(attempt.deadline_s for attempt in rig.began if attempt.began_s >= 120.0)
    assert 123.0 < opened_s <= first_timeout_s + 1.0


def test_a_hang_under_short_work_is_found_out_in_seconds():
    """Embeddings, say: nothing takes long, so silence is telling. The same traffic without a hang is fine."""
    short = (H100_80, 20.0, 200, 8_000)
    healthy = Rig(*short, most_output_tokens=8)
    healthy.run(120.0)
    assert not healthy.opened
    rig = Rig(*short, most_output_tokens=8)
    rig.run(600.0, hangs_at_s=120.0)
    (opened_s, report), *_ = rig.opened
    assert (report.trigger, report.reason) == (Trigger.NO_PROGRESS, Reason.HUNG)
    assert [share.reason for share in rig.shared] == [Reason.HUNG]
    assert 3.0 < opened_s - 120.0 < 7.0
