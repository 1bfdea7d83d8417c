"""The admin port on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fake_gateway import FakeGateway, Serve

from gateway.admin.one_gateway import OneGateway
from gateway.admin.ports import AdminSettings
from gateway.admin.server import AdminServer


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts the admin port; `serve(token="t")` sets a token."""
    servers: list[AdminServer] = []

    async def start(token: str | None = None, host: str = "127.0.0.1") -> FakeGateway:
        gateway = FakeGateway()
        server = AdminServer(AdminSettings(host, 0, token), OneGateway(gateway.ports()))
        await server.start()
        servers.append(server)
        gateway.port = server.port
        return gateway

    yield start
    for server in servers:
        await server.stop()
        await server.stop()
