"""Every StateStore adapter: one that joins adds a factory here and passes the same tests unchanged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.ports import StateStore
from gateway.state.memory import MemoryStore

ADAPTERS: dict[str, Callable[[], StateStore]] = {"memory": MemoryStore}


@pytest.fixture(params=ADAPTERS)
def store(request: pytest.FixtureRequest) -> StateStore:
    return ADAPTERS[request.param]()
