"""What a configuration makes of a trace: whether its circuits and probes change their mind too often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.config.lints import Finding, Level
from gateway.config.schema import Config
from gateway.config.units import format_duration
from gateway.core.model import PlanReason, Reason
from gateway.sim.arrivals import Arrival
from gateway.sim.baselines import Greedy
from gateway.sim.figures import flaps_of
from gateway.sim.ledger import Fate, Ledger
from gateway.sim.quantiles import quantiles
from gateway.sim.scenario import Scenario
from gateway.sim.text_report import seconds
from gateway.sim.world import Setting, run_baseline, run_gateway

LINT = "flapping"
# A backend that comes back from a fault is given its slots little by little, which counts as a flap or a few
# (ADR 0031): that many are nobody's mistake, in a trace of any length.
FLAPS_BORNE, FLAPS_BORNE_PER_HOUR = 3, 6


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why it flaps, with the setting to change."""

    setting: str
    says: str
    fix: str


def lint_trace(
    config: Config, scenario: Scenario, arrivals: Sequence[Arrival], name: str
) -> Sequence[Finding]:
    """Runs the simulator on the trace. A finding when the preferred tier is left too often without need."""
    setting = Setting(config, scenario, arrivals)
    ledger = run_gateway(setting)
    flaps, hours = flaps_of(ledger.rows), ledger.ended_s / 3600
    borne = max(FLAPS_BORNE, FLAPS_BORNE_PER_HOUR * hours)
    if flaps <= borne:
        return ()
    cause = _cause_of(ledger, setting)
    message = (
        f"with {name} the preferred tier is left {flaps} times in {hours:.2g} h although it is well and "
        f"has a free slot, and more than {borne:.0f} are too many: {cause.says}"
    )
    return (Finding(LINT, Level.WARNING, cause.setting, message, cause.fix),)


def _cause_of(ledger: Ledger, setting: Setting) -> _Cause:
    opened = Counter(change.reason for change in ledger.circuits if change.circuit == "open")
    count = opened.total()
    if opened[Reason.FIRST_BYTE_TIMEOUT] * 2 > count:
        return _late_first_bytes(opened[Reason.FIRST_BYTE_TIMEOUT], count, setting)
    if count:
        reason, times = opened.most_common(1)[0]
        return _Cause(
            "breaker.consecutive",
            f"circuits open {count} times, {times} of them for {reason}, and come back by and by",
            "raise consecutive, ratio or min_samples, so that a few failures open none",
        )
    late = sum(row.left_room and row.why == PlanReason.UNHEALTHY for row in ledger.rows)
    return _Cause(
        "clusters",
        f"{late} requests went elsewhere while health probes had not passed yet",
        "a shorter health.interval, or a smaller health.rise",
    )


def _late_first_bytes(late: int, count: int, setting: Setting) -> _Cause:
    """Held against the times to the first token where nobody gives up."""
    patient = run_baseline(setting, Greedy())
    times = quantiles(row.ttft_s for row in patient.rows if row.fate is Fate.SERVED)
    allowed = format_duration(setting.config.timeouts.first_byte_s)
    takes_s = times["p99"] or 0.0
    longer = f"first_byte: {format_duration(round(2 * takes_s, 1))} leaves twice that"
    is_crowded = any(endpoint.is_load_dependent for endpoint in patient.site.endpoints.values())
    return _Cause(
        "timeouts.first_byte",
        f"circuits open {count} times, {late} of them because no first byte came in time ({allowed} and "
        f"first_byte_per_kib); where nobody gives up, its p99 is {seconds(takes_s)}",
        f"smaller limits, so that requests do not wait inside their engines; or {longer}"
        if is_crowded
        else longer,
    )
