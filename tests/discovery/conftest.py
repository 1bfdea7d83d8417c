"""The same loop as the gateway's command, and an API server for Kubernetes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.discovery import source
from tests.discovery.kube_double import KubeDouble
from tests.proxy.conftest import pytest_asyncio_loop_factories  # noqa: F401


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FIRST_PAUSE_S", 0.02)


@pytest.fixture
async def kube() -> AsyncIterator[KubeDouble]:
    double = KubeDouble()
    await double.start()
    yield double
    await double.stop()
