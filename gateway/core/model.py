"""The words of the core: what a fleet is made of, what a request asks, what a plan says.

Everything here is a value. Times are monotonic seconds and arrive as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """What breaker and limits learn from one attempt: a caller's error teaches them nothing."""

    SUCCESS = "success"
    IGNORED = "ignored"
    DROPPED = "dropped"


class Reason(StrEnum):
    """Why an attempt ended as it did."""

    COMPLETED = "completed"
    CLIENT_ERROR = "client_error"
    CLIENT_LEFT = "client_left"
    REFUSED = "refused"  # by the gateway itself: bad input, no capacity
    BACKEND_FULL = "backend_full"  # its own 429 or 503: full, not broken
    SHUTDOWN = "shutdown"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    RESET = "reset"
    SERVER_ERROR = "server_error"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    STALL_TIMEOUT = "stall_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    TRUNCATED = "truncated"
    BAD_RESPONSE = "bad_response"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One verdict with its reason. There is one object for each reason: see `of`."""

    verdict: Verdict
    reason: Reason

    @classmethod
    def of(cls, reason: Reason) -> Outcome:
        """What an attempt that ended for `reason` teaches."""
        return SUCCESS if reason is Reason.COMPLETED else _OUTCOMES[reason]


# The caller's own doing, a full backend and our own refusals say nothing about a backend's health.
_IGNORED = frozenset(
    (Reason.CLIENT_ERROR, Reason.CLIENT_LEFT, Reason.REFUSED, Reason.BACKEND_FULL, Reason.SHUTDOWN)
)
SUCCESS = Outcome(Verdict.SUCCESS, Reason.COMPLETED)
_OUTCOMES = {
    reason: Outcome(Verdict.IGNORED if reason in _IGNORED else Verdict.DROPPED, reason) for reason in Reason
}


@dataclass(frozen=True, slots=True)
class HealthRules:
    """When probes are believed: `rise` passed or `fall` failed ones in a row; and how old numbers may be.

    `has_probe` and `has_synthetic` say which kinds of probes there are at all.
    """

    rise: int = 2
    fall: int = 3
    stale_after_s: float = 10.0
    has_probe: bool = True
    has_synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """One model endpoint. `id` is `cluster@host:port[/prefix]` and stays the same across reloads.

    `health` None: nobody asks after its health, and it always counts as healthy.
    """

    id: str
    url: str
    limit: int
    weight: float = 1.0
    health: HealthRules | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"{self.id}: limit must be at least 1, not {self.limit}")
        if not self.weight > 0:
            raise ValueError(f"{self.id}: weight must be above 0, not {self.weight}")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A site holding backends, with one tier. `models` empty means any model.

    `models` maps a client's model name, or a pattern with `*`, to the name the backends know it by
    (None: the same name).
    """

    name: str
    tier: str
    backends: tuple[Backend, ...]
    models: dict[str, str | None] = field(default_factory=dict)
    weight: float = 1.0


class RequestFacts(NamedTuple):
    """What routing may know of a request. `draw` is uniform in [0, 2**64): randomness is an argument."""

    model: str | None
    draw: int
    stream: bool = False
    body_bytes: int = 0


class PlanReason(StrEnum):
    """Why a candidate stands where it does; for lower tiers, why the higher ones did not serve."""

    FIRST_CHOICE = "first_choice"
    FULL = "full"
    DRAINED = "drained"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"


class Candidate(NamedTuple):
    """A place in a plan. `upstream_model` is set where the cluster knows the model by another name."""

    backend: Backend
    cluster: str
    tier: str
    reason: PlanReason
    upstream_model: str | None = None


class Plan(NamedTuple):
    """Ordered candidates, best first, never empty; `preferred_tier` is where the request would best run.

    `route_model` is the configured name or pattern that the model matched, else "other": bounded.
    """

    candidates: tuple[Candidate, ...]
    preferred_tier: str
    route_model: str = "other"

    def without(self, failed: Candidate) -> Plan | None:
        """The rest of the plan after an attempt at `failed`; None when nothing is left."""
        rest = tuple(
            candidate._replace(reason=PlanReason.FAILED)
            for candidate in self.candidates
            if candidate.backend.id != failed.backend.id
        )
        return self._replace(candidates=rest) if rest else None


class ShedReason(StrEnum):
    """Why a request is refused; the values are the error codes of the outside interface."""

    NO_CAPACITY = "no_capacity"
    NO_BACKEND = "no_backend"
    MODEL_NOT_FOUND = "model_not_found"


class Shed(NamedTuple):
    """A refusal by the core."""

    reason: ShedReason
