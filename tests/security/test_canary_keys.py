"""The secrets of a gateway that has everything: a store with a password, a collector, client keys, TLS keys.

Every byte that leaves a real `spillway serve` is looked through, and the repr of all that it is made of.
"""

from __future__ import annotations

import base64
import gc
import re
import ssl
from hashlib import sha256

import pytest
import trustme

from gateway.config.loading import load
from tests.proxy.collector import collecting
from tests.proxy.dialogue import BODY, HANG, Ending, get, post, reply, settled
from tests.redis_server import free_port, running_redis
from tests.security.test_canaries import (
    CLUSTER_KEY,
    READY_S,
    Serving,
    echo,
    look_at_every_page,
    operator,
)

STORE_USER, STORE_PASSWORD = "canary-store-user", "canary-store-password"
COLLECTOR_KEY = "canary-collector-key-0123456789"
CLIENT_KEY, OTHER_KEY = "canary-client-key-of-team-a-0123", "canary-client-key-of-team-b-0123"
CONFIG = """
listen: 127.0.0.1:0
admin: {{listen: '127.0.0.1:0', token_file: token}}
access_log: access.log
tls: {{cert_file: cert.pem, key_file: key.pem}}
state: {{url: 'redis://STORE_USER:STORE_PASSWORD@127.0.0.1:STORE_PORT/0', fleet: f}}
tracing:
  endpoint: COLLECTOR
  sample_ratio: 1
  headers: [{{name: x-collector-key, value_file: collector}}]
timeouts: {{request_head: 400ms, request_body: 400ms, first_byte: 300ms, stall: 300ms}}
breaker: {{consecutive: 10000, min_samples: 10000}}
keys:
- {{name: team-a, sha256: DIGEST_A, rate: 1000/s}}
- {{name: team-b, sha256_file: digest, models: [n], max_in_flight: 1}}
clusters:
- name: a
  limit: 50
  models: [m]
  backends: ['{url}']
  auth: {{value_file: key}}
  tls: {{ca_file: ca.pem, cert_file: client.pem, key_file: client.key}}
"""
# What a client may show as its credential, good and bad, alone and with others.
SHOWN = (
    (f"Authorization: Bearer {CLIENT_KEY}",),
    (f"authorization: bearer   {CLIENT_KEY}",),
    (f"X-Api-Key: {CLIENT_KEY}",),
    (f"Api-Key: {OTHER_KEY}",),
    (f"Authorization: Bearer {CLIENT_KEY}", f"X-Api-Key: {OTHER_KEY}"),
    (f"Authorization: Bearer {CLIENT_KEY}x",),
    (f"Authorization: {CLIENT_KEY}",),
    (f"Authorization: Basic {base64.b64encode(f'u:{CLIENT_KEY}'.encode()).decode()}",),
    (f"Authorization: Bearer {CLIENT_KEY}", f"Authorization: Bearer {OTHER_KEY}"),
    (f"Cookie: key={CLIENT_KEY}",),
    (f"X-Request-Id: {CLIENT_KEY} {CLIENT_KEY}",),
    ("X-Api-Key: canary-guess",),
    (),
)
BAD_BY_TLS = ("canary-no-pem", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority, tmp_path):
    """All files that the configuration names, and the lines of their private keys."""
    lines: set[bytes] = set()
    for cert, key in (("cert.pem", "key.pem"), ("client.pem", "client.key")):
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(str(tmp_path / key))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / cert))
        lines.update(issued.private_key_pem.bytes().splitlines()[1:-1])
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "collector").write_text(COLLECTOR_KEY)
    (tmp_path / "digest").write_text(sha256(OTHER_KEY.encode()).hexdigest())
    (tmp_path / "key").write_text(f"Bearer {CLUSTER_KEY}")
    (tmp_path / "token").write_text("canary-admin-token-0123456789")
    return tmp_path, lines


def configuration(store_port: int, collector_url: str) -> str:
    words = {
        "STORE_USER": STORE_USER,
        "STORE_PASSWORD": STORE_PASSWORD,
        "STORE_PORT": str(store_port),
        "COLLECTOR": collector_url,
        "DIGEST_A": sha256(CLIENT_KEY.encode()).hexdigest(),
    }
    return re.sub("|".join(words), lambda found: words[found[0]], CONFIG)


def store_in(folder, port: int, password: str):
    folder.mkdir()
    users = f"user default on nopass ~* &* +@all\nuser {STORE_USER} on >{password} ~* &* +@all\n"
    (folder / "users.acl").write_text(users)
    return running_redis(folder, port=port, aclfile=str(folder / "users.acl"))


def contexts(authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A backend's, and a client's."""
    serves = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(serves)
    authority.configure_trust(serves)
    serves.verify_mode = ssl.CERT_REQUIRED
    asks = ssl.create_default_context()
    authority.configure_trust(asks)
    return serves, asks


def found_in(text: bytes, key_lines: set[bytes]) -> list[bytes]:
    """Every secret in a text, also as base64 has it, with what stands around it."""
    hidden = [base64.b64encode(secret.encode()) for secret in (CLIENT_KEY, STORE_PASSWORD)]
    around = [text[max(text.find(line) - 40, 0) :][:120] for line in (*key_lines, *hidden) if line in text]
    return around + re.findall(rb".{0,80}canary.{0,40}", text, re.IGNORECASE)


async def _ask_in_every_way(gateway: Serving, backend) -> None:
    backend.default = lambda request: [echo(request)]
    for lines in SHOWN:
        await gateway.ask(post(BODY, *lines))
        await gateway.ask(get("/v1/models", *lines, "Connection: close"))
        await gateway.ask(post(b'{"model":"n"}', *lines))
        await gateway.ask(post(b'{"model":', *lines))
    good = SHOWN[0]
    for script in ([Ending.RST], [2.0], [b"\0"], [reply(b"x", status="500 Oops")], [reply()]):
        backend.will(*script)
        backend.will(*script)
        await gateway.ask(post(BODY, *good, f"traceparent: 00-{'1' * 32}-{'2' * 16}-01"))


async def test_no_secret_leaves_of_a_gateway_that_has_everything(start_backend, authority, files):
    folder, key_lines = files
    serves, asks = contexts(authority)
    backend = await start_backend(tls=serves)
    port = free_port()
    gateway = None
    async with collecting() as collector:
        try:
            with store_in(folder / "store", port, STORE_PASSWORD):
                gateway = Serving(folder, backend.url, configuration(port, collector.url), asks)
                assert await gateway.is_ready()
                await _ask_in_every_way(gateway, backend)
                await look_at_every_page(gateway)
            await gateway.ask(post(BODY, *SHOWN[0]))  # there is no store
            with store_in(folder / "other", port, "canary-of-somebody-else"):
                assert await settled(
                    lambda: b"WRONGPASS" in gateway.written or b"degraded" in gateway.written, 5
                )
                await gateway.ask(post(BODY, *SHOWN[0]))
                await look_at_every_page(gateway)
                for content in BAD_BY_TLS:
                    (folder / "key.pem").write_text(content)
                    told = await gateway.admin(operator("POST", "/api/v1/reload"))
                    assert b" 200 " not in told[:20]
                (folder / "digest").write_text("canary-no-digest")
                assert b" 200 " not in (await gateway.admin(operator("POST", "/api/v1/reload")))[:20]
                await look_at_every_page(gateway)
            collector.status = 401
            await gateway.ask(post(BODY, *SHOWN[0]))
            assert await settled(lambda: len(collector.headers) > 1, 5)
            gateway.child.terminate()
            assert await settled(lambda: gateway.child.poll() is not None, READY_S)
        finally:
            if gateway is not None:
                gateway.child.kill()
                gateway.child.wait(READY_S)
        collected = collector.raw
        assert len(collector.spans) > len(SHOWN) and b"team-a" in gateway.written

        sent_along = [headers.pop("x-collector-key") for headers in collector.headers]
        assert set(sent_along) == {COLLECTOR_KEY}
        collected += repr(collector.headers).encode()
    sent = b"".join(request.raw for request in backend.requests)
    is_once_in_each = sent.count(CLUSTER_KEY.encode()) == len(backend.requests)
    assert is_once_in_each and len(backend.requests) > 10
    places = {
        "answers": gateway.heard,
        "written": gateway.written,
        "requests": sent.replace(CLUSTER_KEY.encode(), b""),
        "spans": collected,
    }
    assert {where: found for where, text in places.items() if (found := found_in(text, key_lines))} == {}


async def test_no_secret_is_in_the_repr_of_a_gateway_that_has_everything(
    start_backend, start_gateway, authority, files
):
    folder, key_lines = files
    serves, asks = contexts(authority)
    backend = await start_backend(tls=serves)
    backend.default = [HANG]
    port = free_port()
    async with collecting() as collector:
        with store_in(folder / "store", port, STORE_PASSWORD):
            text = configuration(port, collector.url).format(url=backend.url)
            (folder / "spillway.yaml").write_text(text)
            shown = repr(load(folder / "spillway.yaml"))
            own = "\n".join(
                line for line in text.splitlines() if not re.match("(listen|admin|access_log):", line)
            )
            gateway = await start_gateway(own)
            client = await gateway.connect(asks)
            await client.send(post(BODY, *SHOWN[0]))
            assert await settled(lambda: bool(backend.requests))
            of_ours = [each for each in gc.get_objects() if str(type(each).__module__).startswith("gateway.")]
            shown += "\n".join(map(repr, of_ours))
            gateway.is_stopped = True
            client.close()
            await gateway.gateway.stop()
    for name in ("UpstreamPool", "Exchange", "KeyUse", "ClientKeys", "SpanSink", "SharedStore"):
        assert name in shown, name
    assert found_in(shown.encode(), key_lines) == []
