"""Made-up workloads, written as a sum: `diurnal(mean=20rps, peak=3x) + burst(at=5m, rate=50rps, for=20s)`.

Every part is a rate over time; arrivals are a Poisson process of the sum (thinning: Lewis and Shedler, 1979),
lengths are lognormal around their medians. One seed gives one workload, to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, exp, lgamma, log, pi
from random import Random

from gateway.config.problems import BadValue
from gateway.config.units import parse_duration
from gateway.sim.arrivals import MAX_TOKENS, Arrival

MAX_ARRIVALS = 5_000_000
# The spread of the lengths of the Azure 2023 conversation trace, roughly: p99 four times the median.
LENGTH_SIGMA = 0.7

Rate = Callable[[float], float]


class WorkloadError(Exception):
    """The expression cannot be used: one line with what is wrong and a fix."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A rate over time, and the highest it comes to."""

    rate_at: Rate
    most: float


def _steady(rate: float) -> _Part:
    return _Part(lambda now_s: rate, rate)


def _diurnal(mean: float, peak: float, period: float) -> _Part:
    """From its lowest to `peak` times the mean and back: the n-th power of a raised cosine.

    Up to a peak of twice the mean it swings about the mean instead, and the lowest is above 0.
    """
    if peak <= 2.0:

        def swing(now_s: float) -> float:
            return mean * (1.0 - (peak - 1.0) * cos(2 * pi * now_s / period))

        return _Part(swing, mean * peak)
    power = _power_of(peak)

    def rate_at(now_s: float) -> float:
        return mean * peak * float((0.5 - 0.5 * cos(2 * pi * now_s / period)) ** power)

    return _Part(rate_at, mean * peak)


def _power_of(peak: float) -> float:
    """The power of a raised cosine that is `peak` times its own mean at its highest, by bisection."""
    low, high = 0.0, 4.0 * peak * peak
    for _ in range(60):
        power = (low + high) / 2
        mean = exp(lgamma(power + 0.5) - lgamma(power + 1.0)) / pi**0.5
        low, high = (power, high) if mean * peak > 1.0 else (low, power)
    return low


def _burst(at: float, rate: float, length: float, every: float) -> _Part:
    def rate_at(now_s: float) -> float:
        since_s = now_s - at
        if since_s < 0:
            return 0.0
        return rate if (since_s % every if every else since_s) < length else 0.0

    return _Part(rate_at, rate)


def _ramp(first: float, last: float, length: float) -> _Part:
    def rate_at(now_s: float) -> float:
        return first + (last - first) * min(now_s / length, 1.0)

    return _Part(rate_at, max(first, last))


_RATE, _TIMES, _SECONDS, _COUNT = (
    "a rate such as 20rps",
    "a factor such as 3x",
    "a duration such as 5m",
    "a count",
)
_FORM = re.compile(r"\s*([a-z]+)\s*\(([^()]*)\)\s*", re.ASCII)
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.ASCII)

# Each part: its arguments, with what they are and their defaults (None: required).
_FORMS: Mapping[str, Mapping[str, tuple[str, float | None]]] = {
    "steady": {"rate": (_RATE, None)},
    "diurnal": {"mean": (_RATE, None), "peak": (_TIMES, 2.0), "period": (_SECONDS, 3600.0)},
    "burst": {
        "at": (_SECONDS, 0.0),
        "rate": (_RATE, None),
        "for": (_SECONDS, 10.0),
        "every": (_SECONDS, 0.0),
    },
    "ramp": {"from": (_RATE, 0.0), "to": (_RATE, None), "for": (_SECONDS, 3600.0)},
    "tokens": {"input": (_COUNT, 1000.0), "output": (_COUNT, 130.0)},
    "span": {"for": (_SECONDS, 3600.0)},
}
HELP = """\
workloads: a sum of rates, what the requests are like, and how long it lasts, for example
  --workload 'diurnal(mean=20rps, peak=3x, period=1h) + burst(at=5m, rate=50rps, for=20s, every=10m)'
  --workload 'ramp(from=0rps, to=40rps, for=30m) + tokens(input=800, output=90) + span(for=1h)'
  --workload 'steady(rate=20rps)'
tokens are medians (lognormal); the span is 1h unless told.
sweeps: PATH=FROM..TO:STEP or PATH=VALUE,VALUE with the keys of the configuration, clusters by their names:
  --sweep clusters.eu-primary.limit=32..128:16      --sweep retry.budget=0,0.1,0.2
"""


def make_workload(text: str, seed: int) -> list[Arrival]:
    """The arrivals of an expression. Raises WorkloadError."""
    parts: list[_Part] = []
    lengths = {"input": 1000.0, "output": 130.0}
    span_s = 3600.0
    for name, given in _terms(text):
        if name == "tokens":
            lengths = given
        elif name == "span":
            span_s = given["for"]
        else:
            parts.append(_part_of(name, given))
    if not parts:
        raise WorkloadError(f"the workload {text!r} has no rate; add steady(rate=10rps)")
    most = sum(part.most for part in parts)
    if most * span_s > MAX_ARRIVALS:
        raise WorkloadError(
            f"the workload has more than {MAX_ARRIVALS:,} requests; shorten it with span(for=10m)"
        )
    arrivals = list(_arrivals(parts, most, span_s, lengths, Random(f"workload:{seed}")))
    if not arrivals:
        raise WorkloadError(f"the workload {text!r} has no request in {span_s:g} s; raise its rate")
    return arrivals


def _part_of(name: str, given: Mapping[str, float]) -> _Part:
    if name == "steady":
        return _steady(given["rate"])
    if name == "diurnal":
        if given["peak"] < 1 or given["period"] <= 0:
            raise WorkloadError("diurnal: peak must be at least 1x and period above 0; write peak=3x")
        return _diurnal(given["mean"], given["peak"], given["period"])
    if name == "burst":
        return _burst(given["at"], given["rate"], given["for"], given["every"])
    return _ramp(given["from"], given["to"], max(given["for"], 1e-9))


def _arrivals(
    parts: list[_Part], most: float, span_s: float, lengths: Mapping[str, float], random: Random
) -> list[Arrival]:
    now_s, found = 0.0, []
    while most > 0:
        now_s += random.expovariate(most)
        if now_s >= span_s:
            break
        if random.random() * most < sum(part.rate_at(now_s) for part in parts):
            inputs, outputs = (_length(lengths[kind], random) for kind in ("input", "output"))
            found.append(Arrival(round(now_s, 6), inputs, outputs))
    return found


def _length(median: float, random: Random) -> int:
    if median < 1:
        return 0
    return min(max(round(exp(log(median) + LENGTH_SIGMA * random.gauss(0.0, 1.0))), 1), MAX_TOKENS)


def _terms(text: str) -> list[tuple[str, dict[str, float]]]:
    terms = []
    for term in text.split("+"):
        match = _FORM.fullmatch(term)
        if match is None or match[1] not in _FORMS:
            known = ", ".join(_FORMS)
            raise WorkloadError(
                f"the workload has {term.strip()!r}; write NAME(key=value, ...), NAME of: {known}"
            )
        terms.append((match[1], _arguments(match[1], match[2])))
    return terms


def _arguments(name: str, text: str) -> dict[str, float]:
    form = _FORMS[name]
    found = {key: default for key, (_, default) in form.items() if default is not None}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, value = (word.strip() for word in piece.partition("="))
        if key not in form:
            raise WorkloadError(f"{name} has no {key!r}; it knows: {', '.join(form)}")
        found[key] = _value(name, key, value, form[key][0])
    missing = [key for key in form if key not in found]
    if missing:
        raise WorkloadError(
            f"{name} needs {missing[0]}; write {missing[0]}={form[missing[0]][0].split()[-1]}"
        )
    return found


def _value(name: str, key: str, text: str, kind: str) -> float:
    unit = {_RATE: "rps", _TIMES: "x", _COUNT: ""}
    try:
        if kind is _SECONDS:
            return parse_duration(text)
        match = _NUMBER.fullmatch(text)
        if match is None or match[2] != unit[kind]:
            raise BadValue(f"must be {kind}")
        return float(match[1])
    except BadValue as bad:
        raise WorkloadError(
            f"{name}: {key} {bad.message}{f'; {bad.fix}' if bad.fix else f', not {text!r}'}"
        ) from None
