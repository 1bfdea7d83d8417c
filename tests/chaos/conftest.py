"""The same loop as the gateway's command."""

from tests.proxy.conftest import pytest_asyncio_loop_factories  # noqa: F401
