"""The EndpointSlices of a Service, listed once and then watched.

    list ──→ watch from its version ──→ events, bookmarks ──→ the stream ends: watch from the last version
     ↑                                    410, or an event that can't be read │
     └────────────────────────────────────────────────────────────────────────┘

A list is taken in whole or not at all, so that no backend goes missing while its pages come.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Never

import msgspec

from gateway.config.schema_discovery import KubernetesConfig
from gateway.discovery.kube_api import (
    SERVICE_ACCOUNT,
    EventTooLarge,
    KubeAccess,
    KubeApi,
    VersionExpired,
    WentSilent,
    access_in_cluster,
    read_credential,
)
from gateway.discovery.slices import MAX_SLICES, EndpointSlice, ObjectMeta, ServiceSlices
from gateway.discovery.source import LONGEST_PAUSE_S, Pace, SourceFailed, Surroundings, Tell

# As client-go: between five and ten minutes, so that gateways do not come back together.
MIN_WATCH_S = 300
PAGE_SLICES = 50
GATHER_S = 0.05


class _ListMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion", default="")
    rest: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[EndpointSlice] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: ObjectMeta


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


_PAGES = msgspec.json.Decoder(_Page)
_EVENTS = msgspec.json.Decoder(_Event)
_SLICES = msgspec.json.Decoder(EndpointSlice)
_BOOKMARKS = msgspec.json.Decoder(_Bookmark)
_FAILURES = msgspec.json.Decoder(_Failure)

OpenApi = Callable[[KubeAccess], KubeApi]


class KubernetesSource:
    """One Service. `service_account` and the environment say where the API is, if the settings do not."""

    def __init__(
        self,
        config: KubernetesConfig,
        around: Surroundings,
        service_account: Path = SERVICE_ACCOUNT,
        open_api: OpenApi = KubeApi,
    ) -> None:
        self._config = config
        self._around = around
        self._service_account = service_account
        self._open_api = open_api
        self._pace = Pace(around.draw)
        self._api: KubeApi | None = None
        self._namespace = ""
        self._slices = ServiceSlices(config)
        self._version: str | None = None
        self._due: asyncio.TimerHandle | None = None

    async def follow(self, tell: Tell) -> Never:
        try:
            while True:
                asked_s = 0.0
                try:
                    await self._look(tell)
                except VersionExpired:
                    self._version = None
                except EventTooLarge as failed:
                    self._version = None
                    tell.failed(str(failed))
                except WentSilent:
                    pass
                except SourceFailed as failed:
                    asked_s = failed.after_s
                    tell.failed(str(failed))
                await asyncio.sleep(self._pace.next_pause_s(asked_s))
        finally:
            self._tell_no_more()
            if self._api is not None:
                await self._api.close()

    async def _look(self, tell: Tell) -> None:
        """One list, where there is none to go on from, and one watch."""
        if self._api is None:
            access = self._access()
            self._namespace = self._config.namespace or read_credential(self._service_account / "namespace")
            self._api = self._open_api(access)
        if self._version is None:
            self._version = await self._list(self._api)
            self._tell_now(tell)
        began_s = self._around.clock()
        try:
            await self._watch(self._api, self._version, tell)
        finally:
            if self._around.clock() - began_s >= LONGEST_PAUSE_S:
                self._pace.went_well()

    def _access(self) -> KubeAccess:
        api = self._config.api
        if api is None:
            return access_in_cluster(os.environ, self._service_account)
        return KubeAccess(str(api.url), api.token_file, api.ca_file)

    def _tell_soon(self, tell: Tell) -> None:
        """Events come in crowds, and working out what they add up to takes 10 ms for 1,000 endpoints."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHER_S, self._tell_now, tell)

    def _tell_now(self, tell: Tell) -> None:
        self._tell_no_more()
        try:
            self._tell_slices(tell)
        except SourceFailed as failed:
            tell.failed(str(failed))

    def _tell_no_more(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _tell_slices(self, tell: Tell) -> None:
        config = self._config
        is_https = config.scheme == "https"
        server_name = f"{config.service}.{self._namespace}.svc" if is_https else None
        tell.found(self._slices.discovered(server_name))

    async def _list(self, api: KubeApi) -> str:
        """Takes in all slices; the version that they are of. Raises SourceFailed, VersionExpired."""
        slices: dict[str, EndpointSlice] = {}
        query = self._query() | {"limit": str(PAGE_SLICES)}
        while True:
            try:
                page = _PAGES.decode(await api.page(self._path, query))
            except msgspec.DecodeError as exc:  # a ValidationError is one too
                raise SourceFailed(f"the API's list can't be read: {exc}") from exc
            slices |= {found.metadata.name: found for found in page.items or []}
            if len(slices) > MAX_SLICES:
                raise SourceFailed(f"the Service has more than {MAX_SLICES} EndpointSlices")
            if not page.metadata.rest:
                self._slices.replace(slices)
                return page.metadata.resource_version
            query["continue"] = page.metadata.rest

    async def _watch(self, api: KubeApi, version: str, tell: Tell) -> None:
        """Returns when the server ends the stream, as it does after a while."""
        timeout_s = MIN_WATCH_S + self._around.draw() % MIN_WATCH_S
        query = self._query() | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(timeout_s),
        }
        async with api.watch(self._path, query) as lines:
            tell.confirmed()
            async for line in lines:
                self._take_in(line, tell)
                self._pace.went_well()

    def _take_in(self, line: bytes, tell: Tell) -> None:
        """One event. Raises VersionExpired, SourceFailed; then all are listed anew, for one was lost."""
        version, self._version = self._version, None
        try:
            event = _EVENTS.decode(line)
            if event.type == "ERROR":
                _raise_failure(_FAILURES.decode(event.object))
            if event.type in ("ADDED", "MODIFIED", "DELETED"):
                changed = _SLICES.decode(event.object)
                if event.type == "DELETED":
                    self._slices.drop(changed.metadata.name)
                else:
                    self._slices.put(changed)
                self._tell_soon(tell)
                version = changed.metadata.resource_version or version
            elif event.type == "BOOKMARK":
                version = _BOOKMARKS.decode(event.object).metadata.resource_version or version
                tell.confirmed()
        except msgspec.DecodeError as exc:
            raise SourceFailed(f"an event of the API can't be read: {exc}") from exc
        self._version = version

    @property
    def _path(self) -> str:
        return f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices"

    def _query(self) -> dict[str, str]:
        return {"labelSelector": f"kubernetes.io/service-name={self._config.service}"}


def _raise_failure(failure: _Failure) -> Never:
    if failure.code == 410:
        raise VersionExpired
    raise SourceFailed(f"the API ended the watch: {failure.code} {ascii(failure.message[:200])[1:-1]}")
