"""The faults of a scenario, put on the timeline."""

from __future__ import annotations

from gateway.sim.endpoints import Endpoint, Site
from gateway.sim.scenario import FaultConfig, Scenario
from gateway.sim.timeline import Timeline


def schedule_faults(scenario: Scenario, site: Site, timeline: Timeline) -> None:
    for fault in scenario.faults:
        hit = [e for e in site.endpoints.values() if fault.target in (e.id, e.place.cluster)]
        begins_s = fault.at_s + fault.notice_s
        ends_s = begins_s + fault.for_s
        for endpoint in hit:
            if fault.kind in ("crash", "preempt"):
                ready_s = ends_s + scenario.cluster(endpoint.place.cluster).cold_start_s
                timeline.at(begins_s, endpoint.go_down)
                timeline.at(ready_s, endpoint.come_up)
            else:
                timeline.at(begins_s, _begin, endpoint, fault)
                timeline.at(ends_s, _end, endpoint, fault)


def _begin(endpoint: Endpoint, fault: FaultConfig) -> None:
    if fault.kind == "hang":
        endpoint.freeze()
    elif fault.kind == "error":
        endpoint.error_share, endpoint.error_status = fault.share, fault.status
    else:
        endpoint.slow_down(fault.factor)


def _end(endpoint: Endpoint, fault: FaultConfig) -> None:
    if fault.kind == "hang":
        endpoint.thaw()
    elif fault.kind == "error":
        endpoint.error_share = 0.0
    else:
        endpoint.slow_down(1.0)
