"""The wire to Redis: one script, one channel, and nothing of redis-py's own patience.

redis-py waits 5 s and tries ten times by default, which makes a black-holed server cost a minute a call and
runs a script again whose reply was lost. Here every call has one short deadline and is made once; what
happens after a failure is decided above, in shared.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from importlib.resources import files
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisClusterException, RedisError

from gateway.state.shared import LinkFailed

# Opening a connection, TLS and AUTH included. No request waits for that.
CONNECT_TIMEOUT_S = 1.0
# A second line of defence behind the deadline of each call: see `RedisLink.exchange`.
SOCKET_TIMEOUT_S = 1.0
# A channel may be silent for hours: whether anybody is still there is asked so often.
PING_S = 1.0
MAX_UNANSWERED_PINGS = 3
SENTINEL_PORT = 26379
# What the client raises when something is wrong outside. That no node of a Cluster answers is no RedisError.
FAILURES = (RedisError, RedisClusterException, OSError)


class RedisLink:
    """Runs the exchange script and listens for news. `url` is a secret: it is never shown.

    Schemes: redis, rediss, unix; redis+sentinel and rediss+sentinel as `…://host:port,host:port/SERVICE/DB`;
    redis+cluster and rediss+cluster.
    """

    def __init__(self, url: str, news_channel: str) -> None:
        self._news_channel = news_channel
        self._script = files("gateway.state").joinpath("lua/exchange.lua").read_text("utf-8")
        self._client: Any = _client_of(url)
        self._exchange = self._client.register_script(self._script)

    async def exchange(self, keys: Sequence[str], payload: bytes, deadline_s: float) -> bytes:
        """Runs lua/exchange.lua once. Raises LinkFailed; then it may have been run, or not."""
        try:
            async with asyncio.timeout(deadline_s):
                return cast(bytes, await self._exchange(keys=keys, args=[payload]))
        except TimeoutError as exc:
            raise LinkFailed("no answer in time", is_timeout=True) from exc
        except ReadOnlyError as exc:
            # A replica: the primary is elsewhere now, so the next connection should look for it.
            await self._drop_connections()
            raise LinkFailed(_brief(exc)) from exc
        except FAILURES as exc:
            raise LinkFailed(_brief(exc)) from exc

    async def news(self) -> AsyncGenerator[bytes, None]:
        """What is told on the fleet's channel, as long as the connection lasts. Raises LinkFailed."""
        pubsub = self._client.pubsub()
        try:
            await self._client.initialize()  # a Cluster's nodes are not known before that
            await pubsub.subscribe(self._news_channel)
            unanswered = 0
            while unanswered < MAX_UNANSWERED_PINGS:
                message = await pubsub.get_message(timeout=PING_S)
                if message is None:
                    unanswered += 1
                    await pubsub.ping()
                    continue
                unanswered = 0
                if message["type"] == "message":
                    yield message["data"]
        except FAILURES as exc:
            raise LinkFailed(_brief(exc)) from exc
        finally:
            await pubsub.aclose()
        raise LinkFailed("the news channel is silent")

    async def close(self) -> None:
        await self._client.aclose()

    async def _drop_connections(self) -> None:
        pool = getattr(self._client, "connection_pool", None)
        if pool is not None:
            await pool.disconnect()


def _brief(exc: BaseException) -> str:
    """What went wrong, in a line without addresses or credentials."""
    text = str(exc).split("\n", 1)[0]
    kind = type(exc).__name__
    if isinstance(exc, AuthenticationError) or "authenticated" in text:
        # Under RESP3 a missing password comes as a plain error about HELLO.
        return "AuthenticationError: the user or password is refused"
    # Messages of the server begin with a code (OOM, READONLY, NOAUTH, BUSY ...); those of sockets name hosts.
    code = text.split(" ", 1)[0]
    return f"{kind}: {code}" if code.isupper() and code.isascii() else kind


def _client_of(url: str) -> Any:
    """A client for `url`, without connecting. Raises ValueError for a URL that says nothing usable."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    settings: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    if kind == "sentinel":
        return _sentinel_client(parts, scheme == "rediss", settings)
    plain_url = urlunsplit(parts._replace(scheme=scheme))
    if kind == "cluster":
        return RedisCluster.from_url(plain_url, **settings)
    return Redis.from_url(plain_url, **settings)


def _sentinel_client(parts: SplitResult, is_tls: bool, settings: dict[str, Any]) -> Any:
    """The options of the query, such as ssl_ca_certs, are for the sentinels and the server alike."""
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if is_tls:
        options = parse_url(f"rediss:///?{parts.query}")
        settings = {**options, **settings, "ssl": True}
        settings.pop("connection_class")
    sentinel: Any = cast(Any, Sentinel)(
        [_sentinel_address(host) for host in hosts.split(",")], sentinel_kwargs=dict(settings)
    )
    return sentinel.master_for(
        service,
        db=int(database or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        **settings,
    )


def _sentinel_address(place: str) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]` or `[v6]:port`."""
    found = urlsplit(f"//{place}")
    return found.hostname or "", found.port or SENTINEL_PORT
