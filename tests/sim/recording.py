"""Writes down every decision of a gateway in order, and makes them again from what was written alone.

What is written: each call of the core and of the memory store, with its arguments (events and their times,
facts with their draws) and with what it decided. The replay has a Fleet, a Holding, a budget and a store of
its own and no clock, no draws, no sockets: if anything else had a say in a decision, it would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from gateway.app import Gateway
from gateway.config.fleet import set_budget
from gateway.config.schema import Config
from gateway.core.fleet import Fleet
from gateway.core.holding import Holding, Waiter
from gateway.core.retries import ExtraAttempts
from gateway.core.routing import plan_route
from gateway.ports import Lease
from gateway.state.memory import MemoryStore

_METHODS: dict[type, tuple[str, ...]] = {
    Fleet: ("apply",),
    Holding: ("unwanted", "choose", "join", "leave", "next_for", "due", "stale"),
    MemoryStore: ("set_limits", "lease_now", "release"),
}
_PLANNERS = ("gateway.core.journey", "gateway.core.retries")


class Call(NamedTuple):
    part: str
    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]


class Recording:
    """`calls` in the order in which they began, and what each gave."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.results: list[Any] = []
        self._inside: list[str] = []

    def wrap(self, part: str, method: str, inner: Callable[..., Any], *, is_bound: bool) -> Any:
        def recorded(*args: Any, **options: Any) -> Any:
            if self._inside and self._inside[-1] == part == "Holding":
                return inner(*args, **options)  # a step of a call that is written down
            at = len(self.calls)
            self.calls.append(Call(part, method, args if is_bound else args[1:], options))
            self.results.append(None)
            self._inside.append(part)
            try:
                self.results[at] = result = inner(*args, **options)
            finally:
                self._inside.pop()
            return result

        return recorded

    def of(self, method: str) -> list[Any]:
        """All that this method gave."""
        return [
            result for call, result in zip(self.calls, self.results, strict=True) if call.method == method
        ]


class _RecordedBudget:
    """The budget of extra attempts: slots leave no room for a wrapper inside."""

    def __init__(self, inner: ExtraAttempts, recording: Recording) -> None:
        self._inner, self._recording = inner, recording

    def __getattr__(self, name: str) -> Any:
        return self._recording.wrap("ExtraAttempts", name, getattr(self._inner, name), is_bound=True)


@contextmanager
def recorded() -> Iterator[Recording]:
    """Of the one gateway that is made and runs inside the block; see also `record_budget`."""
    recording = Recording()
    with pytest.MonkeyPatch.context() as patch:
        for part, methods in _METHODS.items():
            for method in methods:
                inner = getattr(part, method)
                patch.setattr(part, method, recording.wrap(part.__name__, method, inner, is_bound=False))
        for module in _PLANNERS:
            planner = recording.wrap("routing", "plan_route", _without_view, is_bound=True)
            patch.setattr(f"{module}.plan_route", lambda f, v, now_s, ask=planner: ask(f, now_s, view=v))
        yield recording


def _without_view(facts: Any, now_s: float, view: Any) -> Any:
    return plan_route(facts, view, now_s)


def record_budget(gateway: Gateway, recording: Recording) -> None:
    """To be called before the first request."""
    gateway._plane.extra = _RecordedBudget(gateway._plane.extra, recording)  # type: ignore[assignment]


class Replay:
    """The same calls to parts of its own; what they give is in `results`, in the recording's terms."""

    def __init__(self, config: Config) -> None:
        self._fleet = Fleet()
        budget = ExtraAttempts()
        set_budget(budget, config.retry, config.hedge)
        self._parts: dict[str, Any] = {
            "Fleet": self._fleet,
            "Holding": Holding(self._fleet.view),
            "MemoryStore": MemoryStore(),
            "ExtraAttempts": budget,
        }
        self._twins: dict[int, Any] = {}  # by the id of what was recorded
        self._originals: dict[int, Any] = {}  # the other way round

    def run(self, recording: Recording) -> list[Any]:
        return [self._make(*made) for made in zip(recording.calls, recording.results, strict=True)]

    def _make(self, call: Call, recorded: Any) -> Any:
        if call.part == "routing":
            return plan_route(call.args[0], self._fleet.view, call.args[1])
        args = [self._twin(value) for value in call.args]
        result = getattr(self._parts[call.part], call.method)(*args, **call.options)
        if isinstance(result, Lease) and isinstance(recorded, Lease):
            self._pair(recorded, result)
        return self._original(result)

    def _twin(self, value: Any) -> Any:
        if isinstance(value, Waiter) and id(value) not in self._twins:
            twin = Waiter(value.facts, value.candidates, value.until_s, is_wide=value.is_wide)
            self._pair(value, twin)
        return self._twins.get(id(value), value)

    def _pair(self, original: Any, twin: Any) -> None:
        self._twins[id(original)], self._originals[id(twin)] = twin, original

    def _original(self, value: Any) -> Any:
        match value:
            case Lease():
                original = self._originals.get(id(value))
                is_same = original is not None and original.candidate == value.candidate
                return original if is_same else value
            case list():
                return [self._original(member) for member in value]
            case Waiter():
                return self._originals.get(id(value))
            case (Waiter() as waiter, candidate):
                return self._original(waiter), candidate
        return value
