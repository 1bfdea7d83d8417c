"""The Kubernetes API, as far as it is needed: pages of a list, and the lines of a watch.

Token and certificates are read again for each request: the kubelet replaces the token about every hour.
Every answer is bounded in time and in size, redirects are not followed, proxies of the environment not used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
from yarl import URL

from gateway.discovery.source import SourceFailed

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_S = 5.0
# Until the head of an answer; the body of a list may take as long again.
ANSWER_S = 15.0
# A bookmark comes about once a minute (k8s.io/apiserver: defaultBookmarkFrequency): a stream that is silent
# for longer may be one whose other end is gone. Opening a new one from the same version costs nothing.
SILENT_S = 90.0
# A slice has at most 1,000 endpoints, and etcd takes 1.5 MiB.
MAX_LINE_BYTES = 4 * 2**20
MAX_PAGE_BYTES = 64 * 2**20
MAX_CREDENTIAL_BYTES = 2**20
_HEADERS = {"User-Agent": "spillway", "Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """Where the API is, and how to show who asks."""

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None


class VersionExpired(Exception):
    """410: the server does not know any more what happened since that version. List anew."""


class EventTooLarge(SourceFailed):
    """Going on from the same version would bring it again."""


class WentSilent(Exception):
    """Nothing came on a watch for SILENT_S."""


class _Status(msgspec.Struct):
    message: str = ""


def access_in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> KubeAccess:
    """As a pod is told by its kubelet. Raises SourceFailed outside of one."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise SourceFailed("not in a Kubernetes pod: set discovery.kubernetes.api.url")
    authority = f"[{host}]" if ":" in host else host
    return KubeAccess(f"https://{authority}:{port}", folder / "token", folder / "ca.crt")


def read_credential(path: Path) -> str:
    """The content of a small file. Raises SourceFailed."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CREDENTIAL_BYTES)
        return content.decode("ascii").strip()
    except OSError as exc:
        raise SourceFailed(f"can't read {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise SourceFailed(f"{path} is no text") from None


class KubeApi:
    """Use inside a running loop; `close` it in the end."""

    def __init__(self, access: KubeAccess, silent_s: float = SILENT_S) -> None:
        self._access = access
        self._silent_s = silent_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            trust_env=False,
            read_bufsize=2**18,
        )
        self._ca_text: str | None = None
        self._context: ssl.SSLContext | None = None

    async def close(self) -> None:
        await self._session.close()

    async def page(self, path: str, query: Mapping[str, str]) -> bytes:
        """The whole body of one answer. Raises SourceFailed, VersionExpired."""
        body = bytearray()
        async with self._answer(path, query, ANSWER_S) as answer:
            async for part in answer.content.iter_any():
                body += part
                if len(body) > MAX_PAGE_BYTES:
                    raise SourceFailed("the API's answer is larger than 64 MiB")
                await asyncio.sleep(0)  # the data plane shares this event loop
        return bytes(body)

    @asynccontextmanager
    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a stream that has begun; they end when the server ends it.

        Raises SourceFailed, VersionExpired; while lines are read WentSilent too.
        """
        async with self._answer(path, query, None) as answer:
            yield self._lines(answer.content)

    async def _lines(self, content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        rest = b""
        async for part in content.iter_any():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line
            if len(rest) > MAX_LINE_BYTES:
                raise EventTooLarge("an event of the watch is larger than 4 MiB")

    @asynccontextmanager
    async def _answer(
        self, path: str, query: Mapping[str, str], total_s: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer of 200. `total_s` bounds its body; None bounds only the silence in it."""
        began = False
        try:
            async with asyncio.timeout(ANSWER_S) as until_head, self._request(path, query) as answer:
                began = True
                now_s = asyncio.get_running_loop().time()
                until_head.reschedule(None if total_s is None else now_s + total_s)
                if answer.status != 200:
                    await _refuse(answer)
                yield answer
        except TimeoutError as exc:  # aiohttp's own are TimeoutErrors too
            if began and total_s is None:
                raise WentSilent from exc
            raise SourceFailed(f"the API at {self._access.url} does not answer in time") from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            raise SourceFailed(f"the certificate of the API at {self._access.url} is not trusted") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            what = "broke off" if began else "can't be reached"
            raise SourceFailed(f"the API at {self._access.url} {what}: {type(exc).__name__}") from exc

    def _request(self, path: str, query: Mapping[str, str]) -> aiohttp.client._RequestContextManager:
        headers = {}
        if self._access.token_file is not None:
            headers["Authorization"] = f"Bearer {read_credential(self._access.token_file)}"
        return self._session.get(
            URL(self._access.url + path).with_query(query),
            headers=headers,
            allow_redirects=False,
            ssl=self._ssl(),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=self._silent_s
            ),
        )

    def _ssl(self) -> ssl.SSLContext | bool:
        """Made anew when the certificates have changed."""
        if self._access.ca_file is None:
            return True
        text = read_credential(self._access.ca_file)
        if self._context is None or text != self._ca_text:
            try:
                self._context, self._ca_text = ssl.create_default_context(cadata=text), text
            except ssl.SSLError:
                raise SourceFailed(f"{self._access.ca_file} holds no PEM certificates") from None
        return self._context


_MEANINGS = {
    401: "the API does not accept the token",
    403: "the ServiceAccount may not list and watch endpointslices: give it a Role",
    404: "the API does not know the namespace, or no EndpointSlices",
}


async def _refuse(answer: aiohttp.ClientResponse) -> None:
    """Raises what an answer that is not 200 means."""
    if answer.status == 410:
        raise VersionExpired
    said = await answer.content.read(4096)
    try:
        message = msgspec.json.decode(said, type=_Status).message
    except msgspec.DecodeError:
        message = ""
    meaning = _MEANINGS.get(answer.status, "the API refuses")
    details = f" ({ascii(message[:200])[1:-1]})" if message else ""
    raise SourceFailed(f"{meaning}: {answer.status}{details}", _seconds(answer.headers.get("Retry-After")))


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() and len(text) < 6 else 0.0
