"""What the gateway needs from outside the core, as Protocols: a real adapter and a twin for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

from gateway.core.fleet import ShareClosing, ShareOpening
from gateway.core.leasing import Lease as Lease
from gateway.core.model import Candidate, Outcome, Plan, Reason


class Clock(Protocol):
    """Monotonic seconds."""

    def __call__(self) -> float: ...


class StoreHealth(NamedTuple):
    """Whether all gateways arbitrate together now; `gateways` is how many are known, this one included."""

    is_degraded: bool = False
    detail: str = ""
    gateways: int = 1


class ReloadOutcome(StrEnum):
    """What became of one reading of the configuration file."""

    ADOPTED = "adopted"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The configuration in force, and how the last reading of its file went.

    `generation` counts the configurations adopted from the file, the first included. `refused` says what is
    wrong with the newest file, when the one in force is an older one. `behind` names workers that did not
    take what is in force. `adopted_s` and `refused_s` are wall time, None for not yet.
    """

    generation: int = 1
    counts: Mapping[ReloadOutcome, int] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    adopted_s: float | None = None
    refused_s: float | None = None

    @property
    def is_newest(self) -> bool:
        """Whether everybody works by the newest file."""
        return not (self.refused or self.behind)


class DiscoveryStatus(NamedTuple):
    """How well the backends of one cluster are known. `age_s` is how old that is, None for not known yet.

    `failure` is what is wrong now; `notes` tell what was found and not used.
    """

    cluster: str
    age_s: float | None
    errors: int = 0
    failure: str = ""
    notes: tuple[str, ...] = ()


NO_CAPS: Mapping[str, int] = {}


class Want(NamedTuple):
    """So many requests are `waiting` here for a slot of any of `backend_ids`, the first since `since_s`."""

    backend_ids: tuple[str, ...]
    waiting: int
    since_s: float


class RoomWatcher(Protocol):
    """Who waits for slots."""

    def on_room(self, backend_id: str) -> None:
        """This gateway may now lease a slot of it, by `lease_now`, that it could not before.

        Told inside `release` and the like: whoever waits can take the slot before anybody else asks.
        """

    def wants(self) -> Sequence[Want]:
        """Those who wait now, the longest wait first."""


class StateStore(Protocol):
    """Arbitrates slots. Every adapter passes tests/contract unchanged.

    The sum of leases out for a backend never exceeds its limit, whoever asks and however asks cross.
    """

    async def start(self) -> None:
        """Before the first lease. Waits a moment at most, whatever state a shared store is in."""

    async def stop(self) -> None:
        """After the last lease."""

    def health(self) -> StoreHealth:
        """Known without asking anybody."""

    def share_circuit(self, effect: ShareOpening | ShareClosing) -> None:
        """Tells other gateways at once that a circuit has opened here, or has closed again."""

    def assume_drain(self, name: str, for_s: float) -> None:
        """A drain that this gateway was told of at its start: it holds unless the fleet knows better."""

    def share_drain(self, name: str, for_s: float | None) -> None:
        """Tells other gateways of a drain of a cluster or backend (inf: without an end; None: it is over)."""

    def set_limits(self, limits: Mapping[str, int], caps: Mapping[str, int] = NO_CAPS) -> None:
        """Slots per backend id, for all gateways together, and fewer for this one where `caps` says so.

        A backend not named gives no more leases; those out stay good.
        """

    def watch(self, watcher: RoomWatcher) -> None:
        """Who is to be told of slots that come free, and asked who waits for them. To be called once."""

    def wants_changed(self) -> None:
        """Somebody has begun to wait: the fleet should hear of it soon."""

    def lease_now(self, plan: Plan) -> Lease | None:
        """The lease that `lease` would give, if this gateway knows that without asking anybody."""

    async def lease(self, plan: Plan) -> Lease | None:
        """A lease on the FIRST candidate with room; None when no candidate has any.

        A candidate that `is_probe` has room only while its backend's one probe permit is free in the whole
        fleet; the lease holds both.

        Cancelled while waiting, it leaves no slot taken.
        """

    def release(self, lease: Lease) -> None:
        """Gives the slot back. Releasing twice is the same as once. Never waits, never raises."""

    def release_permit(self, lease: Lease) -> None:
        """The probe has its verdict before its end: only the permit is given back, and the slot stays taken.

        For a lease without a permit, or one that is released, nothing happens.
        """

    def leases_held(self, backend_id: str) -> int:
        """Slots of `backend_id` that this gateway holds now."""


HoldOutcome = Literal["served", "spilled", "timed_out", "left"]


class Held(NamedTuple):
    """A request that waited for a slot: of which tier, for how many seconds in all, and how that ended.

    It got one there (served) or in another tier (spilled), none at all (timed_out), or did not wait for the
    end (left): its client went away, its deadline passed, or the gateway ended.
    """

    tier: str
    seconds: float
    outcome: HoldOutcome


class Retry(NamedTuple):
    """An attempt that failed and was followed by another: where it failed, and how."""

    cluster: str
    reason: Reason


HedgeOutcome = Literal["won", "lost", "failed"]


class Hedged(NamedTuple):
    """A second attempt ran beside the first: in which cluster, and what became of it.

    Its good answer went to the client (won), it failed before it had one, or anything else came first (lost).
    """

    cluster: str
    outcome: HedgeOutcome


class AttemptTrace:
    """One attempt of a traced exchange: a span of its own. Times are monotonic seconds, None: not yet."""

    __slots__ = ("began_s", "candidate", "ended_s", "first_byte_s", "outcome", "span_id", "status")

    def __init__(self, span_id: int, candidate: Candidate, began_s: float) -> None:
        self.span_id = span_id
        self.candidate = candidate
        self.began_s = began_s
        self.first_byte_s: float | None = None
        self.ended_s: float | None = None
        self.outcome: Outcome | None = None
        self.status: int | None = None


@dataclass(slots=True)
class ExchangeTrace:
    """The place of one exchange in a distributed trace. `parent_id` is None where the trace begins here.

    `state` is the client's tracestate; `forward` are its header lines without those of the trace.
    """

    trace_id: int
    span_id: int
    parent_id: int | None
    is_sampled: bool
    state: bytes = b""
    forward: bytes = b""
    attempts: list[AttemptTrace] = field(default_factory=list)

    @property
    def hex_id(self) -> str:
        return f"{self.trace_id:032x}"


@dataclass(slots=True)
class RequestRecord:
    """All that is known of one exchange at its end: one access-log line, and the metrics.

    Times are monotonic seconds unless the name says otherwise. `model` is what the client asked for;
    `route_model` is bounded (a configured name or pattern, else "other") and may be a metric label.
    `key` is the name of the client key that was shown; None where none is asked for, or none was good.
    `path` is the endpoint's name, or what may be told of a path that is not served; neither holds a query.
    `refused` is what was wrong with a request that was refused for itself, and bounded too; `param` is the
    field or header that was wrong, of those that the gateway knows.
    `attempts` counts hedges too; `denied_retry` is a failed attempt that the budget let nothing follow.
    `passed_over` says why the tiers above the first attempt's did not serve, or why nobody did.
    `trace` is there only where the configuration has `tracing`.
    """

    request_id: str
    method: str
    path: str
    client: str
    started_s: float
    model: str | None = None
    route_model: str = "other"
    stream: bool = False
    status: int = 0
    error_code: str | None = None
    refused: str | None = None
    param: str | None = None
    outcome: Outcome | None = None
    cluster: str = ""
    tier: str = ""
    backend: str = ""
    preferred_tier: str = ""
    spill_reason: str | None = None
    passed_over: str = ""
    attempts: int = 0
    ttft_s: float | None = None
    duration_s: float = 0.0
    overhead_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    retries: tuple[Retry, ...] = ()
    denied_retry: Retry | None = None
    hedge: Hedged | None = None
    held: Held | None = None
    trace: ExchangeTrace | None = None
    key: str | None = None


class Telemetry(Protocol):
    """Watches; never feeds routing. `record` never raises and never waits."""

    def record(self, record: RequestRecord) -> None: ...
