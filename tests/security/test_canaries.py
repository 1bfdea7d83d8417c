"""Secrets in every secret place of a real `spillway serve`, then every byte that leaves it is looked through.

Each secret has places where it may be: a cluster's credential in that cluster's requests, a query in the
request that had it. Everywhere else (answers, access log, standard error, metrics, admin pages) is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import ssl
import subprocess
import sys

import pytest

from tests.proxy.dialogue import (
    BODY,
    LAST_CHUNK,
    Client,
    Ending,
    chunk,
    event_stream,
    post,
    reply,
    settled,
)

READY_S = 15.0
CLUSTER_KEY = "sk-canary-cluster-0123456789"
ADMIN_TOKEN = "canary-admin-token-0123456789"
CLIENT_LINES = (
    "Authorization: Bearer canary-client-auth",
    "Cookie: session=canary-client-cookie",
    "X-Api-Key: canary-client-key",
    "Proxy-Authorization: Basic canary-client-proxy",
    "X-Request-Id: canary client id",
    "X-Spillway-Secret: canary-client-internal",
    "Connection: X-Hop",
    "X-Hop: canary-client-hop",
)
QUERY = "?key=canary-query"
BODY_WITH_PROMPT = b'{"model":"m","prompt":"canary-prompt"}'
CONFIG = """
listen: 127.0.0.1:0
admin: {{listen: '127.0.0.1:0', token_file: token}}
access_log: access.log
state: {{url: 'redis://user:canary-redis-password@127.0.0.1:1/0', fleet: f}}
timeouts: {{request_head: 400ms, request_body: 400ms, first_byte: 300ms, stall: 300ms}}
breaker: {{consecutive: 10000, min_samples: 10000}}
clusters:
- {{name: a, limit: 50, models: [m], backends: ['{url}'], auth: {{value_file: key}}}}
"""
SPOILT = {
    "syntax": "clusters:\n- {{name: a, auth: {{value: {key}\n",
    "unknown-key": CONFIG.replace("value_file: key", "value: {key}, values: {key}"),
    "wrong-header": CONFIG.replace("value_file: key", "header: 'a b', value: '{key}'"),
    "wrong-secret": CONFIG.replace("value_file: key", "value: '{key}\u00e9'"),
    "wrong-url": CONFIG.replace("redis://user", "redies://user"),
    "key-as-url": CONFIG.replace("'{url}'", "'http://{key}@127.0.0.1:1'"),
    "key-as-list": CONFIG.replace("value_file: key", "value: [{key}]"),
    "restart": CONFIG.replace("127.0.0.1:1/0", "127.0.0.1:2/0"),
}
COOKIES = ("Set-Cookie: s=canary-backend-cookie", "WWW-Authenticate: Bearer canary-backend-realm")


def echo(request) -> bytes:
    """What a careless backend tells of the request it got."""
    text = f'{{"error":{{"message":"bad key {request.header("authorization")}"}}}}'.encode()
    return reply(text, *COOKIES, f"X-Echo: {request.header('authorization')}", status="401 Unauthorized")


BACKEND_FAULTS = (
    [reply(b'{"ok":true}', *COOKIES)],
    [event_stream(*COOKIES) + chunk(b"data: 1\n\n") + LAST_CHUNK],
    [event_stream(*COOKIES) + chunk(b"data: 1\n\n"), Ending.RST],
    [event_stream(*COOKIES) + chunk(b"data: 1\n\n"), 2.0],
    [b"HTTP/1.1 200 OK\r\nX: \x00canary-backend-garbage\r\n\r\n"],
    [b"canary-backend-garbage\r\n\r\n"],
    [reply(b"x", *COOKIES, status="500 Oops")],
    [reply(b"x", *COOKIES, status="429 Too Many")],
    [Ending.RST],
    [2.0],
)
BAD_REQUESTS = (
    b"canary-first-line\r\n\r\n",
    b"GET /canary-path" + QUERY.encode() + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: h\r\ncanary-header-name\x00: canary-header-value\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: canary host\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: canary-length\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nCookie: canary-slow\r\nContent-Length: 50\r\n\r\ncanary",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Api-Key: canary-one\r\nX-Api-Key: canary-two\r\n\r\n",
    b"CANARY / HTTP/1.1\r\n\r\n",
    post(b'{"model":"m","canary-body":canary}', *CLIENT_LINES),
    post(b'{"model":{"canary-body":1}}', *CLIENT_LINES),
    post(b'"canary-body', *CLIENT_LINES),
    post(b"canary-body", "Content-Type: text/canary-type"),
    post(b"canary-body", "Content-Type: multipart/form-data; boundary=canary"),
    post(BODY, "x-spillway-deadline: canary-deadline"),
    post(BODY, "Expect: canary-expectation"),
)


class Serving:
    """A gateway process in a folder of its own, and all that it has said."""

    def __init__(self, folder, url: str, config: str = CONFIG, tls: ssl.SSLContext | None = None) -> None:
        self.folder, self.url, self.tls = folder, url, tls
        self.heard = b""
        (folder / "token").write_text(ADMIN_TOKEN)
        (folder / "key").write_text(f"Bearer {CLUSTER_KEY}")
        self.configure(config)
        with (folder / "stderr").open("wb") as stderr:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "serve", "-c", str(folder / "spillway.yaml")],
                stderr=stderr,
                stdout=stderr,
                cwd=folder,
            )
        self.port = self.admin_port = 0

    def configure(self, text: str) -> None:
        (self.folder / "spillway.yaml").write_text(text.format(url=self.url, key=CLUSTER_KEY))

    @property
    def written(self) -> bytes:
        return b"".join((self.folder / name).read_bytes() for name in ("stderr", "access.log"))

    async def is_ready(self) -> bool:
        pattern = rb"ready on port (\d+), admin on port (\d+)"
        assert await settled(lambda: re.search(pattern, (self.folder / "stderr").read_bytes()), READY_S)
        found = re.search(pattern, (self.folder / "stderr").read_bytes())
        self.port, self.admin_port = int(found[1]), int(found[2])
        return True

    async def hear(self, request: bytes, port: int, tls: ssl.SSLContext | None = None) -> bytes:
        """All that comes back on a connection of its own, until it ends or is silent."""
        client = await Client.connect(port, tls)
        heard = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            await client.send(request)
            async with asyncio.timeout(1.2):
                while data := await client.reader.read(65536):
                    heard += data
                    if heard.endswith((b"}", b"0\r\n\r\n")):
                        break
        client.close()
        self.heard += heard
        return heard

    async def ask(self, request: bytes) -> bytes:
        return await self.hear(request, self.port, self.tls)

    async def admin(self, request: bytes) -> bytes:
        return await self.hear(request, self.admin_port)


@pytest.fixture
async def serving(start_backend, tmp_path):
    backend = await start_backend()
    made = Serving(tmp_path, backend.url)
    try:
        assert await made.is_ready()
        yield made, backend
    finally:
        made.child.kill()
        made.child.wait(READY_S)


def operator(method: str, path: str, token: str = ADMIN_TOKEN) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Connection: close\r\nContent-Length: 0\r\n\r\n".encode()


async def look_at_every_page(gateway: Serving) -> None:
    pages = (
        "/metrics",
        "/api/v1/fleet",
        "/health/readiness",
        "/health/liveness",
        "/nothing?key=canary-query",
    )
    for page in pages:
        await gateway.admin(operator("GET", page))
    await gateway.admin(operator("POST", "/api/v1/reload", token="canary-wrong-token"))


async def test_no_secret_leaves_by_any_way(serving):
    gateway, backend = serving
    asked = post(BODY_WITH_PROMPT, *CLIENT_LINES, path="/v1/completions" + QUERY)
    backend.default = lambda request: [echo(request)]
    for script in (*BACKEND_FAULTS, None, None):
        if script is not None:
            backend.will(*script)
        await gateway.ask(asked)
    await asyncio.gather(*(gateway.ask(request) for request in BAD_REQUESTS))
    await look_at_every_page(gateway)
    refusals = 0
    for text in SPOILT.values():
        gateway.configure(text)
        refusals += b" 200 " not in (await gateway.admin(operator("POST", "/api/v1/reload")))[:20]
        gateway.child.send_signal(signal.SIGHUP)
        await look_at_every_page(gateway)
    assert refusals == len(SPOILT)
    gateway.configure(CONFIG + "expose_routing: false\n")
    assert b" 200 " in (await gateway.admin(operator("POST", "/api/v1/reload")))[:20]
    backend.default = [1.0, reply()]
    leaving = asyncio.ensure_future(gateway.ask(asked))
    await asyncio.sleep(0.1)
    gateway.child.terminate()
    await leaving
    assert await settled(lambda: gateway.child.poll() is not None, READY_S)

    sent = b"".join(request.raw for request in backend.requests)
    assert sent.count(CLUSTER_KEY.encode()) == len(backend.requests), "each has the cluster's credential once"
    allowed = re.sub(rb"%b|canary-query|canary-prompt" % CLUSTER_KEY.encode(), b"", sent)
    everything = {"answers": gateway.heard, "written": gateway.written, "requests": allowed}
    for where, text in everything.items():
        found = re.search(rb".{0,80}canary.{0,40}", text, re.IGNORECASE)
        assert found is None, (where, found)
    lines = (gateway.folder / "access.log").read_bytes().splitlines()
    assert len(lines) >= len(BACKEND_FAULTS) + len(BAD_REQUESTS)
    assert b"spillway_refused_total" in gateway.heard and b'"status"' in gateway.written
