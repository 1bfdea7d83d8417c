"""What the gateway says of itself, from /api/v1/fleet and /metrics: your own curl is counted too."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.demo.client import BadAnswer, ask
from gateway.top.rates import History, Rates
from gateway.top.samples import FLEET_PATH, METRICS_PATH, NotSpillway, Sample, read_sample

RATE_WINDOW_S = 3.0


class TierNow(NamedTuple):
    name: str
    in_flight: int
    limit: int
    served: int
    served_per_s: float
    is_drained: bool


class Picture(NamedTuple):
    """The fleet at one moment. `spills` are counted by (from, to, reason), `sheds` by error code."""

    tiers: tuple[TierNow, ...]
    spills: dict[tuple[str, str, str], int]
    sheds: dict[str, int]

    @property
    def served(self) -> int:
        return sum(tier.served for tier in self.tiers)

    @property
    def shed(self) -> int:
        return sum(self.sheds.values())


class Watcher:
    """Looks at a gateway, and remembers enough to tell rates."""

    def __init__(self, admin_port: int) -> None:
        self._admin_port = admin_port
        self._loop = asyncio.get_running_loop()
        self._history = History(RATE_WINDOW_S)

    async def look(self) -> Picture:
        """Raises OSError and BadAnswer when the gateway does not answer."""
        fleet = (await ask(self._admin_port, FLEET_PATH)).body
        metrics = (await ask(self._admin_port, METRICS_PATH)).body
        try:
            sample = read_sample(fleet, metrics, self._loop.time())
        except NotSpillway as exc:
            raise BadAnswer(str(exc)) from exc
        self._history.add(sample)
        return _picture(sample, self._history.rates)


def _picture(sample: Sample, rates: Rates) -> Picture:
    counts = sample.counts
    tiers = tuple(
        TierNow(
            tier.name,
            tier.in_flight,
            tier.limit,
            counts.served[tier.name],
            rates.served.get(tier.name, 0.0),
            tier.is_drained,
        )
        for tier in sample.fleet.tiers
    )
    return Picture(tiers, dict(counts.spills), dict(counts.sheds))
