"""A configuration on a trace, beside the baselines and the bound."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.sim.baselines import BASELINES, Greedy
from gateway.sim.bound import bound_of
from gateway.sim.figures import Figures, course_of, figures_of, rounded
from gateway.sim.fleet_figures import degraded_course, fleet_figures_of
from gateway.sim.world import Progress, Setting, run_baseline, run_gateway


@dataclass(frozen=True, slots=True)
class Study:
    """The figures of one configuration: what the reports are made of. `name` is that of its file."""

    name: str
    figures: Figures
    course: Figures
    baselines: dict[str, Figures]
    bound: Figures

    @property
    def span_s(self) -> float:
        """From the first second of the trace to the end of the last answer."""
        return float(self.course["span_s"])

    def as_dict(self) -> Figures:
        return {
            "config": self.name,
            "spillway": self.figures,
            "baselines": self.baselines,
            "bound": self.bound,
            "course": self.course,
        }


RUNS = 1 + len(BASELINES)


def study(name: str, setting: Setting, tell: Progress | None = None) -> Study:
    """Runs all. `tell` hears of each run's arrivals, from 0 to all of them, RUNS times."""
    ledger = run_gateway(setting, tell)
    figures, course = figures_of(ledger, setting.scenario), course_of(ledger)
    figures["fleet"], course["degraded_gateways"] = fleet_figures_of(ledger), degraded_course(ledger)
    del ledger  # of a long trace one at a time
    baselines: dict[str, Figures] = {}
    bound = 0
    for make_policy in BASELINES:
        policy = make_policy()
        other = run_baseline(setting, policy, tell)
        baselines[policy.name] = {"says": policy.says, **figures_of(other, setting.scenario)}
        if policy.name == Greedy.name:
            bound = bound_of(other.rows, other.site)
            is_estimate = any(e.is_load_dependent for e in other.site.endpoints.values())
    count = len(setting.arrivals)
    greedy = baselines[Greedy.name]["off_preferred"]
    return Study(
        name,
        figures,
        course,
        baselines,
        {
            "off_preferred": bound,
            "off_preferred_share": rounded(bound / count),
            "is_estimate": is_estimate,
            "score": score(figures["off_preferred"], greedy, bound),
        },
    )


def score(ours: int, greedy: int, bound: int) -> float | None:
    """(ours - bound) / (greedy - bound): 1 is greedy, 0 the bound. None where greedy reaches the bound."""
    return rounded((ours - bound) / (greedy - bound)) if greedy != bound else None
