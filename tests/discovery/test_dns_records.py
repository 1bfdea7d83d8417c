"""Records of a real name server, on UDP and TCP."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import dns.rcode
import pytest

from gateway.config.schema_discovery import DnsConfig
from gateway.discovery import dns_records
from gateway.discovery.dns_records import DnsSource
from tests.discovery.dns_double import DnsDouble
from tests.discovery.telling import AROUND, Told, following, until

A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


@pytest.fixture
async def server() -> AsyncIterator[DnsDouble]:
    double = DnsDouble()
    await double.start()
    yield double
    await double.stop()


def asking(
    server: DnsDouble, unknown_for_s: float = 30.0, **settings: Any
) -> AbstractAsyncContextManager[Told]:
    given = {"name": "vllm.internal", "record": "a", "port": 8000, "servers": (server.address,), **settings}
    source = DnsSource(DnsConfig(**given), AROUND, min_ttl_s=0.02, unknown_for_s=unknown_for_s)
    return following(source)


async def test_addresses_come_and_go_with_the_ttl(server: DnsDouble) -> None:
    server.say("vllm.internal", "A", "10.0.0.2", "10.0.0.1")
    async with asking(server) as told:
        await told.has(A, B)
        server.say("vllm.internal", "A", "10.0.0.2")
        await told.has(B)
        server.records.clear()  # NODATA: the name is there, and has no address
        found = await told.has()
        assert (found.expected, found.server_name, told.failures) == (None, None, [])


async def test_the_ttl_of_the_whole_chain_counts_within_bounds(server: DnsDouble) -> None:
    server.aliases["vllm.internal"] = "pods.internal"
    server.say("pods.internal", "A", "10.0.0.1")
    config = DnsConfig(name="vllm.internal", port=8000, servers=(server.address,))
    source = DnsSource(config, AROUND)
    for ttl_s, pause_s in ((0, 1.0), (7, 7.0), (86400, 60.0)):
        server.ttl_s = ttl_s
        answer = await source._ask(dns_records._resolver(config))
        assert source._ttl_s(answer) == pause_s
    server.records.clear()
    assert source._ttl_s(await source._ask(dns_records._resolver(config))) == 60.0


async def test_ipv6_https_and_a_prefix(server: DnsDouble) -> None:
    server.say("vllm.internal", "AAAA", "fd00::1")
    async with asking(server, record="aaaa", scheme="https", prefix="/engine", name="vllm.internal.") as told:
        found = await told.has("https://[fd00::1]:8000/engine")
        assert found.server_name == "vllm.internal"


async def test_srv_records_of_the_first_priority_with_their_weights(server: DnsDouble) -> None:
    server.say(
        "_http._tcp.vllm.internal",
        "SRV",
        "10 60 8000 a.internal.",
        "10 20 8001 b.internal.",
        "10 0 8002 c.internal.",
        "20 99 8003 spare.internal.",
        "10 5 0 no-port.internal.",
    )
    async with asking(server, name="_http._tcp.vllm.internal", record="srv", port=None) as told:
        found = await told.has("http://a.internal:8000", "http://b.internal:8001", "http://c.internal:8002")
        assert {b.url.port: b.weight for b in found.backends} == {8000: 60.0, 8001: 20.0, 8002: 0.1}
        server.say("_http._tcp.vllm.internal", "SRV", "1 0 8000 a.internal.", "1 0 8001 b.internal.")
        await told.has("http://a.internal:8000", "http://b.internal:8001")
        assert {b.weight for b in told.answers[-1].backends} == {1.0}
        server.say("_http._tcp.vllm.internal", "SRV", "0 0 0 .")  # decidedly not available
        await told.has()
        server.say("_http._tcp.vllm.internal", "SRV", r"0 0 80 a\ b.internal.")
        await until(lambda: server.asked > 5)
        await told.has()


async def test_more_than_fits_into_a_datagram_comes_by_tcp(server: DnsDouble) -> None:
    server.is_truncated = True
    addresses = [f"10.0.1.{number}" for number in range(200)]
    server.say("vllm.internal", "A", *addresses)
    async with asking(server) as told:
        await told.has(*(f"http://{address}:8000" for address in addresses))


async def test_a_server_that_fails_takes_nothing_away(server: DnsDouble) -> None:
    server.say("vllm.internal", "A", "10.0.0.1")
    async with asking(server) as told:
        await told.has(A)
        server.rcode = dns.rcode.SERVFAIL
        await told.fails("no good answer for vllm.internal", times=2)
        server.rcode = dns.rcode.NOERROR
        answers = len(told.answers)
        await until(lambda: len(told.answers) > answers)
        assert told.urls == [A]


async def test_a_server_that_is_silent_takes_nothing_away(
    server: DnsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_records, "ASK_S", 0.1)
    server.is_silent = True
    async with asking(server) as told:
        await told.fails("no name server answers in 0.1 s")
        assert told.answers == []


async def test_an_unknown_name_is_believed_after_a_while(server: DnsDouble) -> None:
    server.say("vllm.internal", "A", "10.0.0.1")
    async with asking(server, unknown_for_s=0.2) as told:
        await told.has(A)
        server.rcode = dns.rcode.NXDOMAIN
        server.records.clear()
        await told.fails("vllm.internal is unknown (NXDOMAIN)", times=2)
        assert told.urls == [A]
        await told.has()
        server.rcode = dns.rcode.NOERROR
        server.say("vllm.internal", "A", "10.0.0.1")
        await told.has(A)


async def test_without_dnspython_it_says_what_to_install(
    server: DnsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_import = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name.startswith("dns."):
            raise ImportError(name)
        return really_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    async with asking(server) as told:
        await told.fails("pip install 'spillway[dns]'")
