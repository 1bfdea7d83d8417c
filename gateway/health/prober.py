"""Probes: is somebody there (TCP), and does it say that it is well (HTTP)?"""

from __future__ import annotations

import asyncio

from gateway.config.refused_names import RefusedNames
from gateway.config.schema_health import HealthConfig
from gateway.core.health import NO_ADVICE, ProbeReported, read_agent_words
from gateway.core.model import Reason
from gateway.health.client import Ask, AskFailed, HealthClient
from gateway.health.targets import Target

# A health page that is longer still passes, but what it says is not looked at.
MAX_BODY_BYTES = 64 * 1024


async def probe(client: HealthClient, target: Target, health: HealthConfig) -> ProbeReported:
    """One probe: never raises for anything that a backend may do."""
    try:
        if health.tcp:
            await _connect(client.names, target, health)
            return _passed(target)
        return await _ask(client, target, health)
    except AskFailed as failed:
        return ProbeReported(target.backend_id, False, failed.reason.value)


async def _ask(client: HealthClient, target: Target, health: HealthConfig) -> ProbeReported:
    body = bytearray()

    def take(part: bytes) -> bool:
        body.extend(part)
        return len(body) <= MAX_BODY_BYTES

    ask = Ask(health.path, _deadline_s(health), target.connect_s)
    status = await client.ask(target.endpoint, ask, take)
    if not 200 <= status < 300:
        return ProbeReported(target.backend_id, False, f"status_{status}")
    if not health.agent or len(body) > MAX_BODY_BYTES:
        return _passed(target)
    advice = read_agent_words(body.decode("ascii", "replace"))
    return _passed(target)._replace(advice=advice)


async def _connect(names: RefusedNames, target: Target, health: HealthConfig) -> None:
    """Raises AskFailed."""
    endpoint = target.endpoint
    try:
        async with asyncio.timeout(min(target.connect_s, _deadline_s(health))):
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, endpoint.host, endpoint.port
            )
    except TimeoutError as exc:
        raise AskFailed(Reason.CONNECT_TIMEOUT) from exc
    except OSError as exc:
        raise AskFailed(Reason.CONNECT_FAILED) from exc
    transport.close()
    if (reason := endpoint.why_not_with(transport.get_extra_info("peername"))) is not None:
        names.refused(endpoint.backend_id, reason)
        raise AskFailed(Reason.CONNECT_FAILED)
    names.good(endpoint.backend_id)


def _passed(target: Target) -> ProbeReported:
    return ProbeReported(target.backend_id, True, Reason.COMPLETED.value, NO_ADVICE)


def _deadline_s(health: HealthConfig) -> float:
    return min(health.timeout_s, health.interval_s)
