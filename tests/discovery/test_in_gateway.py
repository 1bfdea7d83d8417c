"""A real gateway whose backends come and go: by the Kubernetes API, by a file, and by a new configuration."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.app import Gateway
from gateway.config.loading import load_whole
from gateway.discovery import discovery
from tests.chaos.counting_backend import Connection, Counts
from tests.chaos.load import Load, between
from tests.discovery.kube_double import KubeDouble, endpoint, slice_of
from tests.discovery.telling import until

OWN = "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\naccess_log: 'off'\n"
Start = Callable[[str], Awaitable[Gateway]]


class Engine:
    """A backend that counts; in Kubernetes it is the pod of its name, in a slice of its own for its port."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = Counts()
        self.port = 0

    async def listen(self) -> asyncio.Server:
        make = lambda: Connection(self.counts)  # noqa: E731
        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def slice(self, **conditions: Any) -> dict[str, Any]:
        ports = [{"name": "http", "port": self.port}]
        return slice_of(self.name, [endpoint("127.0.0.1", pod=self.name, **conditions)], ports=ports)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def engines(count: int) -> AsyncIterator[list[Engine]]:
    made = [Engine(f"engine-{number}") for number in range(count)]
    servers = [await engine.listen() for engine in made]
    try:
        yield made
    finally:
        for server in servers:
            server.close()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway from a file, `spillway.yaml`."""
    started: list[Gateway] = []

    async def begin(text: str) -> Gateway:
        (tmp_path / "spillway.yaml").write_text(OWN + text)
        file = load_whole(tmp_path / "spillway.yaml", {})
        gateway = Gateway(file.config, file=file)
        started.append(gateway)
        await gateway.start()
        return gateway

    yield begin
    for gateway in started:
        await gateway.stop()


def by_kubernetes(kube: KubeDouble, name: str = "here", more: str = "") -> str:
    how = f"{{service: vllm, namespace: models, port: http, api: {{url: '{kube.url}'}}}}"
    return f"- {{name: {name}, limit: 8, discovery: {{kubernetes: {how}{more}}}}}\n"


def ids(gateway: Gateway) -> set[str]:
    return set(gateway._fleet.view.backends)


async def ask(gateway: Gateway) -> tuple[int, str, str]:
    """Status, cluster and body."""
    url = f"http://127.0.0.1:{gateway.port}/v1/completions"
    async with ClientSession() as session, session.post(url, json={"model": "m", "hold_ms": 1}) as answer:
        return answer.status, answer.headers.get("x-spillway-cluster", ""), await answer.text()


async def page(gateway: Gateway, path: str) -> Any:
    url = f"http://127.0.0.1:{gateway.admin_port}{path}"
    async with ClientSession() as session, session.get(url) as answer:
        return await (answer.text() if path == "/metrics" else answer.json())


async def come_and_go(kube: KubeDouble, pods: list[Engine], changes: int, every_s: float) -> None:
    """Each change is a pod that leaves (it terminates, then is gone) or one that comes, first not ready."""
    draw = random.Random(1)
    there = list(pods)
    for _ in range(changes):
        engine = draw.choice(pods)
        if engine in there and len(there) > 2:
            there.remove(engine)
            kube.put(engine.slice(ready=False, serving=True, terminating=True))
            await asyncio.sleep(every_s / 2)
            kube.delete(engine.name)
        elif engine not in there:
            there.append(engine)
            kube.put(engine.slice(ready=False))
            await asyncio.sleep(every_s / 2)
            kube.put(engine.slice())
        await asyncio.sleep(every_s / 2)
        if draw.random() < 0.2:
            kube.disconnect()
        if draw.random() < 0.1:
            kube.forget_history()
    for engine in pods:
        kube.put(engine.slice())


@pytest.mark.parametrize(
    ("changes", "every_s"),
    [(20, 0.1), pytest.param(200, 0.3, marks=[pytest.mark.slow, pytest.mark.timeout(120)])],
)
async def test_no_request_is_dropped_while_backends_come_and_go(
    kube: KubeDouble, start: Start, changes: int, every_s: float
) -> None:
    async with engines(6) as pods:
        for engine in pods:
            kube.put(engine.slice())
        gateway = await start("clusters:\n" + by_kubernetes(kube))
        load = Load([gateway.port])
        try:
            load.add(8, between(0.01, 0.08))
            load.add(2, between(0.1, 0.4, is_stream=True))
            await come_and_go(kube, pods, changes, every_s)
            await until(lambda: len(ids(gateway)) == 6)
            await asyncio.to_thread(load.finish)
            assert set(load.statuses) == {200}, load.statuses
            assert len(load.told) > 10 * changes
        finally:
            await asyncio.to_thread(load.close)
        assert [state.in_flight for state in gateway._fleet.view.backends.values()] == [0] * 6
        assert all(engine.counts.in_flight == 0 and engine.counts.total > 0 for engine in pods)
        assert set(gateway._plane.pools) == ids(gateway)


async def test_a_cluster_without_backends_spills_and_what_is_missing_is_expected(
    kube: KubeDouble, start: Start
) -> None:
    async with engines(2) as (pod, spare):
        kube.put(pod.slice())
        clusters = "clusters:\n" + by_kubernetes(kube, more=", expected: 4")
        spill = f"- {{name: spare, limit: 8, tier: spot, backends: ['{spare.url}']}}\n"
        gateway = await start(clusters + spill)
        # One of four is less than half: what is left of it comes after the spare one.
        assert (await ask(gateway))[:2] == (200, "spare")
        capacity = (await page(gateway, "/api/v1/fleet"))["tiers"][0]["clusters"][0]["capacity"]
        assert capacity == {"ready": 1, "expected": 4, "share": 0.25}
        kube.delete(pod.name)
        await until(lambda: ids(gateway) == {f"spare@127.0.0.1:{spare.port}"})
        assert (await ask(gateway))[:2] == (200, "spare")


async def test_when_the_last_backend_has_left_there_is_none_and_then_there_is_one_again(
    kube: KubeDouble, start: Start
) -> None:
    async with engines(1) as (pod,):
        gateway = await start("clusters:\n" + by_kubernetes(kube))
        status, _, body = await ask(gateway)
        assert (status, "no_backend" in body) == (503, True)
        kube.put(pod.slice())
        await until(lambda: len(ids(gateway)) == 1)
        assert (await ask(gateway))[:2] == (200, "here")


async def test_a_start_does_not_wait_for_ever_and_says_so(
    kube: KubeDouble, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "FIRST_ANSWERS_S", 0.1)
    async with engines(2) as (pod, other):
        kube.put(pod.slice())
        kube.is_hanging = True
        listed = f"- {{name: listed, limit: 1, backends: ['{other.url}']}}\n"
        gateway = await start("clusters:\n" + by_kubernetes(kube) + listed)
        assert (await page(gateway, "/readyz"))["discovery"] == {"here": "no answer yet"}
        assert (await ask(gateway))[:2] == (200, "listed")


async def test_an_api_that_fails_takes_nothing_away_and_shows(kube: KubeDouble, start: Start) -> None:
    async with engines(1) as (pod,):
        kube.put(pod.slice())
        gateway = await start("clusters:\n" + by_kubernetes(kube))
        assert 'spillway_discovery_failing{cluster="here"} 0.0' in await page(gateway, "/metrics")
        await until(lambda: kube.open_watches == 1)
        kube.failures = [(500, {})] * 1000
        kube.disconnect()
        await until(lambda: gateway._live_config.found()[0].errors >= 2)
        assert "the API refuses: 500" in (await page(gateway, "/readyz"))["discovery"]["here"]
        metrics = await page(gateway, "/metrics")
        assert 'spillway_discovery_failing{cluster="here"} 1.0' in metrics
        assert 'spillway_discovery_age_seconds{cluster="here"}' in metrics
        assert (await ask(gateway))[:2] == (200, "here")


async def test_a_drained_backend_stays_drained_whatever_else_is_found(kube: KubeDouble, start: Start) -> None:
    async with engines(2) as (pod, other):
        kube.put(pod.slice())
        gateway = await start("clusters:\n" + by_kubernetes(kube))
        url = f"http://127.0.0.1:{gateway.admin_port}/api/v1/backends/here@127.0.0.1:{pod.port}/drain"
        async with ClientSession() as session, session.post(url) as answer:
            assert answer.status == 200
        kube.put(other.slice())
        await until(lambda: len(ids(gateway)) == 2)
        for _ in range(5):
            await ask(gateway)
        assert (pod.counts.total, other.counts.total) == (0, 5)


async def test_a_new_configuration_keeps_what_was_found_and_a_refused_one_changes_no_source(
    kube: KubeDouble, start: Start, tmp_path: Path
) -> None:
    async with engines(2) as (pod, filed):
        kube.put(pod.slice())
        (tmp_path / "backends.yaml").write_text(f"[{filed.url}]")
        clusters = "clusters:\n" + by_kubernetes(kube)
        gateway = await start(clusters)
        more = "- {name: filed, limit: 2, discovery: {file: backends.yaml}}\n"
        file = tmp_path / "spillway.yaml"
        assert gateway._live_config.reload is not None
        file.write_text(OWN.replace(":0", ":1", 1) + clusters + more)
        assert (await gateway._live_config.reload())[0] == "refused"
        assert [status.cluster for status in gateway._live_config.found()] == ["here"]
        file.write_text(OWN + "retry: {attempts: 2}\n" + clusters + more)
        assert (await gateway._live_config.reload())[0] == "adopted"
        await until(lambda: len(ids(gateway)) == 2)
        assert ids(gateway) == {f"here@127.0.0.1:{pod.port}", f"filed@127.0.0.1:{filed.port}"}
        assert len(kube.watches) == 1, "the source went on"
        file.write_text(OWN + clusters)
        assert (await gateway._live_config.reload())[0] == "adopted"
        assert ids(gateway) == {f"here@127.0.0.1:{pod.port}"}
