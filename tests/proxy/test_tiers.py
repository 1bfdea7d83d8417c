"""The reason for all this, with real processes: full means the next tier, and back at once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from collections import Counter
from typing import Any

import pytest

from tests.proxy.dialogue import Answer, Client, post, settled
from tests.proxy.processes import running, start_engine, start_gateway_process, tiers

LIMIT = 4


def wanted(tokens: int, stream: bool = False) -> bytes:
    return post(
        json.dumps({
            "model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens,
            "stream": stream, "ignore_eos": True,
        }).encode()
    )  # fmt: skip


async def ask(gateway, request: bytes, within_s: float = 10.0) -> Answer:
    client = await Client.connect(gateway.port)
    await client.send(request)
    answer = await client.answer(within_s)
    client.close()
    return answer


@pytest.fixture
def fleet(tmp_path):
    """A gateway before three engines that take two seconds for each request."""
    engines = [start_engine("--ttft", "2s", "--tpot", "0") for _ in range(3)]
    gateway = start_gateway_process(tiers(*engines, limit=LIMIT), tmp_path)
    with running(gateway, *engines):
        yield gateway, engines


async def test_twelve_requests_fill_three_tiers_and_the_thirteenth_is_told_when(fleet):
    gateway, engines = fleet
    twelve = [asyncio.ensure_future(ask(gateway, wanted(1, n % 2 == 0))) for n in range(3 * LIMIT)]
    assert await settled(lambda: sum(engine.counter("in_flight") for engine in engines) == 3 * LIMIT)
    refused = await ask(gateway, wanted(1))
    assert (refused.status, refused.error["code"]) == (429, "no_capacity")
    assert int(refused.header("retry-after") or 0) >= 1
    assert int(refused.header("retry-after-ms") or 0) > 0

    answers = await asyncio.gather(*twelve)
    assert {answer.status for answer in answers} == {200}
    served = Counter(answer.header("x-spillway-cluster") for answer in answers)
    assert served == {"primary": LIMIT, "backup": LIMIT, "spot": LIMIT}
    reasons = {
        (answer.header("x-spillway-tier"), answer.header("x-spillway-spill-reason")) for answer in answers
    }
    assert reasons == {("primary", None), ("backup", "full"), ("spot", "full")}
    assert [engine.counter("peak_in_flight") for engine in engines] == [LIMIT] * 3
    assert [engine.counter("requests_total") for engine in engines] == [LIMIT] * 3

    after = await ask(gateway, wanted(1))
    assert after.header("x-spillway-cluster") == "primary"


@pytest.fixture
def quick_fleet(tmp_path):
    engines = [start_engine("--ttft", "0", "--tpot", "20ms") for _ in range(2)]
    gateway = start_gateway_process(tiers(*engines, limit=LIMIT), tmp_path)
    with running(gateway, *engines):
        yield gateway, engines


def tell_admin(gateway, name: str, verb: str) -> Any:
    url = f"{gateway.admin_url}/api/v1/clusters/{name}/{verb}"
    request = urllib.request.Request(url, b"{}", {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


async def test_a_drained_primary_sends_new_work_to_the_backup_and_finishes_its_own(quick_fleet):
    gateway, (primary, _) = quick_fleet
    running_one = asyncio.ensure_future(ask(gateway, wanted(100, stream=True)))
    assert await settled(lambda: primary.counter("in_flight") == 1, 5.0)
    assert tell_admin(gateway, "primary", "drain")["in_flight"] == 1
    answer = await ask(gateway, wanted(1))
    assert (answer.header("x-spillway-cluster"), answer.header("x-spillway-spill-reason")) == (
        "backup",
        "drained",
    )
    finished = await running_one
    assert finished.is_whole and finished.header("x-spillway-cluster") == "primary"
    assert finished.body.endswith(b"data: [DONE]\n\n")
    tell_admin(gateway, "primary", "undrain")
    assert (await ask(gateway, wanted(1))).header("x-spillway-cluster") == "primary"


async def test_sigterm_lets_a_running_stream_finish_and_exits_with_0(quick_fleet):
    gateway, _ = quick_fleet
    idle, client = await Client.connect(gateway.port), await Client.connect(gateway.port)
    await idle.send(wanted(1))
    assert (await idle.answer()).status == 200
    await client.send(wanted(25, stream=True))
    await client.head()
    gateway.child.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    assert await idle.rest() == b""
    with pytest.raises(OSError):
        await Client.connect(gateway.port)
    received = b""
    while data := await client.chunk():
        received += data
    assert received.endswith(b"data: [DONE]\n\n")
    assert gateway.stop() == 0
    assert 0.2 < time.monotonic() - began_s < 3
    for each in (idle, client):
        each.close()
