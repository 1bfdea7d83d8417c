"""The same gateway, backends and clients as the data plane's stories."""

from collections.abc import Awaitable, Callable

import pytest

from tests.proxy.conftest import (  # noqa: F401
    Running,
    backends,
    pytest_asyncio_loop_factories,
    start_backend,
    start_gateway,
)
from tests.proxy.dialogue import ScriptedBackend
from tests.security.judging import Fleet
from tests.security.poison import CALM


@pytest.fixture
async def fleet(
    start_backend: Callable[..., Awaitable[ScriptedBackend]],  # noqa: F811
    start_gateway: Callable[..., Awaitable[Running]],  # noqa: F811
) -> Fleet:
    """One gateway with one backend, for any number of cases. What does not end is refused soon."""
    backend = await start_backend()
    deadlines = "timeouts: {request_head: 500ms, request_body: 500ms}"
    return Fleet(await start_gateway(deadlines, backend, limit=1000), backend)


@pytest.fixture
async def pair(
    start_backend: Callable[..., Awaitable[ScriptedBackend]],  # noqa: F811
    start_gateway: Callable[..., Awaitable[Running]],  # noqa: F811
) -> tuple[Running, ScriptedBackend]:
    """A gateway that takes no offence at what its backend sends, and that backend."""
    backend = await start_backend()
    return await start_gateway(CALM + "timeouts: {first_byte: 2s, stall: 1s}", backend, limit=1000), backend
