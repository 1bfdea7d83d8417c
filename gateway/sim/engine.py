"""One continuous-batching engine as a step model: pure, deterministic, virtual time only.

The rules, in the order in which a step applies them:

1. A step lasts ``c0 + max(0, n_tok - n0) * c_tok + ctx_tokens * c_kv``: a floor, the tokens computed in
   the step above those that hide behind the weight reads, and the reading of the KV cache.
2. Every request past its prefill computes one token. What is left of ``max_batched_tokens`` goes to
   prefills, oldest first, cut into chunks.
3. The queue is strictly first come, first served. Its head joins the batch when a seat, some of the step's
   token budget and KV room for its whole life (input + output) are free; nobody overtakes it.
4. The step that ends a prefill yields the request's first token. Tokens appear when the step ends.

KV room is reserved for a request's whole life, so nothing is ever preempted and the cache never overflows.
A real engine admits on the prompt alone and preempts when it was wrong: near a full cache it runs a few more
requests at once than this model does.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EnginePreset:
    """Constants of one accelerator running one model. Raises ValueError when they contradict each other."""

    name: str
    step_floor_ms: float  # c0: weight reads and launch overhead of any step
    token_ms: float  # c_tok: each token computed above `free_tokens`
    free_tokens: int  # n0: tokens a step computes for free behind the weight reads
    context_token_us: float  # c_kv: each token of context read from the KV cache
    kv_cache_tokens: int
    max_num_seqs: int
    max_batched_tokens: int

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1:
            raise ValueError("max_num_seqs must be at least 1")
        if self.max_batched_tokens < self.max_num_seqs:
            # Rule 2 gives every running request one token a step; vLLM refuses this setting too.
            raise ValueError(
                f"max_batched_tokens ({self.max_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs})"
            )

    def step_s(self, computed_tokens: int, context_tokens: int) -> float:
        """Seconds that a step takes which computes and reads this many tokens."""
        paid_tokens = max(0, computed_tokens - self.free_tokens)
        context_ms = context_tokens * self.context_token_us / 1000.0
        return (self.step_floor_ms + paid_tokens * self.token_ms + context_ms) / 1000.0

    def alone_s(self, input_tokens: int, output_tokens: int) -> float:
        """Seconds that a request takes with nothing else in the batch, from its first step to its last."""
        whole_s, done = 0.0, 0
        while done < input_tokens:
            chunk = min(self.max_batched_tokens, input_tokens - done)
            whole_s += self.step_s(chunk, done)
            done += chunk
        steps = output_tokens - 1
        context_tokens = steps * input_tokens + steps * (steps - 1) // 2
        return whole_s + steps * self.step_s(1, 0) + context_tokens * self.context_token_us / 1e6


# Llama-3.1-8B in bf16. Source: DESIGN section 8, fitted to measured vLLM (TTFT within 12 %, TPOT within 2 %).
# docs/engine-model.md has them beside published figures and data sheets.
H100_80 = EnginePreset("h100-80", 7.2, 0.025, 150, 0.052, 404_000, 256, 8192)
A100_80 = EnginePreset("a100-80", 11.0, 0.075, 80, 0.082, 404_000, 256, 2048)
L4_24 = EnginePreset("l4-24", 60.0, 0.30, 120, 0.51, 27_800, 64, 2048)
PRESETS = {preset.name: preset for preset in (H100_80, A100_80, L4_24)}


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. Everything listed happens at `ends_s`, the step's end (virtual seconds)."""

    starts_s: float
    ends_s: float
    first_tokens: tuple[int, ...]  # requests whose first token this is, in queue order
    tokens: tuple[int, ...]  # every request that got a token, first tokens included
    finished: tuple[int, ...]  # requests whose last token this was

    @property
    def duration_s(self) -> float:
        """Seconds from start to end; 0 only when there was nothing to do."""
        return self.ends_s - self.starts_s


@dataclass(slots=True, eq=False)
class _Sequence:
    request_id: int
    input_tokens: int
    output_tokens: int
    prefilled_tokens: int = 0
    first_step: int = -1  # number of the step that yielded the first token

    @property
    def reserved_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def context_tokens(self, step_number: int) -> int:
        """Tokens held in the KV cache before step `step_number` starts."""
        if self.first_step < 0:
            return self.prefilled_tokens
        return self.input_tokens + step_number - self.first_step - 1


class StepEngine:
    """The model of the module's rules. One step costs O(batch) for listing its tokens and little else.

    Invariants: running <= max_num_seqs; kv_used_tokens <= kv_reserved_tokens <= kv_cache_tokens; every
    submitted request is in exactly one of waiting, prefilling, decoding, until it finishes or is cancelled.
    """

    def __init__(self, preset: EnginePreset) -> None:
        self.preset = preset
        self.kv_reserved_tokens = 0
        self.kv_used_tokens = 0
        self._step_number = 0
        self._waiting: OrderedDict[int, _Sequence] = OrderedDict()
        self._prefilling: OrderedDict[int, _Sequence] = OrderedDict()
        self._decoding: dict[int, _Sequence] = {}
        # Step number -> sequences whose last token it yields. Cancelled ones stay; identity tells.
        self._finishing: dict[int, list[_Sequence]] = {}

    def __repr__(self) -> str:
        return (
            f"StepEngine({self.preset.name}: running {self.running}/{self.preset.max_num_seqs}, "
            f"waiting {self.waiting}, kv {self.kv_reserved_tokens}/{self.preset.kv_cache_tokens})"
        )

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Requests queued for the batch."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing waits: a step would do nothing."""
        return not (self._waiting or self._prefilling or self._decoding)

    def can_hold(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether the KV cache could ever hold such a request."""
        return input_tokens + output_tokens <= self.preset.kv_cache_tokens

    def submit(self, request_id: int, input_tokens: int, output_tokens: int) -> None:
        """Queue a request. Raises ValueError when it could never run or its id is in use."""
        if input_tokens < 1 or output_tokens < 1:
            raise ValueError("a request has at least one input and one output token")
        if not self.can_hold(input_tokens, output_tokens):
            raise ValueError(f"{input_tokens + output_tokens} tokens never fit into the KV cache")
        if request_id in self._waiting or request_id in self._prefilling or request_id in self._decoding:
            raise ValueError(f"request {request_id} is already here")
        self._waiting[request_id] = _Sequence(request_id, input_tokens, output_tokens)

    def cancel(self, request_id: int) -> bool:
        """Forget a request and free what it held. False when it is not here (finished or never submitted)."""
        if self._waiting.pop(request_id, None) is not None:
            return True
        sequence = self._prefilling.pop(request_id, None) or self._decoding.pop(request_id, None)
        if sequence is None:
            return False
        self._free(sequence)
        return True

    def step(self, now_s: float) -> Step:
        """Run the step that starts at `now_s`. When idle: an empty step that takes no time."""
        if self.is_idle:
            return Step(now_s, now_s, (), (), ())
        decoding = len(self._decoding)
        context_tokens = self.kv_used_tokens
        prefill_tokens, prefilled = self._prefill(self.preset.max_batched_tokens - decoding)
        ends_s = now_s + self.preset.step_s(decoding + prefill_tokens, context_tokens)
        self.kv_used_tokens += decoding + prefill_tokens
        first_tokens = tuple(self._start_decoding(sequence) for sequence in prefilled)
        tokens = tuple(self._decoding)
        finished = tuple(self._finish_due())
        self._step_number += 1
        return Step(now_s, ends_s, first_tokens, tokens, finished)

    def _prefill(self, budget_tokens: int) -> tuple[int, list[_Sequence]]:
        """Spend the budget on prefills: (tokens computed, sequences whose prompt is now complete)."""
        left_tokens = budget_tokens
        complete: list[_Sequence] = []
        for sequence in self._prefilling.values():
            left_tokens -= self._prefill_chunk(sequence, left_tokens, complete)
        while left_tokens > 0 and self._head_fits():
            _, sequence = self._waiting.popitem(last=False)
            self.kv_reserved_tokens += sequence.reserved_tokens
            self._prefilling[sequence.request_id] = sequence
            left_tokens -= self._prefill_chunk(sequence, left_tokens, complete)
        return budget_tokens - left_tokens, complete

    @staticmethod
    def _prefill_chunk(sequence: _Sequence, left_tokens: int, complete: list[_Sequence]) -> int:
        chunk_tokens = min(left_tokens, sequence.input_tokens - sequence.prefilled_tokens)
        sequence.prefilled_tokens += chunk_tokens
        if sequence.prefilled_tokens == sequence.input_tokens:
            complete.append(sequence)
        return chunk_tokens

    def _head_fits(self) -> bool:
        if not self._waiting or self.running >= self.preset.max_num_seqs:
            return False
        head = next(iter(self._waiting.values()))
        return self.kv_reserved_tokens + head.reserved_tokens <= self.preset.kv_cache_tokens

    def _start_decoding(self, sequence: _Sequence) -> int:
        sequence.first_step = self._step_number
        del self._prefilling[sequence.request_id]
        self._decoding[sequence.request_id] = sequence
        last_step = self._step_number + sequence.output_tokens - 1
        self._finishing.setdefault(last_step, []).append(sequence)
        return sequence.request_id

    def _finish_due(self) -> list[int]:
        finished: list[int] = []
        for sequence in self._finishing.pop(self._step_number, ()):
            if self._decoding.get(sequence.request_id) is sequence:
                del self._decoding[sequence.request_id]
                # The step number still counts this step as running: its token is in kv_used_tokens.
                self._free(sequence, after_step=True)
                finished.append(sequence.request_id)
        return finished

    def _free(self, sequence: _Sequence, after_step: bool = False) -> None:
        self.kv_reserved_tokens -= sequence.reserved_tokens
        self.kv_used_tokens -= sequence.context_tokens(self._step_number + after_step)
