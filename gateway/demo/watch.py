"""What the gateway says of itself, from /api/v1/fleet and /metrics: your own curl is counted too."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from gateway.demo.client import ask

RATE_WINDOW_S = 3.0
_SAMPLE = re.compile(
    r"^spillway_(?P<name>requests|spills|sheds)_total\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


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
        self._history: deque[tuple[float, Counter[str]]] = deque()

    async def look(self) -> Picture:
        """Raises OSError and BadAnswer when the gateway does not answer."""
        fleet = orjson.loads((await ask(self._admin_port, "/api/v1/fleet")).body)
        metrics = (await ask(self._admin_port, "/metrics")).body.decode()
        served: Counter[str] = Counter()
        spills: Counter[tuple[str, str, str]] = Counter()
        sheds: Counter[str] = Counter()
        for name, labels, value in _samples(metrics):
            if name == "requests" and labels["outcome"] == "success":
                served[labels["tier"]] += value
            elif name == "spills":
                spills[labels["from"], labels["to"], labels["reason"]] += value
            elif name == "sheds":
                sheds[labels["reason"]] += value
        rates = self._rates(served)
        tiers = tuple(_tier(tier, served, rates) for tier in fleet["tiers"])
        return Picture(tiers, dict(spills), dict(sheds))

    def _rates(self, served: Counter[str]) -> dict[str, float]:
        now_s = self._loop.time()
        self._history.append((now_s, served))
        while now_s - self._history[0][0] > RATE_WINDOW_S:
            self._history.popleft()
        then_s, before = self._history[0]
        return {tier: (count - before[tier]) / max(now_s - then_s, 1.0) for tier, count in served.items()}


def _samples(metrics: str) -> Iterator[tuple[str, dict[str, str], int]]:
    for found in _SAMPLE.finditer(metrics):
        yield found["name"], dict(_LABEL.findall(found["labels"])), int(float(found["value"]))


def _tier(tier: dict[str, Any], served: Counter[str], rates: dict[str, float]) -> TierNow:
    name = tier["name"]
    is_drained = all(cluster["drained"] for cluster in tier["clusters"])
    return TierNow(name, tier["in_flight"], tier["limit"], served[name], rates.get(name, 0.0), is_drained)
