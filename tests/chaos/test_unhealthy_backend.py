"""Probes in real life: a gateway and mock engines as processes, watched as an operator and a client do."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.proxy.dialogue import Client, post
from tests.proxy.processes import Engine, GatewayProcess, running, start_engine, start_gateway_process

PROBED = "{interval: 100ms, timeout: 80ms, rise: 2, fall: 3}"
SYNTHETIC = "{interval: 100ms, timeout: 80ms, fall: 3, synthetic: {interval: 100ms, timeout: 90ms}}"
READ = "{interval: 100ms, timeout: 80ms, stale_after: 500ms}"
WITHIN_S = 4.0


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    made = [start_engine("--ttft", "1ms", "--tpot", "1ms") for _ in range(2)]
    with running(*made):
        yield made


def start(engines: list[Engine], folder, **sections: str) -> GatewayProcess:
    more = "".join(f", {key}: {value}" for key, value in sections.items())
    lines = [
        f"- {{name: {tier}, tier: {tier}, limit: 8, backends: ['{engine.url}']{more}}}"
        for tier, engine in zip(("primary", "backup"), engines, strict=True)
    ]
    return start_gateway_process("\n".join(["clusters:", *lines, ""]), folder)


def primary(gateway: GatewayProcess) -> Any:
    return gateway.fleet()["tiers"][0]["clusters"][0]["backends"][0]


def ready(gateway: GatewayProcess) -> list[int]:
    return [tier["clusters"][0]["capacity"]["ready"] for tier in gateway.fleet()["tiers"][:2]]


async def asked(gateway: GatewayProcess) -> tuple[int, str | None, str | None]:
    """Status, cluster and spill reason of one request."""
    client = await Client.connect(gateway.port)
    try:
        await client.send(post(b'{"model":"m","messages":[],"max_tokens":1}'))
        answer = await client.answer(5)
    finally:
        client.close()
    return answer.status, answer.header("x-spillway-cluster"), answer.header("x-spillway-spill-reason")


async def until(predicate: Callable[[], bool]) -> float:
    """The seconds until `predicate` came true."""
    began_s = time.monotonic()
    while not predicate():
        assert time.monotonic() - began_s < WITHIN_S, "did not come true"
        await asyncio.sleep(0.02)
    return time.monotonic() - began_s


def metric(gateway: GatewayProcess, start: str) -> float:
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith(start)]
    (line,) = lines
    return float(line.split()[-1])


@pytest.mark.timeout(40)
async def test_new_requests_leave_a_backend_whose_health_fails_and_return(engines, tmp_path):
    gateway = start(engines, tmp_path, health=PROBED)
    with running(gateway):
        await until(lambda: (primary(gateway)["health"]["probe"] or {}).get("state") == "up")
        assert await asked(gateway) == (200, "primary", None)
        for failing in ({"status": 503}, {"hang": True}):
            engines[0].set_health(**failing)
            assert await until(lambda: not primary(gateway)["health"]["open"]) > 0.15, (
                "before the third probe"
            )
            assert await asked(gateway) == (200, "backup", "unhealthy")
            assert metric(gateway, 'spillway_cluster_ready_share{cluster="primary"}') == 0
            engines[0].set_health()
            await until(lambda: primary(gateway)["health"]["open"])
            assert await asked(gateway) == (200, "primary", None)
        engines[1].set_health(status=500)
        engines[0].set_health(status=500)
        await until(lambda: ready(gateway) == [0, 0])
        assert await asked(gateway) == (200, "backup", "panic"), "health paths may be wrong everywhere"
        assert gateway.stop() == 0


@pytest.mark.timeout(40)
async def test_a_backend_that_says_drain_gets_no_new_work(engines, tmp_path):
    gateway = start(engines, tmp_path, health=PROBED)
    with running(gateway):
        engines[0].set_health(body="drain")
        await until(lambda: not primary(gateway)["health"]["open"])
        assert await asked(gateway) == (200, "backup", "drained")
        engines[0].set_health(body="ready 50% maxconn:2")
        await until(lambda: primary(gateway)["limit"] == 2)
        assert await asked(gateway) == (200, "primary", None)
        assert primary(gateway)["health"]["advice"]["weight_share"] == 0.5


@pytest.mark.timeout(40)
async def test_completions_find_a_hung_engine_whose_health_is_green(engines, tmp_path):
    gateway = start(engines, tmp_path, health=SYNTHETIC)
    with running(gateway):
        await until(lambda: (primary(gateway)["health"]["synthetic"] or {}).get("state") == "up")
        engines[0].set_faults({"kind": "hang_before_head"})
        await until(lambda: not primary(gateway)["health"]["open"])
        health = primary(gateway)["health"]
        assert (health["probe"]["state"], health["synthetic"]["state"]) == ("up", "down")
        assert await asked(gateway) == (200, "backup", "unhealthy")
        engines[0].set_faults()
        await until(lambda: primary(gateway)["health"]["open"])
        assert await asked(gateway) == (200, "primary", None)


@pytest.mark.timeout(40)
async def test_engine_metrics_grow_old_and_never_stop_traffic(engines, tmp_path):
    gateway = start(engines, tmp_path, engine_metrics=READ)
    with running(gateway):
        engines[0].set_faults({"kind": "hang_before_head", "next": 3})
        direct = [await Client.connect(engines[0].port) for _ in range(3)]
        for client in direct:
            await client.send(post(b'{"model":"m","messages":[]}'))
        await until(lambda: (primary(gateway)["health"]["engine"] or {}).get("others") == 3)
        backend_id = primary(gateway)["id"]
        assert metric(gateway, f'spillway_engine_running{{backend="{backend_id}"') == 3
        for client in direct:
            client.close()
        await until(lambda: primary(gateway)["health"]["engine"]["others"] == 0)
        port = engines[0].port
        engines[0].kill()
        await until(lambda: primary(gateway)["health"]["engine"]["stale"])
        assert primary(gateway)["health"]["engine"]["age_s"] > 0.5
        assert primary(gateway)["health"]["open"], "a failing scrape takes nobody out"
        assert (await asked(gateway))[:2] == (200, "backup")
        with running(start_engine("--ttft", "1ms", "--tpot", "1ms", port=port)):
            await until(lambda: not primary(gateway)["health"]["engine"]["stale"])
            assert await asked(gateway) == (200, "primary", None)
