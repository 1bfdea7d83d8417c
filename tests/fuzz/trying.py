"""Tries inputs on a target: seeded mutations of a corpus, with limits on what each may cost."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from random import Random
from time import monotonic, thread_time

from tests.fuzz.targets import CORPUS, Target, open_target

# Of processor time: a busy machine is not a hang. Every wait inside a target ends by count, not by the clock.
MAX_CPU_S = 1.0
# No input of n bytes may cost 100 n bytes of memory, beside what any request costs.
MAX_AMPLIFICATION = {
    "downstream": 100,
    "upstream": 100,
    "model": 100,
    # PyYAML makes a node and two marks of each value: some 700 bytes for the two of "1,". A configuration comes
    # from the operator and is at most 1 MiB (config/document.py).
    "config": 600,
}
FREE_BYTES = 512 * 1024
# Counting memory makes a target several times slower.
MEASURED_EACH = 50
MAX_INPUT_BYTES = 16 * 1024

_TOKENS = {
    "downstream": (
        *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b",", b"\0", b"\x80", b"\xff", b"\x7f", b"_"),
        *(b"Content-Length: 13\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked"),
        *(b"Connection: close\r\n", b"Connection: host\r\n", b"Connection: content-length\r\n", b"Upgrade: h2c\r\n"),
        *(b"Expect: 100-continue\r\n", b"x-spillway-model: m\r\n", b"Connection: upgrade\r\n", b"Host: a\r\n"),
        *(b"0\r\n\r\n", b"d\r\n", b";a=b", b"POST /v1/completions HTTP/1.1\r\n", b"GET /v1/models HTTP/1.1\r\n"),
        *(b"HTTP/1.0", b"HTTP/1.1", b"..", b"%2e", b"%00", b"//", b"?", b"#", b'{"model":"m"}', b"multipart/form-data"),
    ),
    "upstream": (
        *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b",", b"\0", b"\x01", b"\x80", b"\x85", b"\xff"),
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.1 304 N\r\n"),
        *(b"HTTP/1.1 101 S\r\n", b"HTTP/1.0 200 OK\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: x-a\r\n", b"0\r\n\r\n"),
        *(b"5\r\nhello\r\n", b";a=b", b"Content-Type: text/event-stream\r\n", b"data: [DONE]\n\n", b"Upgrade: a\r\n"),
    ),
    "model": (
        *(b'"model"', b'"stream"', b'"m"', b":", b",", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u006d", b"\\ud800"),
        *(b"true", b"null", b"1e999", b"-0", b"NaN", b"\xff", b"\xef\xbb\xbf", b"\0", b" ", b"\r\n", b"--", b"--b--"),
        *(b'Content-Disposition: form-data; name="model"\r\n\r\n', b"multipart/form-data; boundary=b\n", b"\r\n--b\r\n"),
        *(b"application/json\n", b"; filename*=utf-8''a", b"charset=utf-8", b"name*=utf-8''model"),
    ),
    "config": (
        *(b"clusters", b"backends", b"limit", b"name", b"tier", b": ", b"\n", b"\n  ", b"\n- ", b"{", b"}", b"[", b"]"),
        *(b", ", b"? ", b"&a ", b"*a", b"<<: ", b"!x ", b"!!int ", b"| ", b"> ", b"\t", b"'", b'"', b"#", b"---\n"),
        *(b"http://a:1", b"http://[::1]:1", b"8", b"1s", b"${A}", b"${B:-", b"~", b"\\u0000", b"\xff", b"%YAML 1.1\n"),
        *(b"250ms", b"32MiB", b"off", b"1e999", b"0x1F", b"-1", b"models", b"auth", b"discovery", b"timeouts"),
    ),
}  # fmt: skip


class Found(Exception):
    """An input that breaks a promise; `data` is what to add to the corpus."""

    def __init__(self, name: str, data: bytes, why: str) -> None:
        super().__init__(f"{name}: {why}; input: {data[:2000]!r}")
        self.data = data


def corpus(name: str) -> list[bytes]:
    """In the order of the files' names, so that a seed means the same inputs everywhere."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def mutations(name: str, seeds: list[bytes], random: Random) -> Iterator[bytes]:
    """Without end."""
    tokens = _TOKENS[name]
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
