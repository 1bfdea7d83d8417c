"""The same gateway, backends and clients as the data plane's stories."""

from tests.proxy.conftest import (  # noqa: F401
    backends,
    pytest_asyncio_loop_factories,
    start_backend,
    start_gateway,
)
