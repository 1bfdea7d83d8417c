"""Tries inputs on a target: seeded mutations of a corpus, with limits on what each may cost."""

from __future__ import annotations

import ast
import itertools
import tracemalloc
from collections.abc import Iterator
from random import Random
from time import monotonic, thread_time

from tests.fuzz.targets import CORPUS, TOKENS, Target, open_target

# Of processor time: a busy machine is not a hang. Every wait inside a target ends by count, not by the clock.
MAX_CPU_S = 1.0
# No input of n bytes may cost 100 n bytes of memory, beside what any request costs.
MAX_AMPLIFICATION = {
    "downstream": 100,
    "upstream": 100,
    "model": 100,
    # PyYAML makes a node and two marks of each value: some 700 bytes for the two of "1,". A configuration
    # comes from the operator and is at most 1 MiB (config/document.py).
    "config": 600,
}
FREE_BYTES = 512 * 1024
# Counting memory makes a target several times slower.
MEASURED_EACH = 50
MAX_INPUT_BYTES = 16 * 1024


class Found(Exception):
    """An input that breaks a promise; `data` is what to add to the corpus."""

    def __init__(self, name: str, data: bytes, why: str) -> None:
        super().__init__(f"{name}: {why}; input: {data[:2000]!r}")
        self.data = data


def corpus(name: str) -> list[bytes]:
    """In the order of the files' names, so that a seed means the same inputs everywhere."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def tokens_of(name: str) -> tuple[bytes, ...]:
    """What a file of libFuzzer's form lists."""
    lines = (TOKENS / f"{name}.dict").read_text().splitlines()
    return tuple(ast.literal_eval(f"b{line}") for line in lines if line.startswith('"'))


def mutations(name: str, seeds: list[bytes], random: Random) -> Iterator[bytes]:
    """Without end."""
    tokens = tokens_of(name)
    while True:
        data = random.choice(seeds)
        for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
            data = _mutated(data, seeds, tokens, random)
        yield data[:MAX_INPUT_BYTES]


def _mutated(data: bytes, seeds: list[bytes], tokens: tuple[bytes, ...], random: Random) -> bytes:
    at = random.randint(0, len(data))
    to = min(len(data), at + random.choice((0, 1, 1, 2, 4, 16, 64)))
    match random.randrange(8):
        case 0:
            return data[:at] + data[to:]
        case 1:
            return data[:at] + random.randbytes(to - at) + data[to:]
        case 2:
            return data[:to] + data[at:to] * random.choice((1, 2, 8, 200)) + data[to:]
        case 3:
            other = random.choice(seeds)
            return data[:at] + other[random.randint(0, len(other)) :]
        case 4 if data:
            at = min(at, len(data) - 1)
            return data[:at] + bytes((data[at] ^ 1 << random.randrange(8),)) + data[at + 1 :]
        case 5:
            return data + random.choice(seeds)
        case _:
            return data[:at] + random.choice(tokens) + data[to:]


class Trial:
    """Tries inputs on one target, one after the other."""

    def __init__(self, name: str, target: Target) -> None:
        self._name = name
        self._target = target
        self.count = 0
        self.most_cpu_s = self.most_amplification = 0.0

    def __call__(self, data: bytes, *, is_measured: bool = False) -> None:
        """Raises Found."""
        self.count += 1
        measures = is_measured or self.count % MEASURED_EACH == 0
        if measures:
            tracemalloc.start()
        began_s = thread_time()
        try:
            self._target(data)
        except Exception as error:
            raise Found(self._name, data, repr(error)) from error
        finally:
            took_s = thread_time() - began_s
            peak_bytes = tracemalloc.get_traced_memory()[1] if measures else 0
            if measures:
                tracemalloc.stop()
        self.most_amplification = max(self.most_amplification, (peak_bytes - FREE_BYTES) / (len(data) + 1))
        if peak_bytes > FREE_BYTES + MAX_AMPLIFICATION[self._name] * len(data):
            raise Found(self._name, data, f"{peak_bytes} bytes of memory for {len(data)}")
        if not measures:
            self.most_cpu_s = max(self.most_cpu_s, took_s)
            if took_s > MAX_CPU_S:
                raise Found(self._name, data, f"{took_s:.1f} s for {len(data)} bytes")


def replay(name: str) -> int:
    """Tries the corpus, memory counted, and tells how many that were. Raises Found."""
    with open_target(name) as target:
        trial = Trial(name, target)
        for is_measured in (False, True):  # the first time fills what is made once and kept
            for data in corpus(name):
                trial(data, is_measured=is_measured)
    return trial.count


def fuzz(name: str, seed: int, *, inputs: int | None = None, seconds: float | None = None) -> Trial:
    """Tries mutations of the corpus: so many, or for so long. Raises Found."""
    until_s = monotonic() + seconds if seconds is not None else float("inf")
    with open_target(name) as target:
        trial = Trial(name, target)
        seeds = corpus(name)
        for data in itertools.chain(seeds, mutations(name, seeds, Random(seed))):
            if trial.count == inputs or monotonic() >= until_s:
                break
            trial(data)
    return trial
