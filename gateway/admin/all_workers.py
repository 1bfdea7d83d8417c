"""The pages of several workers as one gateway: each is asked through its own admin port.

Drains are orders that hold for every worker, also for one that starts later: `apply` keeps them in a picture
of the fleet of their own, which carries no requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.admin.answers import AdminError
from gateway.admin.explain_page import is_like
from gateway.admin.explain_query import ExplainQuery
from gateway.admin.fleet_merge import merge_pages
from gateway.admin.fleet_page import Json, drain_mark
from gateway.admin.one_gateway import drain_event
from gateway.admin.pages import OPENMETRICS_TYPE, DrainOrder, find_state
from gateway.admin.ports import GatewayState, GatewayStatus, Reload
from gateway.admin.reload import reload_page
from gateway.admin.worker_calls import NoAnswer, WorkerAnswer, answers_of, ask, tell
from gateway.core.fleet import FOREVER_S, BackendState, ClusterState, Event, FleetView
from gateway.ports import Clock

UNRESPONSIVE = "unresponsive"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the admin port sees it. `number` is its place; `life` is new with each start."""

    number: int
    life: int
    pid: int | None
    socket_path: str
    is_ready: bool


@dataclass(frozen=True, slots=True)
class WorkersPorts:
    """The workers together as the admin port sees them.

    `detail` is shown on the readiness page. `render_metrics(texts, states, as_openmetrics)` gets the
    workers' texts by `life`, None for one that did not answer, and how many workers are in which state.
    """

    workers: Callable[[], Sequence[WorkerView]]
    state: Callable[[], GatewayState]
    detail: Callable[[], Mapping[str, object]]
    view: FleetView
    apply: Callable[[Event], None]
    drain: Callable[[], Awaitable[bool]]
    render_metrics: Callable[[Mapping[int, str | None], Mapping[str, int], bool], tuple[Iterable[bytes], str]]
    clock: Clock
    reload: Reload | None = None


class AllWorkers:
    """Pages, put together from those of the workers."""

    def __init__(self, ports: WorkersPorts) -> None:
        self._ports = ports
        # One order at a time, so that all workers get them in one order.
        self._ordering = asyncio.Lock()

    async def status(self) -> GatewayStatus:
        """Ready when any worker is, unless the end has begun."""
        workers = self._ports.workers()
        asked = await self._answers([w for w in workers if w.is_ready], "/readyz")
        shown = [_shown(worker, asked.get(worker.life)) for worker in workers]
        is_any_ready = any(one["status"] == GatewayState.READY for one in shown)
        state = self._ports.state()
        if state is GatewayState.READY and not is_any_ready:
            state = GatewayState.STARTING
        in_flight = sum(one.get("in_flight", 0) for one in shown)
        return GatewayStatus(state, in_flight, {**self._ports.detail(), "workers": shown})

    async def drain(self) -> bool:
        return await self._ports.drain()

    async def metrics(self, as_openmetrics: bool) -> tuple[bytes, str]:
        workers = self._ports.workers()
        # In the form that is asked for here: only OpenMetrics shows exemplars.
        accept = OPENMETRICS_TYPE if as_openmetrics else "text/plain"
        answers = await self._answers([w for w in workers if w.is_ready], "/metrics", accept)
        texts = {life: _text(answer) for life, answer in answers.items()}
        is_ending = self._ports.state() is GatewayState.DRAINING
        ready = sum(worker.is_ready for worker in workers)
        states = {"ready": 0 if is_ending else ready, "starting": len(workers) - ready, "draining": 0}
        if is_ending:
            states["draining"] = ready
        parts, content_type = self._ports.render_metrics(texts, states, as_openmetrics)
        return b"".join(parts), content_type

    async def fleet(self) -> Json:
        answers = await self._answers([w for w in self._ports.workers() if w.is_ready], "/api/v1/fleet")
        pages = [a.json for a in answers.values() if isinstance(a, WorkerAnswer) and a.status == 200]
        if not pages:
            raise _no_worker()
        return merge_pages(pages)

    async def explain(self, asked: ExplainQuery) -> Json:
        """One page for all `workers` that would do the same; those that would not are `differing`."""
        workers = [w for w in self._ports.workers() if w.is_ready]
        answers = await self._answers(workers, asked.path)
        groups: list[dict[str, Any]] = []
        for worker in workers:
            answer = answers[worker.life]
            if not isinstance(answer, WorkerAnswer) or answer.status != 200:
                continue
            page = answer.json
            if (same := next((g for g in groups if is_like(g, page)), None)) is not None:
                same["workers"].append(worker.number)
            else:
                groups.append({**page, "workers": [worker.number]})
        if not groups:
            if any(isinstance(answer, WorkerAnswer) and answer.status == 404 for answer in answers.values()):
                raise AdminError(404, "key_not_found", f"no client key is named {asked.key!r}", "key")
            raise _no_worker()
        return {**groups[0], "differing": groups[1:]}

    async def reload(self) -> Json:
        return await reload_page(self._ports.reload)

    async def mark(self, order: DrainOrder) -> Json:
        """Tells every worker. AdminError 502 when some did not take it; the order stands all the same."""
        ports = self._ports
        async with self._ordering:
            state = find_state(ports.view, order)
            ports.apply(drain_event(order, ports.clock()))
            workers = [worker for worker in ports.workers() if worker.is_ready]
            answers = await answers_of([tell(worker.socket_path, order, ports.clock()) for worker in workers])
        failed = [
            f"worker {worker.number} {_why_not(answer)}"
            for worker, answer in zip(workers, answers, strict=True)
            if not _is_good(answer)
        ]
        if failed:
            verb = "drain" if order.is_drain else "undrain"
            told = f"{len(workers) - len(failed)} of {len(workers)} workers took it; {', '.join(failed)}"
            raise AdminError(502, "worker_failed", f"{told}: repeat the {verb}")
        in_flight = sum(a.json["in_flight"] for a in answers if isinstance(a, WorkerAnswer))
        return {"name": order.name, "in_flight": in_flight, **drain_mark(state, ports.clock())}

    async def catch_up(self, worker: WorkerView, known: Mapping[str, float]) -> None:
        """Tells a worker that has just become ready what changed since it was given the drains `known`."""
        ports = self._ports
        async with self._ordering:
            now = drains_in_force(ports.view, ports.clock())
            orders = [_order(ports.view, name, None, 0.0) for name in known.keys() - now.keys()]
            orders += [
                _order(ports.view, name, until_s, ports.clock())
                for name, until_s in now.items()
                if known.get(name) != until_s
            ]
            await answers_of([tell(worker.socket_path, order, ports.clock()) for order in orders])

    async def _answers(
        self, workers: Sequence[WorkerView], path: str, accept: str = "*/*"
    ) -> dict[int, WorkerAnswer | NoAnswer]:
        """By life, in the workers' order."""
        calls = [ask(worker.socket_path, "GET", path, headers={"Accept": accept}) for worker in workers]
        answers = await answers_of(calls)
        return {worker.life: answer for worker, answer in zip(workers, answers, strict=True)}


def drains_in_force(view: FleetView, now_s: float) -> dict[str, float]:
    """Names of clusters and backends with the moment at which their drain ends."""
    states: list[tuple[str, ClusterState | BackendState]] = [*view.clusters.items(), *view.backends.items()]
    ends_s = {name: state.drained_until_s for name, state in states}
    return {name: until_s for name, until_s in ends_s.items() if until_s is not None and until_s > now_s}


def _order(view: FleetView, name: str, until_s: float | None, now_s: float) -> DrainOrder:
    kind = "clusters" if name in view.clusters else "backends"
    if until_s is None:
        return DrainOrder(kind, name, is_drain=False)
    return DrainOrder(kind, name, True, None if until_s == FOREVER_S else max(until_s - now_s, 0.001))


def _shown(worker: WorkerView, answer: WorkerAnswer | NoAnswer | None) -> dict[str, Any]:
    """A worker's part of the readiness page."""
    own = {"worker": worker.number, "pid": worker.pid}
    if not worker.is_ready:
        return {**own, "status": GatewayState.STARTING.value}
    try:
        page = answer.json if isinstance(answer, WorkerAnswer) else {}
    except NoAnswer:
        page = {}
    return {**own, "status": UNRESPONSIVE, **page}


def _no_worker() -> AdminError:
    return AdminError(503, "no_worker", "no worker answers at the moment")


def _text(answer: WorkerAnswer | NoAnswer) -> str | None:
    if not _is_good(answer) or not isinstance(answer, WorkerAnswer):
        return None
    return answer.body.decode("utf-8")


def _is_good(answer: WorkerAnswer | NoAnswer) -> bool:
    return isinstance(answer, WorkerAnswer) and answer.status == 200


def _why_not(answer: WorkerAnswer | NoAnswer) -> str:
    return str(answer) if isinstance(answer, NoAnswer) else f"answered {answer.status}"
