"""Backends join and leave by reloads of the file, a minute long, under load: no request may notice."""

from __future__ import annotations

import asyncio
import random
import re
import urllib.request
from pathlib import Path

import pytest

from tests.chaos.fleet import CountingBackend
from tests.chaos.open_loop import Load, fleet_page
from tests.proxy.processes import GatewayProcess, running, start_gateway_process

BACKENDS = 10
RATE = 200.0
RELOADS, RELOADS_EVERY_S, MIN_CHANGES = 50, 1.2, 200
# What a small heap may still take once it has been used; a leak of one backend's state each is far more.
MAX_GROWTH_KIB = 4096


def config_of(ports: list[int]) -> str:
    urls = ", ".join(f"'http://127.0.0.1:{port}'" for port in ports)
    return f"clusters: [{{name: primary, limit: 200, backends: [{urls}]}}]\n"


def memory_kib(gateway: GatewayProcess) -> int:
    status = Path(f"/proc/{gateway.child.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+)", status)
    assert match is not None
    return int(match[1])


def reload(gateway: GatewayProcess) -> None:
    request = urllib.request.Request(f"{gateway.admin_url}/api/v1/reload", method="POST")
    urllib.request.urlopen(request, timeout=5).close()


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_fifty_reloads_and_two_hundred_changes_cost_no_request(tmp_path: Path) -> None:
    draw = random.Random(7)
    backend = CountingBackend.start(BACKENDS)
    ports = [backend.port, *backend.other_ports]
    gateway = start_gateway_process("watch: false\n" + config_of(ports), tmp_path)
    file = tmp_path / "spillway.yaml"
    own_lines = file.read_text().removesuffix(config_of(ports))
    there, changes, before_kib = set(ports), 0, 0
    with running(gateway, backend):
        async with Load(gateway.port, RATE) as load:
            for count in range(RELOADS):
                await asyncio.sleep(RELOADS_EVERY_S)
                new = set(draw.sample(ports, draw.randint(2, BACKENDS - 2)))
                changes += len(new ^ there)
                there = new
                file.write_text(own_lines + config_of(sorted(there)))
                await asyncio.to_thread(reload, gateway)
                if count == RELOADS // 5:
                    before_kib = memory_kib(gateway)
        assert changes >= MIN_CHANGES
        assert not load.bad and len(load.told) > RATE * RELOADS * RELOADS_EVERY_S * 0.9
        async with fleet_page(gateway) as page:
            left = await page.backends()
        assert {one["in_flight"] for one in left} == {0} and len(left) == len(there)
        assert all(backend.counts(place)["in_flight"] == 0 for place in range(BACKENDS))
        assert memory_kib(gateway) - before_kib < MAX_GROWTH_KIB
