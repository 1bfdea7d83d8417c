"""One simulated backend: an engine behind a distance, and what may go wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from gateway.core.constraints import match_model
from gateway.core.model import Backend, Cluster
from gateway.sim.arrivals import Arrival
from gateway.sim.engines import Engine, Job, Tell
from gateway.sim.occupancy import Occupancy
from gateway.sim.timeline import Timeline

# An error is said at once: the time in which a server looks at a request and refuses it.
ERROR_S = 0.005

MakeEngine = Callable[[Tell, Tell], Engine]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a backend is: its cluster and tier, and the seconds there and back."""

    cluster: str
    tier: str
    rtt_s: float = 0.0


class Endpoint:
    """Takes jobs and answers them. `in_flight` is what runs here by whoever's count matters: the slots'.

    The work of who went away is dropped at once, as engines do when their client leaves.
    """

    def __init__(self, backend: Backend, place: Place, timeline: Timeline, make_engine: MakeEngine) -> None:
        self.id = backend.id
        self.limit = backend.limit
        self.place = place
        self.in_flight = self.most_in_flight = 0
        self.is_up = True
        self.is_frozen = False
        self.freezes = 0
        self.down_s = 0.0  # how long it was away, as of the last time it came back
        self._down_since_s = 0.0
        self.error_share = 0.0
        self.error_status = 500
        self._timeline = timeline
        self._there_s = place.rtt_s / 2
        self._make_engine = make_engine
        self._engine = make_engine(self._on_first, self._on_last)
        self._jobs: dict[Job, None] = {}

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.limit

    @property
    def is_well(self) -> bool:
        return self.is_up and not self.is_frozen

    @property
    def is_load_dependent(self) -> bool:
        return self._engine.is_load_dependent

    def alone_s(self, number: int, arrival: Arrival) -> float:
        """How long it would take with nothing else running, there and back."""
        return self._engine.alone_s(number, arrival) + self.place.rtt_s

    # --- work ----------------------------------------------------------------------------------------

    def submit(self, job: Job, draw: Random) -> None:
        now_s = self._timeline.now_s
        if self._there_s:
            self._timeline.at(now_s + self._there_s, self._arrived, job, draw)
        else:
            self._arrived(job, draw)

    def _arrived(self, job: Job, draw: Random) -> None:
        if job.is_over:
            return
        if not self.is_up:
            self._timeline.at(self._timeline.now_s + self._there_s, self._refuse, job)
        elif not self._engine.can_hold(job.arrival):
            # As engines do with what their KV cache could never hold.
            self._timeline.at(self._timeline.now_s + self._there_s, self._answer_error, job, 400)
        elif self.error_share and draw.random() < self.error_share:
            said_s = self._timeline.now_s + ERROR_S + self._there_s
            self._timeline.at(said_s, self._answer_error, job, self.error_status)
        else:
            self._jobs[job] = None
            self._engine.begin(job)

    def cancel(self, job: Job) -> None:
        if self._jobs.pop(job, 0) is None:
            self._engine.cancel(job)

    def _refuse(self, job: Job) -> None:
        if not job.is_over:
            job.on_broken(is_refused=True)

    def _answer_error(self, job: Job, status: int) -> None:
        if not job.is_over:
            job.on_first_byte(status)
        if not job.is_over:
            job.on_end()

    def _on_first(self, job: Job) -> None:
        if self._there_s:
            self._timeline.at(self._timeline.now_s + self._there_s, self._tell_first, job)
        else:
            self._tell_first(job)

    def _tell_first(self, job: Job) -> None:
        if not job.is_over:
            job.on_first_byte(200)

    def _on_last(self, job: Job) -> None:
        self._jobs.pop(job, None)
        if self._there_s:
            self._timeline.at(self._timeline.now_s + self._there_s, self._tell_end, job)
        else:
            self._tell_end(job)

    def _tell_end(self, job: Job) -> None:
        if not job.is_over:
            job.on_end()

    # --- faults --------------------------------------------------------------------------------------

    def go_down(self) -> None:
        """The process or its machine is gone, and with it all that ran."""
        self.is_up = self.is_frozen = False
        self._down_since_s = self._timeline.now_s
        jobs, self._jobs = tuple(self._jobs), {}
        self._engine = self._make_engine(self._on_first, self._on_last)
        for job in jobs:
            if not job.is_over:
                job.on_broken(is_refused=False)

    def come_up(self) -> None:
        if not self.is_up:
            self.down_s += self._timeline.now_s - self._down_since_s
        self.is_up = True

    def up_s(self, span_s: float) -> float:
        """How long it was there in the first `span_s`."""
        away_s = 0.0 if self.is_up else max(span_s - self._down_since_s, 0.0)
        return max(span_s - self.down_s - away_s, 0.0)

    def freeze(self) -> None:
        """Hung: it takes requests, answers its health page, and gives no token."""
        if self.is_frozen or not self.is_up:
            return
        self.is_frozen = True
        self.freezes += 1
        self._engine.freeze()
        for job in tuple(self._jobs):
            job.on_frozen()

    def thaw(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            self._engine.thaw()

    def slow_down(self, factor: float) -> None:
        self._engine.slow_down(factor)

    def __repr__(self) -> str:
        return f"<Endpoint {self.id} {self.in_flight}/{self.limit}>"


class Site:
    """All endpoints of a run, by id and by what they serve; and who counts their slots in use."""

    def __init__(
        self,
        clusters: tuple[Cluster, ...],
        tiers: tuple[str, ...],
        endpoints: Mapping[str, Endpoint],
        bucket_s: float = 1.0,
    ) -> None:
        self.endpoints = endpoints
        self.occupancy = Occupancy(tiers, bucket_s)
        self._clusters = clusters
        self._tiers = tiers
        self._serving: dict[str | None, tuple[tuple[Endpoint, ...], ...]] = {}

    def serving(self, model: str | None) -> tuple[tuple[Endpoint, ...], ...]:
        """The endpoints for a model, tier by tier; tiers without any are left out."""
        found = self._serving.get(model)
        if found is None:
            able = [c for c in self._clusters if match_model(c.models, model) is not None]
            by_tier = [
                tuple(self.endpoints[b.id] for c in able if c.tier == tier for b in c.backends)
                for tier in self._tiers
            ]
            found = self._serving[model] = tuple(tier for tier in by_tier if tier)
        return found

    def take(self, endpoint: Endpoint, now_s: float) -> None:
        endpoint.in_flight += 1
        endpoint.most_in_flight = max(endpoint.in_flight, endpoint.most_in_flight)
        self.occupancy.change(endpoint.place.tier, 1, now_s)

    def give_back(self, endpoint: Endpoint, now_s: float) -> None:
        assert endpoint.in_flight > 0, f"{endpoint}: given back more often than taken"
        endpoint.in_flight -= 1
        self.occupancy.change(endpoint.place.tier, -1, now_s)
