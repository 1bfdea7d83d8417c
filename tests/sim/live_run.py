"""A live gateway and mock engines at real sockets, all in one loop whose time is virtual.

What goes over the sockets takes no time, so the run is a simulation of the real data plane: the same
arrivals in the simulator must give the same decisions, one by one.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from gateway.app import Gateway
from gateway.config.loading import parse
from gateway.config.schema import Config
from gateway.mock_engine.server import MockEngine
from gateway.mock_engine.settings import Settings
from gateway.ports import RequestRecord
from gateway.sim.arrivals import Arrival
from gateway.sim.exchange import BYTES_PER_TOKEN
from tests.proxy.conftest import _OWN_LINES, _Noting
from tests.proxy.dialogue import post
from tests.sim.recording import Recording, record_budget, recorded
from tests.virtual_loop import VirtualLoop

# Sums of powers of two, like all times here: two backends as fast as each other are so to the last bit, and
# the draw decides, live as simulated.
TTFT_S, TPOT_S = 0.125, 0.09375
# What the scenario of a simulation calls the same engine: the first token is one of those paid for.
SAME_ENGINE = "engine: {base: 0.03125s, per_output_token: 0.09375s}"
QUIET_S = 0.001

Meanwhile = Callable[[Gateway, list[MockEngine]], Awaitable[None]]


class LiveRun(NamedTuple):
    """`records` in the order of `arrivals`; `draws` likewise."""

    config: Config
    recording: Recording
    records: list[RequestRecord]
    draws: list[int]


def run_live(config: str, arrivals: Sequence[Arrival], meanwhile: Meanwhile | None = None) -> LiveRun:
    """`config` has {0}, {1} ... where the engines' addresses go. `meanwhile` runs beside the requests."""
    with pytest.MonkeyPatch.context() as patch, recorded() as recording:
        # Tokens that are nearly due are not given early: exactness counts more here.
        patch.setattr("gateway.mock_engine.serving.CLOCK_SLACK_S", 1e-9)
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(QUIET_S)) as runner:
            loop = runner.get_loop()
            patch.setattr("gateway.app.time", SimpleNamespace(monotonic=loop.time, time=time.time))
            patch.setattr("gateway.app.getrandbits", Random(5).getrandbits)
            return runner.run(_run(config, arrivals, recording, meanwhile))


async def _run(
    text: str, arrivals: Sequence[Arrival], recording: Recording, meanwhile: Meanwhile | None
) -> LiveRun:
    settings = Settings(ttft_s=TTFT_S, tpot_s=TPOT_S)
    async with AsyncExitStack() as stack:
        places = set(re.findall(r"\{\d\}", text))
        engines = [await stack.enter_async_context(MockEngine(settings)) for _ in places]
        config = parse(_OWN_LINES + text.format(*(engine.url for engine in engines)), "live.yaml", ".")
        gateway = Gateway(config)
        record_budget(gateway, recording)
        random, draws, records = Random(11), [], []
        gateway._plane.draw = lambda: draws.append(random.getrandbits(64)) or draws[-1]
        gateway._plane.telemetry = _Noting(gateway._plane.telemetry, records)
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        async with asyncio.TaskGroup() as group:
            for number, arrival in enumerate(arrivals):
                group.create_task(_ask(gateway.port, number, arrival))
            if meanwhile is not None:
                group.create_task(meanwhile(gateway, engines))
        await asyncio.sleep(0.5)
        records.sort(key=lambda record: int(record.request_id))
        return LiveRun(config, recording, records, draws)


async def _ask(port: int, number: int, arrival: Arrival) -> None:
    await asyncio.sleep(arrival.at_s - asyncio.get_running_loop().time())
    fields = {"model": arrival.model, "max_tokens": arrival.output_tokens, "stream": True, "prompt": ""}
    size = arrival.input_tokens * BYTES_PER_TOKEN
    fields["prompt"] = "x" * (size - len(json.dumps(fields)))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(fields).encode()
    lines = [f"x-request-id: {number}", "Connection: close"]
    if arrival.tenant is not None:
        lines.append(f"Authorization: Bearer {key_of(arrival.tenant)}")
    if arrival.residency is not None:
        lines.append(f"x-spillway-residency: {arrival.residency}")
    writer.write(post(body, *lines, path="/v1/completions"))
    try:
        await reader.read()
    except ConnectionResetError:
        pass
    finally:
        writer.close()


def key_of(tenant: str) -> str:
    """What a tenant shows at the data port."""
    return f"key-of-{tenant}"
