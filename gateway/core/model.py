"""The words of the core: what a fleet is made of, what a request asks, what a plan says.

Everything here is a value. Times are monotonic seconds and arrive as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from gateway.core.constraints import Residency
from gateway.core.taxonomy import SUCCESS as SUCCESS
from gateway.core.taxonomy import Outcome as Outcome
from gateway.core.taxonomy import Reason as Reason
from gateway.core.taxonomy import Verdict as Verdict


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
    (None: the same name). `expected_limit` is the sum of slots that should be there, also of backends
    that discovery knows of and that are not ready (None: those of `backends`): 2 of 100 are 2 %;
    `expected_backends` is how many backends that are.
    """

    name: str
    tier: str
    backends: tuple[Backend, ...]
    models: dict[str, str | None] = field(default_factory=dict)
    weight: float = 1.0
    expected_limit: int | None = None
    residency: frozenset[str] = frozenset()
    expected_backends: int | None = None


class RequestFacts(NamedTuple):
    """What routing may know of a request. `draw` is uniform in [0, 2**64): randomness is an argument."""

    model: str | None
    draw: int
    stream: bool = False
    body_bytes: int = 0
    residency: Residency = None


class PlanReason(StrEnum):
    """Why a candidate stands where it does; for lower tiers, why the higher ones did not serve."""

    FIRST_CHOICE = "first_choice"
    FULL = "full"
    DRAINED = "drained"
    EJECTED = "ejected"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    HEDGED = "hedged"
    PROBE = "probe"
    PANIC = "panic"


# No NamedTuple: a request reads its candidate some twenty times, and a slot is read four times as fast.
@dataclass(frozen=True, slots=True)
class Candidate:
    """A place in a plan. `upstream_model` is set where the cluster knows the model by another name.

    `generation` is that of the backend's circuit: the attempt's events carry it. A candidate that
    `is_probe` needs, beside its slot, the one probe permit that the backend has in the whole fleet.
    """

    backend: Backend
    cluster: str
    tier: str
    reason: PlanReason
    upstream_model: str | None = None
    generation: int = 0
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered candidates, best first, never empty; `preferred_tier` is where the request would best run.

    `route_model` is the configured name or pattern that the model matched, else "other": bounded.
    """

    candidates: tuple[Candidate, ...]
    preferred_tier: str
    route_model: str = "other"

    def after(self, tried: Sequence[Candidate]) -> Plan | None:
        """A new plan for a request that has failed at `tried`: never there again, their tiers last.

        A request that has failed once is nobody's guinea pig: probes come after all others.
        """
        ids = {candidate.backend.id for candidate in tried}
        tiers = {candidate.tier for candidate in tried}
        rest = [
            replace(candidate, reason=PlanReason.FAILED)
            for candidate in self.candidates
            if candidate.backend.id not in ids
        ]
        rest.sort(key=lambda candidate: (candidate.is_probe, candidate.tier in tiers))
        return replace(self, candidates=tuple(rest)) if rest else None


class ShedReason(StrEnum):
    """Why a request is refused; the values are the error codes of the outside interface."""

    NO_CAPACITY = "no_capacity"
    QUEUE_TIMEOUT = "queue_timeout"
    NO_BACKEND = "no_backend"
    MODEL_NOT_FOUND = "model_not_found"
    RESIDENCY_UNAVAILABLE = "residency_unavailable"


class Shed(NamedTuple):
    """A refusal by the core."""

    reason: ShedReason
