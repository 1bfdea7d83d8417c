"""One simulated try at one backend: its lease, its times, and what the fleet is told of it.

The twin of proxy/attempt.py without the bytes: what it tells the fleet, and when, is the same.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Protocol

from gateway.core.events import SWEEP_S
from gateway.core.fleet import AttemptFinished, AttemptStarted
from gateway.core.journey import waited_in_vain_s
from gateway.core.model import Outcome, Reason
from gateway.ports import Lease
from gateway.sim.arrivals import Arrival

if TYPE_CHECKING:
    from gateway.sim.gateway import SimGateway

_COMPLETED = Reason.COMPLETED


class AttemptOwner(Protocol):
    """Who an attempt works for."""

    number: int
    arrival: Arrival

    def on_first_byte(self, attempt: Attempt, status: int) -> None:
        """The answer has begun: to be relayed or held before this returns."""

    def on_attempt_ended(self, attempt: Attempt, reason: Reason) -> None: ...


class Attempt:
    """A Job of one endpoint. It takes its slot when it is made, and gives it back in `settle`."""

    __slots__ = (
        "_gateway",
        "_lease",
        "_owner",
        "answered_s",
        "arrival",
        "began_s",
        "candidate",
        "endpoint",
        "goes_on",
        "goes_on_s",
        "is_held",
        "is_relayed",
        "number",
        "status",
        "untold_ttft_s",
    )

    def __init__(self, gateway: SimGateway, owner: AttemptOwner, lease: Lease, body_bytes: int) -> None:
        self._gateway = gateway
        self._owner = owner
        self._lease: Lease | None = lease
        self.number = owner.number
        self.arrival = owner.arrival
        self.candidate = candidate = lease.candidate
        self.began_s = gateway.now_s
        self.answered_s: float | None = None
        self.status: int | None = None
        self.untold_ttft_s: float | None = None
        self.goes_on_s = self.began_s  # when its answer has more than its first token
        self.goes_on = False  # and that was seen
        self.is_held = self.is_relayed = False
        self.endpoint = gateway.site.endpoints[candidate.backend.id]
        gateway.site.take(self.endpoint, self.began_s)
        gateway.apply(AttemptStarted(candidate.backend.id, candidate.generation, body_bytes))

    def begin(self, first_byte_timeout_s: float) -> None:
        gateway = self._gateway
        self.endpoint.submit(self, gateway.faults_draw)
        gateway.timeline.at(swept_s(self.began_s + first_byte_timeout_s), self._give_up_waiting)

    @property
    def is_over(self) -> bool:
        return self._lease is None or self.is_held

    def relay(self) -> None:
        """From here on nothing is repeated."""
        self.is_held = False
        self.is_relayed = True
        if self.status is not None and self.status < 400:
            self.untold_ttft_s = ttft_s = self._gateway.now_s - self.began_s
            self.goes_on_s = self._gateway.now_s + self._token_gap_s(ttft_s)
            self._gateway.relayed(self)

    def _token_gap_s(self, ttft_s: float) -> float:
        """Until the second token: exact where the load does not matter, else as if nothing else ran."""
        rest_s = self.endpoint.alone_s(self.number, self.arrival) - ttft_s
        return max(rest_s, 0.0) / max(self.arrival.output_tokens - 1, 1)

    def hold(self) -> None:
        """An error answer, whole in a simulation, waits until the owner knows whether anybody does better."""
        self.is_held = True

    def settle(self, outcome: Outcome) -> None:
        """Settling twice is the same as once."""
        lease = self._lease
        if lease is None:
            return
        self._lease = None
        gateway, candidate, now_s = self._gateway, self.candidate, self._gateway.now_s
        self.endpoint.cancel(self)
        gateway.site.give_back(self.endpoint, now_s)
        elapsed_s = None
        if self.answered_s is None or self.status is None or self.status >= 400:
            elapsed_s = waited_in_vain_s(outcome, self.status, self.began_s, self.answered_s, now_s)
        if self.is_relayed and self.status is not None and self.status < 400:
            gateway.relay_ended(self)
        finished = AttemptFinished(
            candidate.backend.id, outcome, self.untold_ttft_s, elapsed_s, candidate.generation
        )
        gateway.store.release(lease)
        gateway.apply(finished)

    # --- Job: what the endpoint tells ----------------------------------------------------------------

    def on_first_byte(self, status: int) -> None:
        if self.answered_s is None:
            self.answered_s, self.status = self._gateway.now_s, status
            self._owner.on_first_byte(self, status)

    def on_end(self) -> None:
        if self.is_relayed:
            self._owner.on_attempt_ended(self, _COMPLETED)

    def on_broken(self, is_refused: bool) -> None:
        if self.is_over:
            return
        reason = (
            Reason.CONNECT_FAILED if is_refused
            else Reason.TRUNCATED if self.is_relayed
            else Reason.RESET
        )  # fmt: skip
        self._owner.on_attempt_ended(self, reason)

    def on_frozen(self) -> None:
        if self.is_relayed:
            self.watch_stall()

    def watch_stall(self) -> None:
        """No byte comes from now on; unless that changes, it has stalled."""
        gateway = self._gateway
        due_s = swept_s(gateway.now_s + gateway.config.timeouts.stall_s) + SWEEP_S
        gateway.timeline.at(due_s, self._give_up_stalled, self.endpoint.freezes)

    def _give_up_waiting(self) -> None:
        if not self.is_over and self.answered_s is None:
            self._owner.on_attempt_ended(self, Reason.FIRST_BYTE_TIMEOUT)

    def _give_up_stalled(self, freezes: int) -> None:
        if not self.is_over and self.endpoint.is_frozen and self.endpoint.freezes == freezes:
            self._owner.on_attempt_ended(self, Reason.STALL_TIMEOUT)

    def __repr__(self) -> str:
        stage = "settled" if self._lease is None else "relaying" if self.is_relayed else "waiting"
        return f"<Attempt at {self.candidate.backend.id} {stage}>"


def swept_s(deadline_s: float) -> float:
    """The sweep that finds a deadline passed."""
    return ceil(deadline_s / SWEEP_S - 1e-6) * SWEEP_S
