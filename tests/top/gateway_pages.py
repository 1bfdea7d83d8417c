"""A gateway's two pages as the gateway itself makes them, from a real fleet and real counts."""

from __future__ import annotations

import json
from typing import Any

from gateway.admin.fleet_page import fleet_page
from gateway.core.fleet import Event, Fleet, FleetConfigured
from gateway.core.model import SUCCESS, Backend, Cluster
from gateway.ports import RequestRecord, StoreHealth
from gateway.telemetry.exposition import Exposition, GaugeSources
from gateway.telemetry.metrics import Metrics
from gateway.top.rates import History
from gateway.top.rows import GatewayNow
from gateway.top.samples import Sample, read_sample

ONE, TWO, SPOT = "here@10.0.0.1:8000", "here@10.0.0.2:8000", "cheap@10.0.1.1:8000"


class Pages:
    """`now_s` is the clock of the fleet and of whoever looks."""

    def __init__(self, url: str = "http://gw-1:9090", gateways: int = 1) -> None:
        self.url = url
        self.now_s = 100.0
        self.fleet = Fleet()
        self.metrics = Metrics(lambda: self.now_s)
        here = Cluster("here", "primary", (Backend(ONE, "", 4), Backend(TWO, "", 4)))
        cheap = Cluster("cheap", "spot", (Backend(SPOT, "", 8),))
        self.fleet.apply(FleetConfigured((here, cheap), ("primary", "spot")), self.now_s)
        sources = GaugeSources(
            self.fleet.view, lambda: self.now_s, lambda _: 0, lambda: StoreHealth(gateways=gateways)
        )
        self._exposition = Exposition(self.metrics, sources)
        self._history = History(10.0)

    def apply(self, *events: Event) -> None:
        for event in events:
            self.fleet.apply(event, self.now_s)

    def finished(self, times: int = 1, **changed: Any) -> None:
        known: dict[str, Any] = {
            "cluster": "here", "tier": "primary", "preferred_tier": "primary", "status": 200,
            "outcome": SUCCESS, "ttft_s": 0.3,
        }  # fmt: skip
        for _ in range(times):
            self.metrics.record(RequestRecord("id", "POST", "/v1", "::1", 0.0, **(known | changed)))

    def bodies(self) -> tuple[bytes, bytes]:
        fleet = json.dumps(fleet_page(self.fleet.view, self.now_s)).encode()
        return fleet, b"".join(self._exposition.render()[0])

    def look(self) -> Sample:
        sample = read_sample(*self.bodies(), self.now_s)
        self._history.add(sample)
        return sample

    @property
    def now(self) -> GatewayNow:
        return GatewayNow(self.url, self._history.latest, self._history.rates)
