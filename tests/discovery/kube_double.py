"""A Kubernetes API server for EndpointSlices: real HTTP, lists in pages, and the watch protocol.

Every change has a version. A watch begins after a version, tells what has happened since, and goes on. What
is older than `forget_history` cannot be watched from any more: 410, as status or as an ERROR event.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]


def endpoint(*addresses: str, pod: str = "", ready: bool | None = True, **conditions: Any) -> Json:
    """`pod` makes the reference to it; `terminating=True` and others go into the conditions."""
    made: Json = {"addresses": list(addresses), "conditions": {"ready": ready, **conditions}}
    if pod:
        made["targetRef"] = {"kind": "Pod", "namespace": "models", "name": pod, "uid": f"uid-{pod}"}
    return made


def slice_of(name: str, endpoints: Iterable[Json] | None, **other: Any) -> Json:
    """`ports` (default: one, http 8000), `address_type` (IPv4), `service` (vllm)."""
    ports = other.get("ports", [{"name": "http", "port": 8000, "protocol": "TCP"}])
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "models",
            "labels": {"kubernetes.io/service-name": other.get("service", "vllm")},
            "managedFields": [{"manager": "kube-controller-manager"}],
        },
        "addressType": other.get("address_type", "IPv4"),
        "endpoints": None if endpoints is None else list(endpoints),
        "ports": ports,
    }


@dataclass
class KubeDouble:
    """`url` after `start`. Its attributes may be changed at any time."""

    token: str | None = None
    page_size: int | None = None
    is_hanging: bool = False
    gone_as_event: bool = False
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    lists: int = 0
    watches: list[dict[str, str]] = field(default_factory=list)
    _version: int = 100
    _oldest: int = 0
    _slices: dict[str, Json] = field(default_factory=dict)
    _history: list[tuple[int, Json]] = field(default_factory=list)
    _streams: set[asyncio.Queue[bytes | None]] = field(default_factory=set)
    url: str = ""

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        path = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        app.router.add_get(path, self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"

    async def stop(self) -> None:
        self.disconnect()
        await self._runner.cleanup()

    # --- what happens in the cluster ---------------------------------------------------------------------

    def put(self, made: Json) -> None:
        name = made["metadata"]["name"]
        self._tell("MODIFIED" if name in self._slices else "ADDED", made)
        self._slices[name] = made

    def delete(self, name: str) -> None:
        self._tell("DELETED", self._slices.pop(name))

    def _tell(self, kind: str, made: Json) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)
        event = {"type": kind, "object": made}
        self._history.append((self._version, json.loads(json.dumps(event))))
        self.send(json.dumps(event).encode() + b"\n")

    # --- what happens to the API ---------------------------------------------------------------------------

    def bookmark(self) -> None:
        """Other objects have changed since: the version goes on without an event."""
        self._version += 10
        metadata = {"resourceVersion": str(self._version), "creationTimestamp": None}
        event = {"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "metadata": metadata}}
        self.send(json.dumps(event).encode() + b"\n")

    def send(self, line: bytes) -> None:
        """To every watch that is open, whatever it is."""
        for stream in self._streams:
            stream.put_nowait(line)

    def disconnect(self) -> None:
        for stream in self._streams:
            stream.put_nowait(None)

    def forget_history(self) -> None:
        self._version += 1
        self._oldest = self._version
        self._history.clear()

    @property
    def open_watches(self) -> int:
        return len(self._streams)

    # --- HTTP -----------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.failures:
            status, headers = self.failures.pop(0)
            return _status(status, "asked to fail", headers)
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if self.is_hanging:
            await asyncio.sleep(60)
        return await (self._watch(request) if request.query.get("watch") else self._list(request))

    async def _list(self, request: web.Request) -> web.Response:
        self.lists += 1
        items = self._selected(request)
        begin, size = int(request.query.get("continue", "0")), self.page_size or len(items) or 1
        metadata = {"resourceVersion": str(self._version)}
        if begin + size < len(items):
            metadata["continue"] = str(begin + size)
        return web.json_response(
            {"kind": "EndpointSliceList", "metadata": metadata, "items": items[begin : begin + size]}
        )

    def _selected(self, request: web.Request) -> list[Json]:
        wanted = request.query["labelSelector"].removeprefix("kubernetes.io/service-name=")
        assert request.match_info["namespace"] == "models"
        known = self._slices.values()
        return [s for s in known if s["metadata"]["labels"]["kubernetes.io/service-name"] == wanted]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches.append(dict(request.query))
        since = int(request.query["resourceVersion"])
        if since < self._oldest and not self.gone_as_event:
            return _status(410, "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if since < self._oldest:
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
            await response.write(json.dumps(gone).encode() + b"\n")
            return response
        stream: asyncio.Queue[bytes | None] = asyncio.Queue()
        for version, event in self._history:
            if version > since:
                stream.put_nowait(json.dumps(event).encode() + b"\n")
        self._streams.add(stream)
        try:
            while (line := await stream.get()) is not None:
                for part in (line[:7], line[7:]):  # an event may come in any number of parts
                    await response.write(part)
        except ConnectionError:
            pass
        finally:
            self._streams.discard(stream)
        return response


def _status(code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code, headers=headers or {})
