"""Several workers behind one admin port: real admin ports on unix sockets, with a fleet behind each."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fake_gateway import ONE, SPOT, TWO, FakeGateway

from gateway.admin.all_workers import AllWorkers, WorkersPorts, WorkerView, drains_in_force
from gateway.admin.explain_text import explain_text
from gateway.admin.fleet_merge import merge_pages
from gateway.admin.one_gateway import OneGateway
from gateway.admin.ports import AdminSettings, GatewayState, GatewayStatus
from gateway.admin.server import AdminServer
from gateway.core.fleet import FOREVER_S, AttemptStarted, Drained, FirstByteSeen

DRAIN_HERE = "/api/v1/clusters/here/drain"
UNDRAIN_HERE = "/api/v1/clusters/here/undrain"

CLOSED = {"state": "closed", "trigger": None, "reason": None, "for_s": None}


@dataclass
class Crew:
    """Workers, and a parent that shows them as one on a port of its own (`front`)."""

    folder: Path
    workers: list[FakeGateway] = field(default_factory=list)
    views: list[WorkerView] = field(default_factory=list)
    state: GatewayState = GatewayState.READY
    front: FakeGateway = field(default_factory=FakeGateway)
    rendered: list[tuple[Mapping[int, str | None], Mapping[str, int], bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pages = AllWorkers(self.ports())

    def render(
        self, texts: Mapping[int, str | None], states: Mapping[str, int], as_openmetrics: bool
    ) -> tuple[Iterable[bytes], str]:
        self.rendered.append((texts, states, as_openmetrics))
        return [b"merged ", b"1\n"], "text/plain"

    def ports(self) -> WorkersPorts:
        return WorkersPorts(
            workers=lambda: self.views,
            state=lambda: self.state,
            detail=lambda: {"private_redis": "running"},
            view=self.front.fleet.view,
            apply=self.front.apply,
            drain=self.front.drain,
            render_metrics=self.render,
            clock=lambda: self.front.now_s,
        )

    def until_s(self, name: str) -> list[float | None]:
        """The end of a drain at each worker."""
        views = [worker.fleet.view for worker in self.workers]
        return [(view.clusters.get(name) or view.backends[name]).drained_until_s for view in views]

    def will_not_serve(self, index: int) -> None:
        self.views[index] = replace(self.views[index], is_ready=False, pid=None)


Start = Callable[..., Awaitable[Crew]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts `count` workers and the parent's admin port."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path is short
    servers: list[AdminServer] = []

    async def begin(count: int = 2) -> Crew:
        crew = Crew(folder)
        for number in range(1, count + 1):
            worker = FakeGateway()
            socket_path = str(folder / f"{number}.sock")
            server = AdminServer(AdminSettings(socket_path=socket_path), OneGateway(worker.ports()))
            await server.start()
            servers.append(server)
            crew.workers.append(worker)
            crew.views.append(WorkerView(number, 10 + number, 1000 + number, socket_path, True))
        front = AdminServer(AdminSettings("127.0.0.1", 0), crew.pages)
        await front.start()
        servers.append(front)
        crew.front.port = front.port
        return crew

    yield begin
    for server in servers:
        await server.stop()
    shutil.rmtree(folder)


@pytest.fixture
async def mute(start: Start) -> AsyncIterator[str]:
    """The socket of one that takes a connection and never says a word."""
    folder = tempfile.mkdtemp(dir="/tmp")
    over = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_unix_server(say_nothing, f"{folder}/mute.sock")
    yield f"{folder}/mute.sock"
    over.set()
    server.close()
    shutil.rmtree(folder)


# --- the fleet -----------------------------------------------------------------------------------------


async def test_the_fleet_page_adds_what_is_in_flight_and_keeps_one_limit(start: Start) -> None:
    crew = await start()
    first, second = crew.workers
    for worker, backend_id in ((first, ONE), (first, ONE), (second, ONE), (second, SPOT)):
        worker.apply(AttemptStarted(backend_id))
    second.apply(FirstByteSeen(ONE, 0.25))
    page = (await crew.front.ask("GET", "/api/v1/fleet")).json
    (here,) = page["tiers"][0]["clusters"]
    one = here["backends"][0]
    assert (one["id"], one["in_flight"], one["limit"], one["headroom"], one["share"]) == (ONE, 3, 4, 1, 0.75)
    assert one["latency_ewma_ms"] == 250.0
    assert (here["in_flight"], here["limit"], here["headroom"], here["weight"]) == (3, 8, 5, 1.0)
    assert {key: page[key] for key in ("in_flight", "limit", "headroom", "share")} == {
        "in_flight": 4,
        "limit": 16,
        "headroom": 12,
        "share": 1.0,
    }


async def test_workers_that_would_do_the_same_explain_as_one(start: Start) -> None:
    crew = await start(3)
    page = (await crew.front.ask("GET", "/api/v1/explain?model=m")).json
    assert (page["workers"], page["differing"], page["taken"]) == ([1, 2, 3], [], ONE)
    for backend_id in (ONE, TWO):
        crew.workers[1].apply(Drained(backend_id))
    page = (await crew.front.ask("GET", "/api/v1/explain?model=m")).json
    (other,) = page["differing"]
    assert (page["workers"], page["taken"]) == ([1, 3], ONE)
    assert (other["workers"], other["taken"], other["spill_reason"]) == ([2], SPOT, "drained")
    assert "worker 2 would do otherwise:\nA request for m goes to cheap" in explain_text(page)
    answer = await crew.front.ask("GET", "/api/v1/explain?key=nobody")
    assert (answer.status, answer.code) == (404, "key_not_found")
    for index in range(3):
        crew.will_not_serve(index)
    answer = await crew.front.ask("GET", "/api/v1/explain")
    assert (answer.status, answer.code) == (503, "no_worker")


async def test_the_merged_page_has_the_shape_of_a_single_one(start: Start) -> None:
    crew = await start()
    single = (await OneGateway(crew.workers[0].ports()).fleet()) | {}
    merged = (await crew.front.ask("GET", "/api/v1/fleet")).json
    assert merged == json.loads(json.dumps(single)), "two idle workers look like one"


def test_headroom_of_a_merged_page_is_never_below_nothing() -> None:
    backend = {"id": "b", "in_flight": 3, "limit": 4, "headroom": 1, "share": 1.0, "latency_ewma_ms": 0.0}
    backend["circuit"] = CLOSED
    mark = {"drained": False, "drained_for_s": None}
    sums = {"in_flight": 3, "limit": 4, "headroom": 1, "share": 1.0}
    cluster = {"name": "c", **sums, **mark, "down": False, "backends": [backend | mark]}
    page = {"tiers": [{"name": "t", **sums, "clusters": [cluster]}], **sums}
    merged = merge_pages([page, page])
    assert (merged["in_flight"], merged["limit"], merged["headroom"]) == (6, 4, 0)


@pytest.mark.parametrize(
    ("states", "shown"),
    [(("closed", "half_open"), "half_open"), (("open", "half_open"), "open"), (("closed", "open"), "open")],
)
async def test_a_circuit_is_shown_as_the_worker_that_sees_it_worst_sees_it(
    start: Start, states: tuple[str, str], shown: str
) -> None:
    crew = await start()
    page: dict[str, Any] = json.loads(json.dumps(await OneGateway(crew.workers[0].ports()).fleet()))
    pages = [json.loads(json.dumps(page)) for _ in states]
    for each, state in zip(pages, states, strict=True):
        each["tiers"][0]["clusters"][0]["backends"][0]["circuit"] = CLOSED | {"state": state}
    merged = merge_pages(pages)
    assert merged["tiers"][0]["clusters"][0]["backends"][0]["circuit"]["state"] == shown


@pytest.mark.parametrize(
    ("ends_s", "expected"),
    [
        ((None, None), (False, None)),
        ((1030.0, None), (False, None)),
        ((1030.0, 1020.0), (True, 30.0)),
        ((1030.0, FOREVER_S), (True, None)),
    ],
)
async def test_drained_is_what_all_workers_have_drained(
    start: Start, ends_s: tuple[float | None, ...], expected: tuple[bool, float | None]
) -> None:
    crew = await start()
    for worker, end_s in zip(crew.workers, ends_s, strict=True):
        if end_s is not None:
            worker.apply(Drained("here", end_s))
    (here,) = (await crew.front.ask("GET", "/api/v1/fleet")).json["tiers"][0]["clusters"]
    assert (here["drained"], here["drained_for_s"]) == expected


async def test_without_any_worker_the_fleet_page_is_503(start: Start) -> None:
    crew = await start(1)
    crew.will_not_serve(0)
    answer = await crew.front.ask("GET", "/api/v1/fleet")
    assert (answer.status, answer.code) == (503, "no_worker")


async def test_a_mute_worker_is_left_out_of_the_fleet_page(start: Start, mute: str) -> None:
    crew = await start()
    crew.workers[0].apply(AttemptStarted(ONE))
    crew.views[1] = replace(crew.views[1], socket_path=mute)
    assert (await crew.front.ask("GET", "/api/v1/fleet")).json["in_flight"] == 1


# --- drains --------------------------------------------------------------------------------------------


async def test_a_drain_reaches_every_worker_and_tells_what_all_have_in_flight(start: Start) -> None:
    crew = await start(3)
    for worker in crew.workers:
        worker.apply(AttemptStarted(ONE))
    answer = await crew.front.ask("POST", DRAIN_HERE + "?for=60s")
    assert answer.json == {"name": "here", "in_flight": 3, "drained": True, "drained_for_s": 60.0}
    assert crew.until_s("here") == [1060.0] * 3
    answer = await crew.front.ask("POST", UNDRAIN_HERE)
    assert answer.json == {"name": "here", "in_flight": 3, "drained": False, "drained_for_s": None}
    assert crew.until_s("here") == [None] * 3


async def test_a_drain_without_an_end_and_a_backend_with_slashes(start: Start) -> None:
    crew = await start()
    answer = await crew.front.ask("POST", f"/api/v1/backends/{TWO}/drain")
    assert (answer.json["name"], answer.json["drained_for_s"]) == (TWO, None)
    assert crew.until_s(TWO) == [FOREVER_S] * 2


async def test_an_unknown_name_is_404_and_no_worker_is_asked(start: Start) -> None:
    crew = await start()
    crew.views = [replace(view, socket_path="/nowhere") for view in crew.views]
    answer = await crew.front.ask("POST", "/api/v1/clusters/hree/drain")
    assert (answer.status, answer.code) == (404, "cluster_not_found")
    assert "cheap, here" in answer.json["error"]["message"]


async def test_a_worker_that_does_not_take_it_makes_it_an_error_that_names_it(
    start: Start, mute: str
) -> None:
    crew = await start(3)
    crew.views[1] = replace(crew.views[1], socket_path=mute)
    crew.views[2] = replace(crew.views[2], socket_path="/nowhere")
    answer = await crew.front.ask("POST", DRAIN_HERE)
    assert (answer.status, answer.code) == (502, "worker_failed")
    assert answer.json["error"]["message"] == (
        "1 of 3 workers took it; worker 2 did not answer within 1 s, worker 3 is not reachable: "
        "repeat the drain"
    )
    assert drains_in_force(crew.front.fleet.view, crew.front.now_s) == {"here": FOREVER_S}


async def test_a_worker_that_only_starts_is_not_waited_for(start: Start) -> None:
    crew = await start()
    crew.will_not_serve(1)
    assert (await crew.front.ask("POST", DRAIN_HERE)).status == 200
    assert crew.until_s("here") == [FOREVER_S, None]


async def test_a_worker_that_became_ready_is_told_what_changed_meanwhile(start: Start) -> None:
    crew = await start()
    born_with = {"cheap": FOREVER_S, "here": 1030.0}
    for name, until_s in born_with.items():
        crew.workers[1].apply(Drained(name, until_s))
    for name, until_s in {"here": 1060.0, TWO: FOREVER_S}.items():
        crew.front.apply(Drained(name, until_s))
    await crew.pages.catch_up(crew.views[1], born_with)
    ends_s = [crew.until_s(name)[1] for name in ("cheap", "here", TWO)]
    assert ends_s == [None, 1060.0, FOREVER_S]


def test_a_drain_that_has_ended_is_not_in_force() -> None:
    gateway = FakeGateway()
    gateway.apply(Drained("here", 1060.0))
    gateway.apply(Drained(SPOT, FOREVER_S))
    assert drains_in_force(gateway.fleet.view, 1059.0) == {"here": 1060.0, SPOT: FOREVER_S}
    assert drains_in_force(gateway.fleet.view, 1060.0) == {SPOT: FOREVER_S}


# --- readiness -----------------------------------------------------------------------------------------


async def readiness(crew: Crew) -> tuple[int, Any]:
    answer = await crew.front.ask("GET", "/readyz")
    return answer.status, answer.json


async def test_ready_while_any_worker_is_with_a_line_for_each(start: Start, mute: str) -> None:
    crew = await start(4)
    crew.workers[1].status = GatewayStatus(GatewayState.DRAINING, 5)
    crew.will_not_serve(2)
    crew.views[3] = replace(crew.views[3], socket_path=mute)
    status, page = await readiness(crew)
    assert (status, page) == (
        200,
        {
            "status": "ready",
            "in_flight": 7,
            "private_redis": "running",
            "workers": [
                {"worker": 1, "pid": 1001, "status": "ready", "in_flight": 2, "store": "memory"},
                {"worker": 2, "pid": 1002, "status": "draining", "in_flight": 5},
                {"worker": 3, "pid": None, "status": "starting"},
                {"worker": 4, "pid": 1004, "status": "unresponsive"},
            ],
        },
    )


async def test_not_ready_without_any_ready_worker(start: Start) -> None:
    crew = await start(1)
    crew.will_not_serve(0)
    assert (await readiness(crew))[0] == 503
    assert (await crew.front.ask("GET", "/livez")).status == 200


@pytest.mark.parametrize("state", [GatewayState.STARTING, GatewayState.DRAINING])
async def test_not_ready_before_the_start_and_after_the_end_is_begun(
    start: Start, state: GatewayState
) -> None:
    crew = await start()
    crew.state = state
    status, page = await readiness(crew)
    assert (status, page["status"]) == (503, state)


async def test_the_drain_of_all_is_the_parents(start: Start) -> None:
    crew = await start()
    assert (await crew.front.ask("POST", "/health/drain")).json == {"status": "drained", "in_flight": 0}
    assert (crew.front.drains, [worker.drains for worker in crew.workers]) == (1, [0, 0])


# --- metrics -------------------------------------------------------------------------------------------


async def test_every_ready_worker_is_scraped_and_one_that_does_not_answer_is_said(
    start: Start, mute: str
) -> None:
    crew = await start(3)
    crew.will_not_serve(1)
    crew.views[2] = replace(crew.views[2], socket_path=mute)
    answer = await crew.front.ask("GET", "/metrics", Accept="application/openmetrics-text")
    assert (answer.status, answer.body) == (200, b"merged 1\n")
    states = {"ready": 2, "starting": 1, "draining": 0}
    # Asked in the same form, which alone shows exemplars.
    assert crew.rendered == [({11: "# EOF\n", 13: None}, states, True)]


async def test_metrics_while_draining(start: Start) -> None:
    crew = await start()
    crew.state = GatewayState.DRAINING
    assert (await crew.front.ask("GET", "/metrics")).status == 200
    assert crew.rendered[0][1] == {"ready": 0, "starting": 0, "draining": 2}
