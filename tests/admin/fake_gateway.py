"""A fleet, a fake gateway around it, and a client that chooses every header."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.admin.ports import AdminPorts, GatewayState, GatewayStatus
from gateway.core.admission import KeyRules
from gateway.core.fleet import Event, Fleet, FleetConfigured
from gateway.core.model import Backend, Cluster

ONE, TWO, SPOT = "here@10.0.0.1:8000", "here@10.0.0.2:8000/engine", "cheap@10.0.1.1:8000"


READY = GatewayStatus(GatewayState.READY, 2, {"store": "memory"})


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code; every error has all four fields and nothing else."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


@dataclass
class FakeGateway:
    """What app.py is in real life. `now_s` is the clock."""

    now_s: float = 1000.0
    status: GatewayStatus = READY
    drains: int = 0
    drain_asked: asyncio.Event = field(default_factory=asyncio.Event)
    drained: asyncio.Future[bool] | None = None
    fleet: Fleet = field(default_factory=Fleet)
    keys: dict[str, KeyRules] = field(default_factory=dict)
    port: int = 0
    source: str = "127.0.0.1"

    def __post_init__(self) -> None:
        one = Backend(ONE, "http://user:secret@10.0.0.1:8000", 4, weight=2.0)
        here = Cluster("here", "primary", (one, Backend(TWO, "http://10.0.0.2:8000/engine", 4)))
        cheap = Cluster("cheap", "spot", (Backend(SPOT, "http://10.0.1.1:8000", 8),))
        self.fleet.apply(FleetConfigured((cheap, here), ("primary", "spot")), self.now_s)

    def apply(self, event: Event) -> None:
        self.fleet.apply(event, self.now_s)

    async def drain(self) -> bool:
        self.drains += 1
        self.drain_asked.set()
        return True if self.drained is None else await self.drained

    def render_metrics(self, as_openmetrics: bool) -> tuple[Iterable[bytes], str]:
        if as_openmetrics:
            return [b"# EOF\n"], "application/openmetrics-text; version=1.0.0"
        return [b"a 1\n", b"b 2\n"], "text/plain"

    def ports(self) -> AdminPorts:
        return AdminPorts(
            view=self.fleet.view,
            apply=self.apply,
            status=lambda: self.status,
            drain=self.drain,
            render_metrics=self.render_metrics,
            clock=lambda: self.now_s,
            key_rules=lambda: self.keys,
        )

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One exchange, by hand: the tests choose every header, `Host` too."""
        shown = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", "Content-Length": str(len(body))}
        shown |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in shown.items())
        source = (self.source, 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=source)
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        raw = await reader.read()
        writer.close()
        return _answer(raw)


def _answer(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), headers, body)


Serve = Callable[..., Awaitable[FakeGateway]]
