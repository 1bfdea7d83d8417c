"""Every StateStore adapter: one that joins adds a factory here and passes the same tests unchanged."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest

from gateway.ports import StateStore
from gateway.state.keys import Keys
from gateway.state.memory import MemoryStore
from gateway.state.redis import RedisLink
from gateway.state.shared import Company, SharedStore
from tests.redis_server import RedisServer


def lonely_company() -> Company:
    """Nobody listens: what the fleet says of drains and latencies has tests of its own."""
    return Company(
        clock=time.monotonic,
        draw=random.random,
        apply=lambda event: None,
        latencies=dict,
        observe_exchange=lambda seconds, went_well: None,
    )


def memory_store(server: RedisServer) -> StateStore:
    return MemoryStore()


def redis_store(server: RedisServer) -> StateStore:
    fleet = f"contract-{uuid4().hex}"  # each test has a fleet of its own
    return SharedStore(RedisLink(server.url, Keys(fleet).news), fleet, lonely_company())


ADAPTERS: dict[str, Callable[[RedisServer], StateStore]] = {"memory": memory_store, "redis": redis_store}


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[StateStore]:
    store = ADAPTERS[request.param](redis_server)
    await store.start()
    yield store
    await store.stop()
