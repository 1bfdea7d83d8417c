"""`/api/v1/explain`: the whole plan for one request as JSON, each backend in or out, where and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.admin.explain_query import ExplainQuery
from gateway.core.admission import KeyRules
from gateway.core.constraints import Residency, kept_to, residency_in
from gateway.core.explaining import (
    PLAN_WORDS,
    SHED_WORDS,
    Absent,
    Explanation,
    Standing,
    explain,
    explain_by_chance,
)
from gateway.core.fleet import FleetView
from gateway.core.model import Plan, RequestFacts, ShedReason

Json = dict[str, Any]

MODEL_HEADER, RESIDENCY_HEADER = "x-spillway-model", "x-spillway-residency"
# What a request's headers change in its plan. Others change nothing.
_EFFECTS = {
    MODEL_HEADER: "names the model where the body names none",
    RESIDENCY_HEADER: "keeps it to clusters of these residencies; its key may keep it closer",
    "x-spillway-deadline": "changes no first plan; after a failure leaves out who typically takes longer",
}
# As the data plane has it: for this key nobody serves the model.
_NOT_ITS_MODEL: Json = {
    "verdict": ShedReason.MODEL_NOT_FOUND,
    "words": f"is refused ({ShedReason.MODEL_NOT_FOUND}): its key may not ask for this model",
    "preferred_tier": None,
    "taken": None,
    "spill_reason": None,
    "passed_over": None,
    "after_failure": [],
    "plan": [],
    "left_out": [],
}
_NO_EFFECT = "changes nothing in the plan"


def explain_page(view: FleetView, asked: ExplainQuery, now_s: float, rules: KeyRules | None = None) -> Json:
    """What would happen to such a request now. Without a draw: the likeliest of many, with chances.

    `rules` are those of its key. How much of its limits is used is not looked at.
    """
    model, draw = asked.model, asked.draw
    if model is None:
        model = next((value for name, value in asked.headers if name.lower() == MODEL_HEADER), None)
    facts = RequestFacts(model, draw or 0, residency=_residency(asked, rules, view.residencies))
    found = explain_by_chance(facts, view, now_s) if draw is None else explain(facts, view, now_s)
    taken = found.taken
    plan = found.decision if isinstance(found.decision, Plan) else None
    page = {
        "model": model,
        "key": _key(rules) if rules is not None else None,
        "route_model": plan.route_model if plan is not None else None,
        "headers": [
            {"name": name, "effect": _EFFECTS.get(name.lower(), _NO_EFFECT)} for name, _ in asked.headers
        ],
        "draw": str(found.facts.draw),  # as text: it is more than a double holds
        "verdict": found.refusal or "goes_on",
        "words": _verdict_words(found),
        "preferred_tier": plan.preferred_tier if plan is not None else None,
        "taken": taken.candidate.backend.id if taken is not None else None,
        "spill_reason": _spill_reason(found),
        "passed_over": _passed_over(found, view) or None,
        "after_failure": _after_failure(found),
        "plan": [_standing(standing, draw is None) for standing in found.standings],
        "left_out": [_absent(absent) for absent in found.absents],
    }
    return page if rules is None or rules.allows(model) else page | _NOT_ITS_MODEL


def _residency(asked: ExplainQuery, rules: KeyRules | None, known: frozenset[str]) -> Residency:
    values = [value for name, value in asked.headers if name.lower() == RESIDENCY_HEADER]
    own = rules.residency if rules is not None else None
    return kept_to(own, residency_in(values[-1]) if values else None, known)


def _key(rules: KeyRules) -> Json:
    return {
        "name": rules.name,
        "models": list(rules.models) or None,
        "residency": sorted(rules.residency) if rules.residency is not None else None,
        "rate": f"{rules.rate.requests} in {rules.rate.period_s:g} s" if rules.rate is not None else None,
        "max_in_flight": rules.max_in_flight,
    }


def is_like(one: Json, other: Json) -> bool:
    """Whether two gateways would do the same: the counts beside it may differ."""

    def essence(page: Json) -> object:
        rows = [(row["backend"], row["reason"], row["cluster_down"]) for row in page["plan"]]
        outs = [(row["backend"], row["reason"]) for row in page["left_out"]]
        return page["verdict"], page["passed_over"], sorted(rows), outs

    return essence(one) == essence(other)


def _verdict_words(found: Explanation) -> str:
    if (refusal := found.refusal) is not None:
        return f"is refused ({refusal}): {SHED_WORDS[refusal]}"
    assert found.taken is not None
    chosen = sorted((s for s in found.standings if s.chance), key=lambda s: -s.chance)
    if len(chosen) < 2:
        return f"goes to {found.taken.candidate.backend.id}"
    return f"goes to one of {len(chosen)}: {_shares(chosen)}"


def _shares(chosen: Sequence[Standing]) -> str:
    shown = [f"{s.candidate.backend.id} ({s.chance * 100:.0f} %)" for s in chosen[:3]]
    more = f", and {len(chosen) - 3} more" if len(chosen) > 3 else ""
    return ", ".join(shown) + more


def _spill_reason(found: Explanation) -> str | None:
    if found.taken is None or not isinstance(found.decision, Plan):
        return None
    candidate = found.taken.candidate
    return candidate.reason.value if candidate.tier != found.decision.preferred_tier else None


def _passed_over(found: Explanation, view: FleetView) -> str:
    return view.passed_over(found.facts, found.taken.candidate if found.taken is not None else None)


def _after_failure(found: Explanation) -> list[str]:
    """Where a second attempt would go if the first failed before its first byte, in order."""
    if found.taken is None or not isinstance(found.decision, Plan):
        return []
    again = found.decision.after((found.taken.candidate,))
    return [candidate.backend.id for candidate in again.candidates] if again is not None else []


def _standing(standing: Standing, has_chance: bool) -> Json:
    candidate = standing.candidate
    words = PLAN_WORDS[candidate.reason]
    if standing.is_behind:
        words = "its cluster is down: less than half of it is there, or was so lately; asked after the others"
    return {
        "place": standing.place,
        "backend": candidate.backend.id,
        "cluster": candidate.cluster,
        "tier": candidate.tier,
        "reason": candidate.reason.value,
        "words": words,
        "in_flight": standing.in_flight,
        "limit": standing.limit,
        "has_room": standing.has_room,
        "cluster_down": standing.is_behind,
        "chance": round(standing.chance, 3) if has_chance else None,
        "upstream_model": candidate.upstream_model,
    }


def _absent(absent: Absent) -> Json:
    return {
        "backend": absent.backend_id or None,
        "cluster": absent.cluster,
        "tier": absent.tier,
        "reason": absent.reason.value,
        "words": absent.words,
    }
