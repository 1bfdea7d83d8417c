"""Connections to one backend: those that are idle, and how new ones are made."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gateway.config.fleet import BackendEndpoint, endpoints_of
from gateway.config.schema import Config
from gateway.config.tls_contexts import upstream_context
from gateway.core.model import Reason
from gateway.ports import Clock
from gateway.proxy.socket_bounds import bound_made
from gateway.proxy.upstream import UpstreamConnection
from gateway.proxy.writes import WriteBatch

log = logging.getLogger(__name__)

MIN_SECRET_BYTES = 8


class ConnectFailed(Exception):
    """No connection could be made. `reason` tells refused from too slow."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class UpstreamPool:
    """Connections to one backend; the one used last is used next, so that the others may go."""

    def __init__(
        self,
        endpoint: BackendEndpoint,
        ssl_context: ssl.SSLContext | None,
        config: Config,
        clock: Clock,
        writes: WriteBatch,
    ) -> None:
        self.endpoint = endpoint
        self.writes = writes
        self.ssl_context = ssl_context
        self._is_retired = False
        # What every request to this backend begins with.
        self.request_lines = b"host: %b\r\n" % endpoint.host_header
        self.secret = b""  # what no client may see; empty: none, or too short to be told from other text
        if endpoint.auth_header is not None and endpoint.auth_value is not None:
            self.request_lines += b"%b: %b\r\n" % (endpoint.auth_header, endpoint.auth_value)
            secret = endpoint.auth_value.rpartition(b" ")[2]  # without "Bearer"
            self.secret = secret if len(secret) >= MIN_SECRET_BYTES else b""
        self._clock = clock
        self.follow(config)
        self._idle: deque[UpstreamConnection] = deque()

    def follow(self, config: Config) -> None:
        """Another configuration of the same endpoint: connections stay."""
        self._connect_timeout_s = config.timeouts.connect_s
        self._settings = config.pool

    def retire(self) -> None:
        """Its backend has left, or is reached in another way: what is in use is closed after its use."""
        self._is_retired = True
        self.close_idle()

    def take_idle(self) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable():
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises ConnectFailed."""
        endpoint = self.endpoint
        make: Callable[[], UpstreamConnection] = lambda: UpstreamConnection(self, self._clock())  # noqa: E731
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, connection = await asyncio.get_running_loop().create_connection(
                    make,
                    endpoint.host,
                    endpoint.port,
                    ssl=self.ssl_context,
                    server_hostname=endpoint.tls.server_name if endpoint.tls is not None else None,
                )
        except TimeoutError as exc:
            raise ConnectFailed(Reason.CONNECT_TIMEOUT) from exc
        except OSError as exc:
            raise ConnectFailed(Reason.CONNECT_FAILED) from exc
        self._check_address(transport)
        bound_made(transport)
        if not connection.is_usable():
            raise ConnectFailed(Reason.RESET)  # it spoke, or left, before it was asked anything
        return connection

    def _check_address(self, transport: asyncio.Transport) -> None:
        """A name may lead anywhere, and elsewhere tomorrow. Raises ConnectFailed before a byte is sent."""
        if (reason := self.endpoint.why_not_with(transport.get_extra_info("peername"))) is not None:
            transport.abort()
            log.warning("%s: its name leads to %s", self.endpoint.backend_id, reason)
            raise ConnectFailed(Reason.CONNECT_FAILED)

    def give_back(self, connection: UpstreamConnection) -> None:
        now_s = self._clock()
        is_old = self._is_retired or now_s - connection.made_s > self._settings.max_age_s
        if is_old or len(self._idle) >= self._settings.max_idle or not connection.is_usable():
            connection.close()
            return
        connection.idle_since_s = now_s
        connection.was_idle = True
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now_s: float) -> None:
        """Closes what has been idle too long; the longest idle stand on the left."""
        while self._idle and now_s - self._idle[0].idle_since_s > self._settings.idle_s:
            self._idle.popleft().close()

    def close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def __repr__(self) -> str:
        return f"<UpstreamPool {self.endpoint.backend_id} idle={len(self._idle)}>"


def pools_of(
    config: Config,
    clock: Clock,
    writes: WriteBatch,
    before: Mapping[str, UpstreamPool] = MappingProxyType({}),
) -> dict[str, UpstreamPool]:
    """A pool for each backend, by its id; of those `before`, the ones whose endpoint is still the same.

    Nothing is changed by it: a pool of `before` that is kept has yet to `follow` the configuration.
    Raises OSError for certificates that can't be loaded.
    """
    # One for all that trust and show the same: making one takes tens of milliseconds.
    contexts = {
        pool.endpoint.tls.files: pool.ssl_context for pool in before.values() if pool.endpoint.tls is not None
    }
    pools: dict[str, UpstreamPool] = {}
    for backend_id, endpoint in endpoints_of(config).items():
        known = before.get(backend_id)
        if known is not None and known.endpoint == endpoint:
            pools[backend_id] = known
            continue
        context = None
        if endpoint.tls is not None:
            context = contexts.get(endpoint.tls.files) or upstream_context(endpoint.tls)
            contexts[endpoint.tls.files] = context
        pools[backend_id] = UpstreamPool(endpoint, context, config, clock, writes)
    return pools
