"""Who may send what, before anybody plans: client keys and residencies, as at the live gateway's data port.

The twin of what proxy/exchange.py asks first, in the same order, of the same core: the limits of the key, the
models it may ask for, and where a request may be answered. The policies beside the gateway stand behind the
same door: rules are no policy.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.config.fleet import key_rules_of
from gateway.config.schema import Config
from gateway.core.admission import KeyUse
from gateway.core.constraints import Residency, kept_to, residency_in
from gateway.core.model import ShedReason
from gateway.sim.arrivals import Arrival

# Codes of the data port, as ShedReason's are.
UNAUTHORIZED, RATE_LIMITED = "unauthorized", "rate_limited"


class Entry(NamedTuple):
    """A request that was let in: to be answered in `residency`, and counted as `key`'s until `leave`."""

    residency: Residency = None
    key: KeyUse | None = None

    def leave(self) -> None:
        """It has ended; to be called once."""
        if self.key is not None:
            self.key.finished()


ANYBODY = Entry()


class Door:
    """A trace's `tenant` is the name of a key. Who has none in the trace is not asked for one."""

    def __init__(self, config: Config, known: frozenset[str]) -> None:
        """`known`: the residencies that any cluster has."""
        self._known = known
        self._uses = {rules.name: KeyUse(rules) for rules in key_rules_of(config)}
        self._wanted: dict[str, Residency] = {}

    def enter(self, arrival: Arrival, now_s: float, gateways: int = 1) -> Entry | str:
        """Lets a request in, or says why not. Each of several `gateways` has its part of a key's limits."""
        if arrival.tenant is None and arrival.residency is None:
            return ANYBODY
        key = None
        if self._uses and arrival.tenant is not None:
            if (key := self._uses.get(arrival.tenant)) is None:
                return UNAUTHORIZED
            if key.admit(now_s, gateways) is not None:
                return RATE_LIMITED
            if not key.rules.allows(arrival.model):
                key.finished()
                return ShedReason.MODEL_NOT_FOUND
        own = key.rules.residency if key is not None else None
        return Entry(kept_to(own, self._wanted_by(arrival), self._known), key)

    def _wanted_by(self, arrival: Arrival) -> Residency:
        text = arrival.residency
        if text is None:
            return None
        if text not in self._wanted:
            self._wanted[text] = residency_in(text)
        return self._wanted[text]
