"""Synthetic completions: one token through the real path, as a user's request would go.

A hung engine answers its health endpoint with 200 and lists its models; only a completion shows it.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.config.schema_health import SyntheticConfig
from gateway.core.breaker import Circuit
from gateway.core.fleet import AttemptFinished, AttemptStarted
from gateway.core.health import SyntheticProbeReported
from gateway.core.model import SUCCESS, Candidate, Outcome, Plan, PlanReason, Reason
from gateway.core.retries import reason_of_status
from gateway.health.client import Ask, AskFailed, HealthClient
from gateway.health.targets import Surroundings, Target

MAX_BODY_BYTES = 1024 * 1024
MAX_MODEL_CHARS = 1024
_MODELS = "/v1/models"
_PROMPT = "Hi"


class SyntheticProber:
    """Takes a slot of the backend for each completion, so that its limit holds; without one there is none."""

    def __init__(self, client: HealthClient, around: Surroundings) -> None:
        self._client = client
        self._around = around
        # Names that backends listed; asked for again when a backend no longer knows its own.
        self._learned: dict[str, str] = {}

    async def probe(self, target: Target, synthetic: SyntheticConfig) -> SyntheticProbeReported | None:
        """One completion; None when the backend may get no work now, or has no room for it."""
        plan = self._plan(target)
        lease = self._around.store.lease_now(plan) if plan is not None else None
        if lease is None:
            return None
        try:
            outcome = await self.complete(target, synthetic)
        finally:
            self._around.store.release(lease)
        return SyntheticProbeReported(target.backend_id, outcome)

    async def try_half_open(self, target: Target, generation: int) -> None:
        """The trial of a half-open circuit, told to the fleet as an attempt like any other."""
        around, backend_id = self._around, target.backend_id
        plan = self._trial_plan(target, generation)
        lease = await around.store.lease(plan) if plan is not None else None
        if lease is None:
            return
        if not around.view.admits(lease.candidate):
            around.store.release(lease)
            return
        began_s = around.clock()
        around.apply(AttemptStarted(backend_id, generation))
        outcome = Outcome.of(Reason.SHUTDOWN)
        try:
            synthetic = target.health.synthetic if target.health is not None else None
            outcome = await self.complete(target, synthetic or SyntheticConfig())
        finally:
            around.store.release(lease)
            took_s = around.clock() - began_s
            ttft_s, elapsed_s = (took_s, None) if outcome is SUCCESS else (None, took_s)
            around.apply(AttemptFinished(backend_id, outcome, ttft_s, elapsed_s, generation))

    def _trial_plan(self, target: Target, generation: int) -> Plan | None:
        state = self._around.view.backends.get(target.backend_id)
        if state is None:
            return None
        seat = Candidate(
            state.backend,
            target.cluster,
            target.tier,
            PlanReason.PROBE,
            generation=generation,
            is_probe=True,
        )
        return Plan((seat,), target.tier)

    async def complete(self, target: Target, synthetic: SyntheticConfig) -> Outcome:
        """One completion, for whoever holds a slot for it: never raises for what a backend may do."""
        try:
            return Outcome.of(await self._complete(target, synthetic))
        except AskFailed as failed:
            return Outcome.of(failed.reason)

    def _plan(self, target: Target) -> Plan | None:
        """A drained backend gets none of these either: it is to become idle."""
        view = self._around.view
        cluster, state = view.clusters.get(target.cluster), view.backends.get(target.backend_id)
        if cluster is None or state is None or state.health.is_drained:
            return None
        if cluster.drained_until_s is not None or state.drained_until_s is not None:
            return None
        if state.circuit is not Circuit.CLOSED:
            return None  # the one probe of a half-open circuit is sent when the core asks for it
        seat = Candidate(state.backend, target.cluster, target.tier, PlanReason.FIRST_CHOICE)
        return Plan((seat,), target.tier)

    async def _complete(self, target: Target, synthetic: SyntheticConfig) -> Reason:
        """How one completion went. Raises AskFailed."""
        model = target.model or self._learned.get(target.backend_id)
        if model is None:
            model = await self._learn(target, synthetic)
        if isinstance(model, Reason):
            return model
        status, document = await self._ask(target, synthetic, synthetic.path, _body(synthetic.path, model))
        reason = _reason_of(status)
        if reason is Reason.CLIENT_ERROR:
            self._learned.pop(target.backend_id, None)
        if reason is not Reason.COMPLETED:
            return reason
        return reason if _is_completion(document) else Reason.BAD_RESPONSE

    async def _learn(self, target: Target, synthetic: SyntheticConfig) -> str | Reason:
        """The first model that the backend lists, or why that is not known. Raises AskFailed."""
        status, document = await self._ask(target, synthetic, _MODELS, None)
        reason = _reason_of(status)
        if reason is not Reason.COMPLETED:
            return reason
        model = _first_model(document)
        if model is None:
            return Reason.CLIENT_ERROR  # our question had no answer: that says nothing about the engine
        self._learned[target.backend_id] = model
        return model

    async def _ask(
        self, target: Target, synthetic: SyntheticConfig, path: str, json_body: bytes | None
    ) -> tuple[int, Any]:
        body = bytearray()

        def take(part: bytes) -> bool:
            body.extend(part)
            return len(body) <= MAX_BODY_BYTES

        method = "GET" if json_body is None else "POST"
        deadline_s = min(synthetic.timeout_s, synthetic.interval_s)
        ask = Ask(path, deadline_s, target.connect_s, method=method, json_body=json_body)
        status = await self._client.ask(target.endpoint, ask, take)
        try:
            return status, orjson.loads(body)
        except orjson.JSONDecodeError:
            return status, None


def _body(path: str, model: str) -> bytes:
    asked: dict[str, Any] = {"model": model, "max_tokens": 1, "stream": False}
    if path.endswith("/chat/completions"):
        asked["messages"] = [{"role": "user", "content": _PROMPT}]
    else:
        asked["prompt"] = _PROMPT
    return orjson.dumps(asked)


def _reason_of(status: int) -> Reason:
    return Reason.BAD_RESPONSE if 300 <= status < 400 else reason_of_status(status)


def _is_completion(document: Any) -> bool:
    return (
        isinstance(document, dict) and isinstance(document.get("choices"), list) and bool(document["choices"])
    )


def _first_model(document: Any) -> str | None:
    entries = document.get("data") if isinstance(document, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        model = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(model, str) and 0 < len(model) <= MAX_MODEL_CHARS:
            return model
    return None
