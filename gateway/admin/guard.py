"""Who may do what on the admin port. Three doors, tried in this order:

- **Host.** Bound to loopback without a token, only loopback names are answered: a page whose own name was
  re-bound to 127.0.0.1 still sends that name.
- **Browsers.** A write that a browser sends for a page of another origin is refused, token or not.
- **Token.** A write needs it when one is set. `/health/drain` is a write whatever its method, but a local
  caller needs no token: a preStop `exec` hook runs inside the container and cannot hold a secret. kubelet's
  own `httpGet` hook comes from the node's address: it needs the token in `httpHeaders`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from gateway.admin.answers import AdminError, Handler
from gateway.admin.ports import AdminSettings, is_loopback

DRAIN_GATEWAY_PATH = "/health/drain"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
# Exactly these: a service mesh's sidecar hands on foreign requests from 127.0.0.6.
_LOCAL_PEERS = frozenset({"127.0.0.1", "::1"})
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
# "none" is a person who typed the address.
_OWN_FETCH_SITES = frozenset({"same-origin", "none"})


class Guard:
    """Lets a request pass or raises AdminError. The token itself is not kept, only its digest."""

    def __init__(self, settings: AdminSettings) -> None:
        self.follow(settings)

    def follow(self, settings: AdminSettings) -> None:
        """Another token, from the next request on."""
        self._digest = _digest(settings.token) if settings.token is not None else None
        self._only_loopback_names = settings.token is None and is_loopback(settings.host)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.check(request)
        return await handler(request)

    def check(self, request: web.Request) -> None:
        if self._only_loopback_names:
            _check_host(request.headers)
        is_drain = request.path == DRAIN_GATEWAY_PATH
        if request.method in _READS and not is_drain:
            return
        _check_browser(request.headers)
        if not (is_drain and _is_local(request)):
            self._check_token(request.headers)

    def _check_token(self, headers: Mapping[str, str]) -> None:
        if self._digest is None:
            return
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AdminError(401, "unauthorized", "this needs the header Authorization: Bearer TOKEN")
        # Digests have one length, so the time to compare tells nothing about the token.
        if not hmac.compare_digest(_digest(token.strip()), self._digest):
            raise AdminError(401, "unauthorized", "wrong admin token")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()


def _check_host(headers: Mapping[str, str]) -> None:
    host = headers.get("Host", "localhost")
    if not is_loopback(_host_name(host)):
        message = f"this admin port has no token and answers to loopback names only, not to {host!r}"
        raise AdminError(403, "host_refused", message)


def _check_browser(headers: Mapping[str, str]) -> None:
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("Host", "").lower():
        raise AdminError(403, "origin_refused", f"pages of {origin!r} may not write here")
    # A GET from <img> carries no Origin; browsers of today still say where it comes from.
    if headers.get("Sec-Fetch-Site", "none") not in _OWN_FETCH_SITES:
        raise AdminError(403, "origin_refused", "pages of another site may not write here")


def _host_name(host: str) -> str:
    """`127.0.0.1:9090` and `[::1]:9090` without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _is_local(request: web.Request) -> bool:
    """Does a process on this machine ask for itself, not a proxy for somebody else?"""
    return request.remote in _LOCAL_PEERS and not any(name in request.headers for name in _FORWARDED)
