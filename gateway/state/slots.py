"""One backend's slots as one gateway sees them. Pure."""

from __future__ import annotations

from math import ceil

# Enough idle slots for the arrivals of two busy ticks.
RESERVE_S = 0.1


class Slots:
    """One backend's slots as this gateway sees them: `limit` for the whole fleet, at most `cap` here.

    `allowance` is what may be in use here at most: the grant, or the share of a gateway that is cut off.
    `held` was granted when the fleet was last found not to know us.
    """

    __slots__ = (
        "allowance",
        "arrivals",
        "cap",
        "contended_until_s",
        "free",
        "gateways",
        "granted",
        "held",
        "idle_elsewhere",
        "in_use",
        "is_permit",
        "is_told",
        "limit",
        "rate_per_s",
        "share",
    )

    def __init__(self, *, is_permit: bool = False) -> None:
        self.is_permit = is_permit
        self.limit = self.cap = 1 if is_permit else 0
        self.in_use = 0
        self.granted = 0
        self.held = 0
        self.allowance = 0
        self.arrivals = 0
        self.rate_per_s = 0.0
        self.free = 0
        self.gateways = 1
        self.idle_elsewhere = 0
        self.share: int | None = None
        self.contended_until_s = float("-inf")
        self.is_told = False  # the fleet knows our numbers as they are

    @property
    def idle(self) -> int:
        return max(self.granted - self.in_use, 0)

    @property
    def plenty(self) -> int:
        """How many free slots, ours included, one gateway may hold idle: the fleet keeps half of them."""
        free = max(self.free + self.idle, 0)
        return free if self.gateways == 1 else free // (2 * self.gateways)

    def reserve(self, now_s: float) -> int:
        """How many slots this gateway would like to hold idle."""
        if self.limit == 0 or self.is_permit or now_s < self.contended_until_s:
            return 0
        wanted = ceil(self.rate_per_s * RESERVE_S) + 1
        return wanted if self.share is None else min(wanted, self.plenty)

    def allowed_when_cut_off(self, gateways: int) -> int:
        """Before anybody has been heard an equal part; the fleet's word is better (see lua/exchange.lua)."""
        share = self.limit // gateways if self.share is None else self.share
        return min(max(share, 1), self.cap)

    def __repr__(self) -> str:
        return f"<Slots {self.in_use}/{self.granted} of {self.limit}, {self.free} free>"
