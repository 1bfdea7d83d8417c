"""A backend's name that leads to an address at which no backend may be: no request, no probe goes there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from gateway.app import Gateway
from gateway.config import refused_hosts
from gateway.config.loading import load_whole
from gateway.config.refused_names import MAX_TOLD, RefusedNames
from gateway.health import resolving
from tests.discovery.dns_double import DnsDouble
from tests.proxy.conftest import Running
from tests.proxy.dialogue import get, post, settled


@pytest.fixture
def loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 169.254.169.254 is elsewhere: nothing there can be listened on in a test."""
    monkeypatch.setattr(refused_hosts, "_METADATA", frozenset({ip_address("127.0.0.1")}))


def fleet(port: int) -> str:
    return f"clusters: [{{name: a, limit: 8, backends: ['http://localhost:{port}']}}]"


async def test_not_a_byte_is_sent_there(loopback_is_refused, start_backend, start_gateway, caplog):
    backend = await start_backend()
    gateway = await start_gateway(fleet(backend.port), good_request=get("/v1/models"))
    with caplog.at_level(logging.WARNING):
        answer = await gateway.ask(post())
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert "leads to 127.0.0.1, the address of a cloud's metadata service" in caplog.text
    assert b"127.0.0.1" not in answer.body
    assert backend.received_bytes == 0


async def test_unless_it_is_allowed(loopback_is_refused, start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("allow_backends_in: [127.0.0.0/8]", fleet(backend.port))
    assert (await gateway.ask(post())).status == 200


ASKS = "health: {interval: 30ms, timeout: 30ms, %s}, engine_metrics: {interval: 30ms, timeout: 30ms}"
PROBES = {
    "http": "path: /health",
    "tcp": "tcp: true",
    "completions": "path: /health, synthetic: {interval: 100ms, timeout: 100ms, model: m}",
}


def asked(port: int, probe: str) -> str:
    keys = f"limit: 8, backends: ['http://localhost:{port}'], {ASKS % PROBES[probe]}"
    return f"clusters: [{{name: a, {keys}}}]"


def state(gateway):
    (backend,) = gateway.gateway._fleet.view.backends.values()
    return backend


@pytest.mark.parametrize("probe", PROBES)
async def test_nobody_asks_after_its_health_there(
    loopback_is_refused, start_backend, start_gateway, caplog, probe
):
    backend = await start_backend()
    gateway = await start_gateway(asked(backend.port, probe), good_request=get("/v1/models"))
    with caplog.at_level(logging.WARNING):
        assert await settled(lambda: not state(gateway).health.is_open)
        await asyncio.sleep(0.15)
    assert "127.0.0.1, the address of a cloud's metadata service" in caplog.text
    assert backend.received_bytes == 0 and not backend.requests


def warnings_of(caplog, backend) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    return [line for line in said if str(backend.port) in line and "its name leads" in line]


@pytest.mark.parametrize("probe", ["http", "tcp"])
async def test_it_is_said_once_and_again_when_it_changes(
    monkeypatch, start_backend, start_gateway, caplog, probe
):
    backend = await start_backend()
    gateway = await start_gateway(asked(backend.port, probe), good_request=get("/v1/models"))

    def lead(*refused: str) -> None:
        monkeypatch.setattr(refused_hosts, "_METADATA", frozenset(map(ip_address, refused)))

    with caplog.at_level(logging.WARNING):
        for number in (1, 2):
            lead("127.0.0.1")
            assert await settled(lambda: not state(gateway).health.is_open)
            await asyncio.sleep(0.15)  # five probes, and as many looks at the metrics
            said = warnings_of(caplog, backend)
            lead()
            assert await settled(lambda: state(gateway).health.is_open)
            assert len(said) == 2 * number - 1, said
            assert await settled(lambda n=number: len(warnings_of(caplog, backend)) == 2 * n)
            assert warnings_of(caplog, backend)[-1].endswith("may be again")


async def test_requests_that_find_it_refused_say_so_once(
    loopback_is_refused, start_backend, start_gateway, caplog
):
    backend = await start_backend()
    gateway = await start_gateway(fleet(backend.port), good_request=get("/v1/models"))
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert (await gateway.ask(post())).status == 502
    assert len(warnings_of(caplog, backend)) == 1


def test_a_name_that_leads_elsewhere_each_time_is_not_told_for_ever(caplog):
    names = RefusedNames()
    for number in range(50):
        names.refused("a@x:1", f"169.254.0.{number}, a link-local address")
        names.refused("b@y:1", "169.254.0.1, a link-local address")
    assert sum("a@x:1" in record.getMessage() for record in caplog.records) == MAX_TOLD
    assert sum("b@y:1" in record.getMessage() for record in caplog.records) == 1
    names.forget_all_but({"a@x:1"})
    names.good("a@x:1")
    names.good("b@y:1")
    assert [record.getMessage() for record in caplog.records[MAX_TOLD + 1 :]] == [
        "a@x:1: its name leads to where a backend may be again"
    ]


@pytest.mark.parametrize("probe", PROBES)
async def test_unless_that_is_allowed(loopback_is_refused, start_backend, start_gateway, probe):
    backend = await start_backend()
    gateway = await start_gateway("allow_backends_in: [127.0.0.0/8]", asked(backend.port, probe))
    assert await settled(lambda: bool(backend.requests))
    assert state(gateway).health.is_open


@pytest.fixture
async def dns() -> AsyncIterator[DnsDouble]:
    double = DnsDouble()
    await double.start()
    yield double
    await double.stop()


@pytest.mark.parametrize("source", ["srv", "file"])
async def test_a_name_that_was_discovered_is_looked_at_when_it_is_connected_to(
    loopback_is_refused, start_backend, dns, tmp_path, source
):
    """A target of SRV and a name in a file stay names: where they lead is known only then."""
    backend = await start_backend()
    dns.say("_http._tcp.vllm.internal", "SRV", f"0 0 {backend.port} localhost.")
    (tmp_path / "backends").write_text(f"- http://localhost:{backend.port}\n")
    how = {
        "srv": f"dns: {{name: _http._tcp.vllm.internal, record: srv, servers: ['{dns.address}']}}",
        "file": "file: backends",
    }[source]
    cluster = f"clusters: [{{name: a, limit: 8, discovery: {{{how}}}, {ASKS % PROBES['http']}}}]"
    own = "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\naccess_log: 'off'\n"
    (tmp_path / "spillway.yaml").write_text(own + cluster)
    file = load_whole(tmp_path / "spillway.yaml", {})
    gateway = Running(Gateway(file.config, file=file), post())
    try:
        await gateway.gateway.start()
        assert await settled(lambda: bool(gateway.gateway._fleet.view.backends))
        assert state(gateway).backend.id == f"a@localhost:{backend.port}"
        assert (await gateway.ask(post())).status in (502, 503)
        assert await settled(lambda: not state(gateway).health.is_open)
        assert backend.received_bytes == 0
    finally:
        await gateway.stop()


async def test_of_several_addresses_the_good_ones_are_left(monkeypatch, start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(fleet(backend.port))
    (pool,) = gateway.plane.pools.values()
    resolving.asked_endpoint.set(pool.endpoint)
    resolver = resolving.BackendResolver(RefusedNames())

    async def resolve(*_):
        return [{"host": host} for host in ("169.254.169.254", "192.0.2.1", "::ffff:169.254.169.254")]

    monkeypatch.setattr(resolver._system, "resolve", resolve)
    assert [each["host"] for each in await resolver.resolve("x")] == ["192.0.2.1"]
    await resolver.close()
