"""A backend is killed under load: whoever had no byte yet notices nothing, and traffic returns with it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import NamedTuple

import pytest

from tests.proxy.dialogue import Client, post, settled
from tests.proxy.processes import running, start_engine, start_gateway_process, tiers

RATE = 50
ENGINE = ("--ttft", "30ms", "--tpot", "5ms")


class Told(NamedTuple):
    """What one client was told. `had_bytes`: the head had come before the end."""

    at_s: float
    status: int
    cluster: str | None
    is_whole: bool
    had_bytes: bool


class Load:
    """Sends RATE requests a second, every other one a stream, and keeps what each was told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self.told: list[Told] = []

    async def run(self, seconds: float) -> None:
        for number in range(int(seconds * RATE)):
            self._tasks.append(self._loop.create_task(self._ask(is_stream=number % 2 == 0)))
            await asyncio.sleep(1 / RATE)

    async def finish(self) -> None:
        await asyncio.gather(*self._tasks)

    async def _ask(self, is_stream: bool) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
        client = await Client.connect(self._port)
        try:
            await client.send(post(json.dumps(body | {"stream": is_stream, "ignore_eos": True}).encode()))
            answer = await client.answer(10)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.told.append(Told(self._loop.time(), 0, None, False, False))
            return
        finally:
            client.close()
        is_whole = answer.is_whole and (not is_stream or answer.body.endswith(b"data: [DONE]\n\n"))
        cluster = answer.header("x-spillway-cluster")
        self.told.append(Told(self._loop.time(), answer.status, cluster, is_whole, bool(answer.body)))

    def since(self, at_s: float) -> Counter[str | None]:
        return Counter(told.cluster for told in self.told if told.at_s >= at_s)


@pytest.mark.timeout(40)
async def test_kill_9_of_the_primary_costs_only_answers_that_had_begun(tmp_path):
    primary, backup = start_engine(*ENGINE), start_engine(*ENGINE)
    gateway = start_gateway_process(tiers(primary, backup, limit=64), tmp_path)
    with running(gateway, backup, primary):
        load = Load(gateway.port)
        await load.run(1.0)
        assert set(load.since(0)) == {"primary"}
        primary.kill()
        await load.run(1.5)
        reborn = start_engine(*ENGINE, port=primary.port)
        with running(reborn):
            returned_s = asyncio.get_running_loop().time()
            # Its circuit is open: a probe at 1 s may have come too early, the next comes 2 s later.
            await load.run(4.0)
            await load.finish()
            broken = [told for told in load.told if told.status != 200 or not told.is_whole]
            assert all(told.had_bytes for told in broken), "an error without a byte: it could have moved on"
            assert len(broken) <= 16, "more than can have been streaming at once"
            assert load.since(0)["backup"] > RATE
            assert await settled(lambda: load.since(returned_s)["primary"] > 0)
            assert reborn.counter("requests_total") > 0
            assert gateway.fleet()["in_flight"] == 0
