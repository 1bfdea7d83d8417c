"""What the fleet is told (events, past tense) and what it asks to be done (effects, imperative).

Plain values, all of them: they can be written down, sent to another gateway and played again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gateway.core.breaker import BreakerSettings, Circuit, Trigger
from gateway.core.health import HealthEvent
from gateway.core.latency import LatencySummary
from gateway.core.model import Cluster, Outcome
from gateway.core.taxonomy import Reason

FOREVER_S = float("inf")
# How often a driver tells Ticked; and how often it looks at the deadlines of what runs and tells BytesSeen:
# no deadline is later than this, and no byte sets a timer.
TICK_S, SWEEP_S = 0.5, 0.1


# --- events: the configuration, and what an operator says --------------------------------------------


class FleetConfigured(NamedTuple):
    """The clusters and the tiers' order, as read from the configuration or told by discovery."""

    clusters: tuple[Cluster, ...]
    tiers: tuple[str, ...]
    cluster_policy: str = "weight"
    breaker: BreakerSettings = BreakerSettings()


class Drained(NamedTuple):
    """No new work for a cluster or a backend until `until_s` (monotonic)."""

    name: str
    until_s: float = FOREVER_S


class Undrained(NamedTuple):
    name: str


class Ticked(NamedTuple):
    """Time has passed. Told twice a second; `draw` is uniform in [0, 2**64) and jitters open times."""

    draw: int = 0


# --- events: an attempt's life -----------------------------------------------------------------------


class AttemptStarted(NamedTuple):
    """A lease was taken and the attempt begins. `generation` is that of the candidate.

    Without it (None) the attempt belongs to whatever the circuit is when its end is told. `body_bytes` is
    the size of the request's body: without it the attempt is not watched for silence.
    """

    backend_id: str
    generation: int | None = None
    body_bytes: int | None = None


class FirstByteSeen(NamedTuple):
    """The first body byte of a good answer came `ttft_s` after the attempt began; more is to come."""

    backend_id: str
    ttft_s: float


class TunnelOpened(NamedTuple):
    """The attempt has succeeded: the backend has agreed to a tunnel, `ttft_s` after it began.

    It stays in flight until its AttemptFinished, which comes with NO_GENERATION and teaches nothing more: a
    tunnel may last for hours, and no circuit can wait so long for a verdict. `generation` is the candidate's.
    """

    backend_id: str
    ttft_s: float
    generation: int | None = None


class BytesSeen(NamedTuple):
    """Answers of these backends went on since this was last told. Told a few times a second, for all."""

    backend_ids: tuple[str, ...]


class AttemptFinished(NamedTuple):
    """`ttft_s` is that of a good answer whose first byte no FirstByteSeen has told of.

    `elapsed_s`: how long an attempt took that ended without one, from its begin (an error answer that was
    not whole: until it began); then the backend's latency is at least that. `generation` as in
    AttemptStarted. `retry_after_s` is what a full backend (429, 503) asks.
    """

    backend_id: str
    outcome: Outcome
    ttft_s: float | None = None
    elapsed_s: float | None = None
    generation: int | None = None
    retry_after_s: float | None = None


# --- events: what other gateways say -----------------------------------------------------------------


class LatencyHeard(NamedTuple):
    """Other gateways have told what they saw of a backend."""

    backend_id: str
    summary: LatencySummary


class OpeningShared(NamedTuple):
    """Another gateway's ShareOpening: `OpeningShared(its id, *effect)`, `open_s` less the message's age.

    At its start a gateway is told the last one of each gateway and backend that no ClosingShared followed,
    with what is left of `open_s` (at least 0).
    """

    gateway_id: str
    backend_id: str
    reason: Reason
    open_s: float
    streak: int


class ClosingShared(NamedTuple):
    """Another gateway's ShareClosing: its probe went well."""

    gateway_id: str
    backend_id: str


Event = (
    FleetConfigured
    | Drained
    | Undrained
    | Ticked
    | AttemptStarted
    | FirstByteSeen
    | TunnelOpened
    | BytesSeen
    | AttemptFinished
    | LatencyHeard
    | OpeningShared
    | ClosingShared
    | HealthEvent
)


# --- effects -----------------------------------------------------------------------------------------


class SetLimits(NamedTuple):
    """Tell the store every backend's limit for the whole fleet; a backend not named is gone.

    `caps`: where this gateway by itself may hold less, because the backend has told it that it is full.
    """

    limits: Mapping[str, int]
    caps: Mapping[str, int] = {}


class CloseIdleConnections(NamedTuple):
    """Close pooled upstream connections that carry nothing."""

    backend_ids: tuple[str, ...]


class ShareOpening(NamedTuple):
    """Tell every other gateway at once: this one, by its own evidence, stops using the backend."""

    backend_id: str
    reason: Reason
    open_s: float
    streak: int


class ShareClosing(NamedTuple):
    """Tell every other gateway at once: this one's probe went well."""

    backend_id: str


class SendSyntheticProbe(NamedTuple):
    """Try a half-open backend with the smallest real work there is, since no request does.

    Take the probe permit as for a request; then tell AttemptStarted and AttemptFinished with this
    `generation`. If nothing can be sent, do nothing: real requests are let through a little later.
    """

    backend_id: str
    generation: int


class ReportCircuit(NamedTuple):
    """For the log and the metrics: a circuit is now `circuit`. The rest says why it opened."""

    backend_id: str
    circuit: Circuit
    trigger: Trigger | None = None
    reason: Reason | None = None


Effect = SetLimits | CloseIdleConnections | ShareOpening | ShareClosing | SendSyntheticProbe | ReportCircuit
