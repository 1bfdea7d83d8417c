"""A backend's name that leads to an address at which no backend may be."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest

from gateway.config import refused_hosts
from tests.proxy.dialogue import get, post


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
