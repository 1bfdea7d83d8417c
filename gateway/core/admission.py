"""What the owner of a client key may send, and what it sends now: rate and requests in flight, per gateway.

Several gateways share nothing here: each admits its part, `rate / gateways` and `max_in_flight / gateways`,
and at least one request at a time. So a fleet never admits much more than the rules say, and less where a
client's connections do not spread over the gateways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from gateway.core.constraints import Residency, match_model

# When a place comes free nobody can say: what is in flight may be a short completion or a long stream.
RETRY_WHEN_IN_FLIGHT_S = 1.0
# What refills by fractions of a second never comes to a whole number exactly.
_NEARLY_ONE = 1.0 - 1e-9


class Rate(NamedTuple):
    """`requests` in each `period_s`; as many may come at once."""

    requests: int
    period_s: float


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What whoever holds a key of this `name` may do. None, and no `models`: without a limit.

    `models` has the names and patterns that may be asked for, `residency` where it may be answered.
    """

    name: str
    models: Mapping[str, None] = field(default_factory=dict)
    rate: Rate | None = None
    max_in_flight: int | None = None
    residency: Residency = None

    def allows(self, model: str | None) -> bool:
        """May a request be for `model`? Whoever is kept to some models has to name one of them."""
        return match_model(self.models, model) is not None


class Excess(StrEnum):
    """Which limit of a key is reached."""

    RATE = "rate"
    IN_FLIGHT = "in_flight"


class TooMuch(NamedTuple):
    """A refusal, and after how long it is worth to ask again."""

    excess: Excess
    retry_after_s: float


class KeyUse:
    """What the keys of one name use in this gateway. `rules` may change under it; `in_flight` stays true.

    The rate is a token bucket: it holds at most `rate.requests`, and refills evenly.
    """

    __slots__ = ("_left", "_refilled_at_s", "in_flight", "rules")

    def __init__(self, rules: KeyRules) -> None:
        self.rules = rules
        self.in_flight = 0
        self._left = float("inf")  # the first refill makes it the most there may be
        self._refilled_at_s = float("-inf")

    @property
    def name(self) -> str:
        return self.rules.name

    def excess(self, now_s: float, gateways: int = 1) -> TooMuch | None:
        """What `admit` would refuse a request for now, of `gateways` that share the rules."""
        rules = self.rules
        if rules.max_in_flight is not None and self.in_flight >= max(rules.max_in_flight // gateways, 1):
            return TooMuch(Excess.IN_FLIGHT, RETRY_WHEN_IN_FLIGHT_S)
        if rules.rate is None:
            return None
        per_s = rules.rate.requests / rules.rate.period_s / gateways
        most = max(rules.rate.requests / gateways, 1.0)
        elapsed_s = max(now_s - self._refilled_at_s, 0.0)
        self._left = min(self._left + elapsed_s * per_s, most)
        self._refilled_at_s = max(now_s, self._refilled_at_s)
        return None if self._left >= _NEARLY_ONE else TooMuch(Excess.RATE, (1.0 - self._left) / per_s)

    def admit(self, now_s: float, gateways: int = 1) -> TooMuch | None:
        """Takes one request into account, or says why not. What is admitted is to be `finished` once."""
        too_much = self.excess(now_s, gateways)
        if too_much is None:
            self.in_flight += 1
            if self.rules.rate is not None:
                self._left -= 1.0
        return too_much

    def finished(self) -> None:
        """One that was admitted has ended."""
        assert self.in_flight > 0, f"{self.name}: more requests end than began"
        self.in_flight -= 1

    def __repr__(self) -> str:
        return f"<KeyUse {self.name} {self.in_flight} in flight>"
