"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_server import RedisServer, running_redis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real server for all tests that only need a fleet name of their own in it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


# Fleets of real processes under load: one after the other, beside all that needs no second core.
ONE_AT_A_TIME = ("chaos",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: what is never run side by side is a group; else a file is one."""
    for item in items:
        folder = item.path.parent.name
        group = folder if folder in ONE_AT_A_TIME else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
