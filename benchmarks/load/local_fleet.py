"""The whole fleet on this machine: one Redis, three mock engines as tiers, gateways with access logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.fleet import Launching, Member
from tests.proxy.processes import Engine, start_engine, tiers
from tests.redis_server import running_redis

TIERS = ("primary", "backup", "spot")


@dataclass(frozen=True)
class Engines:
    """One per tier. The further down, the longer until the first token, so that a spill shows in TTFT."""

    ttft_ms: tuple[int, int, int] = (120, 160, 200)
    tpot_ms: int = 45
    limit: int = 16


@dataclass(frozen=True)
class LocalFleet:
    engines: tuple[Engine, ...]
    gateways: tuple[Member, ...]
    access_logs: tuple[Path, ...]
    limits: dict[str, int]

    @property
    def admin_ports(self) -> list[int]:
        return [gateway.other_ports[0] for gateway in self.gateways]

    @property
    def engine_ports(self) -> dict[str, int]:
        return {tier: engine.port for tier, engine in zip(TIERS, self.engines, strict=True)}


@contextmanager
def running_local_fleet(folder: Path, spec: Engines, gateways: int) -> Iterator[LocalFleet]:
    """All of it, ready; all of it ended when the block ends. Raises AssertionError when something fails."""
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis(folder / "redis"))
        engines = []
        for tier, ttft_ms in zip(TIERS, spec.ttft_ms, strict=True):
            timing = ("--ttft", f"{ttft_ms}ms", "--tpot", f"{spec.tpot_ms}ms")
            engines.append(start_engine("--name", tier, *timing))
            stack.callback(engines[-1].stop)
        text = tiers(*engines, limit=spec.limit, state=f"{{url: 'unix://{redis.socket}'}}")
        logs = tuple(folder / f"gateway-{number}-access.log" for number in range(1, gateways + 1))
        launched = [Launching(text, log.with_suffix(""), access_log=str(log)) for log in logs]
        for one in launched:
            stack.callback(one.stop)
        members = tuple(one.ready() for one in launched)
        yield LocalFleet(tuple(engines), members, logs, dict.fromkeys(TIERS, spec.limit))
