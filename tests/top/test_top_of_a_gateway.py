"""`spillway top` of a gateway that serves, end to end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.app import Gateway
from gateway.config.loading import parse

CONFIG = """
listen: 127.0.0.1:0
admin: {listen: '127.0.0.1:0'}
access_log: 'off'
clusters:
  - {name: here, limit: 4, backends: ['http://127.0.0.1:9', 'http://127.0.0.1:10']}
  - {name: cheap, tier: spot, limit: 8, backends: ['http://127.0.0.1:11']}
"""


async def test_a_snapshot_of_a_running_gateway(tmp_path: Path) -> None:
    gateway = Gateway(parse(CONFIG, "top.yaml", tmp_path))
    await gateway.start()
    try:
        top = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "top", "--once", "--interval", "100ms",
            "--admin", f"http://127.0.0.1:{gateway.admin_port}", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        shown, _ = await top.communicate()
    finally:
        await gateway.stop()
    assert top.returncode == 0, shown
    lines = [line.split() for line in shown.decode().splitlines()]
    assert [line[:2] for line in lines[1:8]] == [
        ["primary", "ok"],
        ["here", "ok"],
        ["127.0.0.1:9", "ok"],
        ["127.0.0.1:10", "ok"],
        ["backup", "empty"],
        ["spot", "ok"],
        ["cheap", "ok"],
    ]
    assert shown.decode().splitlines()[2].split()[-5:-2] == ["8", "0.0", "0.0"]  # room, per s, failed/s
