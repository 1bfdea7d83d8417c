"""An HTTP client that trusts nobody: for probes, not for traffic.

Each request has a connection of its own, as that of a client that comes for the first time, and is bounded in
time (connecting, and the whole) and in size. Redirects are not followed, cookies not kept, proxies of the
environment not used, and nothing is decompressed. Nobody is asked at an address where no backend may be.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from gateway.config.files import FileContent
from gateway.config.fleet import BackendEndpoint
from gateway.config.refused_names import RefusedNames
from gateway.config.tls_contexts import upstream_context
from gateway.core.model import Reason
from gateway.health.resolving import BackendResolver, asked_endpoint

_HEADERS = {"User-Agent": "spillway-health", "Accept-Encoding": "identity", "Accept": "*/*"}
# The first that fits. Whatever else aiohttp finds wrong with an answer is a bad answer.
_REASONS: tuple[tuple[type[BaseException], Reason], ...] = (
    (aiohttp.ConnectionTimeoutError, Reason.CONNECT_TIMEOUT),
    (aiohttp.ClientConnectorError, Reason.CONNECT_FAILED),
    (aiohttp.ClientPayloadError, Reason.TRUNCATED),
    (aiohttp.ServerDisconnectedError, Reason.RESET),
    (aiohttp.ClientOSError, Reason.RESET),
    (OSError, Reason.RESET),
)


class AskFailed(Exception):
    """No whole answer came. `reason` says how far it got."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `path` goes behind the backend's prefix; `port` None is the backend's own."""

    path: str
    deadline_s: float
    connect_s: float
    port: int | None = None
    method: str = "GET"
    json_body: bytes | None = None


class HealthClient:
    """Use inside a running loop; `close` it in the end."""

    def __init__(self) -> None:
        self.names = RefusedNames()
        self._resolver = BackendResolver(self.names)
        self._session = aiohttp.ClientSession(
            # No limit here: who asks bounds how many ask at once.
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, use_dns_cache=False, resolver=self._resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
            middlewares=(_only_once,),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._contexts: dict[tuple[FileContent | None, ...], ssl.SSLContext] = {}

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    async def ask(self, endpoint: BackendEndpoint, ask: Ask, take: Callable[[bytes], bool]) -> int:
        """The status of the answer; `take` gets its body in parts and is False when it wants no more.

        Raises AskFailed.
        """
        has_body = False
        asked_endpoint.set(endpoint)
        try:
            async with asyncio.timeout(ask.deadline_s), self._request(endpoint, ask) as answer:
                async for part in answer.content.iter_any():
                    has_body = True
                    if not take(part):
                        answer.close()
                        break
                    await asyncio.sleep(0)  # the data plane shares this event loop
                return answer.status
        except aiohttp.ClientError as exc:
            raise AskFailed(_reason_of(exc)) from exc
        except TimeoutError as exc:
            raise AskFailed(Reason.TOTAL_TIMEOUT if has_body else Reason.FIRST_BYTE_TIMEOUT) from exc
        except OSError as exc:
            raise AskFailed(Reason.RESET) from exc

    def _request(
        self, endpoint: BackendEndpoint, ask: Ask
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        connect_s = min(ask.connect_s, ask.deadline_s)
        headers = {}
        if ask.json_body is not None:
            headers["Content-Type"] = "application/json"
        if endpoint.auth_header is not None and endpoint.auth_value is not None:
            headers[endpoint.auth_header.decode()] = endpoint.auth_value.decode()
        return self._session.request(
            ask.method,
            _url(endpoint, ask),
            data=ask.json_body,
            headers=headers,
            allow_redirects=False,
            ssl=self.context(endpoint),
            server_hostname=endpoint.tls.server_name if endpoint.tls is not None else None,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s),
        )

    def context(self, endpoint: BackendEndpoint) -> ssl.SSLContext | bool:
        """Certificates are verified as on the data plane. Made once: that takes tens of milliseconds.

        Raises OSError for certificates that can't be loaded.
        """
        if endpoint.tls is None:
            return True
        files = endpoint.tls.files
        if files not in self._contexts:
            self._contexts[files] = upstream_context(endpoint.tls)
        return self._contexts[files]

    def forget_all_but(self, endpoints: Sequence[BackendEndpoint]) -> None:
        """Certificates that none of these trusts or is shown need not be kept."""
        self.names.forget_all_but({endpoint.backend_id for endpoint in endpoints})
        used = {endpoint.tls.files for endpoint in endpoints if endpoint.tls is not None}
        self._contexts = {files: known for files, known in self._contexts.items() if files in used}


async def _only_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp repeats a GET whose connection broke: the probe that failed would pass, unseen."""
    try:
        return await handler(request)
    except aiohttp.ClientOSError as exc:
        raise AskFailed(_reason_of(exc)) from exc
    except aiohttp.ServerDisconnectedError as exc:
        raise AskFailed(Reason.RESET) from exc


def _url(endpoint: BackendEndpoint, ask: Ask) -> URL:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    port = ask.port or endpoint.port
    path = endpoint.prefix.decode() + ask.path
    return URL(f"{endpoint.scheme}://{host}:{port}{path}", encoded=True)


def _reason_of(exc: BaseException) -> Reason:
    return next((reason for kind, reason in _REASONS if isinstance(exc, kind)), Reason.BAD_RESPONSE)
