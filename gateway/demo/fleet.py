"""What the demo runs: three mock engines, each a cluster of its own, and a gateway in front of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from gateway.demo.children import Child, end

HOST = "127.0.0.1"
USUAL_PORT, USUAL_ADMIN_PORT = 8080, 9090
SLOTS = 8
TIME_PER_TOKEN = "50ms"  # with the mock engine's 16 tokens: about one second per answer


class DemoCluster(NamedTuple):
    name: str
    tier: str
    ttft: str


# The further down, the longer the way: what a spill costs shows in the time to the first token.
CLUSTERS = (
    DemoCluster("here", "primary", "150ms"),
    DemoCluster("there", "backup", "250ms"),
    DemoCluster("spot", "spot", "400ms"),
)


class DemoFleet(NamedTuple):
    """All of it, running."""

    children: tuple[Child, ...]
    port: int
    admin_port: int

    def check(self) -> None:
        """Raises ChildFailed when a process has ended."""
        for child in self.children:
            child.check()


class PortTaken(Exception):
    """The port that was asked for is in use."""


@contextlib.asynccontextmanager
async def running(directory: Path, asked_port: int | None) -> AsyncIterator[DemoFleet]:
    """Starts the fleet, and ends it when the block ends. Raises ChildFailed and PortTaken."""
    if asked_port and not _is_free(asked_port):
        raise PortTaken(f"port {asked_port} is in use")
    children: list[Child] = []
    try:
        for cluster in CLUSTERS:
            children.append(Child(f"mock engine {cluster.name}", _engine(cluster), directory))
        ports = [int((await child.ready(r" on http://\S+:(\d+)"))[1]) for child in children]
        config = directory / "spillway.yaml"
        config.write_text(_config(ports, asked_port), encoding="utf-8")
        gateway = Child("gateway", ("-m", "gateway.cli", "serve", "-c", str(config)), directory)
        children.append(gateway)
        ready = await gateway.ready(r"ready on port (\d+), admin on port (\d+)")
        yield DemoFleet(tuple(children), int(ready[1]), int(ready[2]))
    finally:
        await end(reversed(children))


def _engine(cluster: DemoCluster) -> tuple[str, ...]:
    timing = ("--ttft", cluster.ttft, "--tpot", TIME_PER_TOKEN)
    return ("-m", "gateway.mock_engine", "--name", cluster.name, "--model", "demo", *timing)


def _config(engine_ports: list[int], asked_port: int | None) -> str:
    """The smallest useful configuration, and what a demo needs beside it."""
    port = asked_port if asked_port is not None else _free_or_any(USUAL_PORT)
    # Any data port means any admin port too: several demos may start in one moment.
    admin_port = _free_or_any(USUAL_ADMIN_PORT) if port not in (0, USUAL_ADMIN_PORT) else 0
    lines = [
        f"listen: {HOST}:{port}",
        f"admin: {{listen: {HOST}:{admin_port}}}",
        'access_log: "off"',
        "drain_timeout: 1s",
        "clusters:",
    ]
    for cluster, engine_port in zip(CLUSTERS, engine_ports, strict=True):
        backends = f"[http://{HOST}:{engine_port}]"
        lines.append(
            f"  - {{name: {cluster.name}, tier: {cluster.tier}, limit: {SLOTS}, backends: {backends}}}"
        )
    return "\n".join(lines) + "\n"


def _free_or_any(port: int) -> int:
    """`port` when nobody listens there, else 0: the system chooses."""
    return port if _is_free(port) else 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
