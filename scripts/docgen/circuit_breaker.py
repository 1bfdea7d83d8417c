"""docs/circuit-breaker.md, from the tables of the breaker and of what failures teach."""

from docgen.page import NOTE
from gateway.core.breaker import DEFAULTS, FIRST_SHARE, JITTER, Sign, Trigger
from gateway.core.taxonomy import LESSONS, STATUS_RULES

MEANINGS = {
    Sign.TRIPPED: "this gateway's own evidence: see below",
    Sign.TOLD_OPEN: "another gateway's verdict, and nothing here that speaks against it",
    Sign.WAITED: "its open time is over",
    Sign.ENCOURAGED: "another gateway's probe went well; own evidence said otherwise, so this one tries at once",
    Sign.PROBE_SUCCEEDED: "the probe was answered",
    Sign.PROBE_DROPPED: "the probe failed",
    Sign.PROBE_IGNORED: "the probe's end says nothing about the backend: the next request may try",
    Sign.TOLD_CLOSED: "another gateway's probe went well, and only others' verdicts had opened this circuit",
    Trigger.CONSECUTIVE: f"{DEFAULTS.consecutive} drops with no success between them",
    Trigger.RATIO: f"drops are {DEFAULTS.ratio * 100:g} % or more of at least {DEFAULTS.min_samples} in "
    f"{DEFAULTS.window_s:g} s, in exact buckets of a tenth of that",
    Trigger.NO_PROGRESS: "at least three attempts wait, and no byte comes on any exchange for "
    f"{DEFAULTS.hung_floor_s:g} s + {DEFAULTS.hung_factor:g} x p99 of its first bytes + "
    f"{DEFAULTS.hung_per_kib_s * 1000:g} ms per KiB of the largest recent prompt; or one attempt's whole first-byte time ran "
    "out with no byte to anybody, and two more wait",
    Trigger.PROBE_FAILED: "the probe was dropped",
    Trigger.CONFIRMED: "one drop of its own, after another gateway's verdict that it could not believe at first",
    Trigger.TOLD: "another gateway's verdict",
}


def circuit_breaker() -> str:
    signs = "".join(f"| `{sign}` | {MEANINGS[sign]} |\n" for sign in Sign)
    triggers = "".join(f"| `{trigger}` | {MEANINGS[trigger]} |\n" for trigger in Trigger)
    lessons = "".join(
        f"| `{reason}` | {row.happened} | {row.verdict} | {'yes' if row.may_move else 'no'} |\n"
        for reason, row in LESSONS.items()
    )
    statuses = "".join(
        f"| {rule.shown} | `{rule.reason}` | {'yes' if rule.may_move else 'no'} |\n" for rule in STATUS_RULES
    )
    return f"""{NOTE}<!-- Source: gateway/core/breaker.py, gateway/core/taxonomy.py -->

# The circuit breaker

Every backend has a circuit. The figures below are defaults; see [`breaker`](configuration.md#breaker). Why it is built
so is told in [ADR 0014](adr/0014-whose-verdict-opens-a-circuit.md).

![The states and the signs that lead from one to the other](circuit-breaker.svg)

| sign | meaning |
|---|---|
{signs}
A sign that has no arrow in the state it meets is a mistake of the program; nothing is changed then. Each change of
state begins a new generation, and the result of an attempt that began under another one changes nothing.

## What opens a circuit

| trigger | meaning |
|---|---|
{triggers}
An open circuit gets no work for {DEFAULTS.open_s:g} s. Each opening in a row doubles that, up to
{DEFAULTS.open_max_s:g} s; up to {_percent(JITTER)} of it is taken off at random. An opening that comes before the slow start
of the last one is over counts as in a row.

Half-open admits one attempt in the whole fleet, the probe: the next request, or a synthetic one when none comes for
{DEFAULTS.probe_wait_s:g} s. After a failure that was found out by waiting, a synthetic one is asked for first, so that no
client waits as long again. A green health check closes nothing.

From {_percent(FIRST_SHARE)} to 100 % of its limit and weight a backend comes back over {DEFAULTS.slow_start_s:g} s. Before
that it keeps {_percent(FIRST_SHARE)} of its limit, for panic; while a probe is wanted the limit is whole, so that the probe has
a slot beside long streams and other gateways.

A cluster counts as down when less than {_percent(DEFAULTS.min_available)} of the slots that should be there are there, drained
ones not counted: its tier is passed over, and what is left of it is used when all the others are full. It is back
when all of it is, or half of it for {DEFAULTS.hold_down_s:g} s; not twice within that time. When nothing is left at all, the last tier tries its
ejected backends, with {_percent(FIRST_SHARE)} of their limits.

## Several gateways

Gateways that share a `state.url` tell each other at once of a circuit that opened by own evidence, and of a probe that
went well; one probe permit for each backend is the whole fleet's. Who obeys whom: ADR 0014.

## What each end of an attempt teaches

Ignored outcomes neither open a circuit nor close one. "Moves on": before the first body byte another backend, of any
tier, may try.

| reason | what happened | verdict | moves on |
|---|---|---|---|
{lessons}
| status | reason | moves on |
|---|---|---|
{statuses}
A full backend (429, 503) keeps what it has in flight as its limit for as long as its Retry-After asks, at least 0.1
and at most 60 s, 1 s if it asks nothing.
"""


def _percent(share: float) -> str:
    return f"{share * 100:g} %"
