"""A fleet whose backends are asked, and scripted backends as the data plane's tests have them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.health.client import HealthClient
from tests.health.asking import Asked
from tests.proxy.conftest import (  # noqa: F401
    backends,
    deaf_port,
    pytest_asyncio_loop_factories,
    start_backend,
)


@pytest.fixture
async def client() -> AsyncIterator[HealthClient]:
    made = HealthClient()
    yield made
    await made.close()


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    made = Asked()
    yield made
    await made.checks.stop()
    await made.checks.stop()
