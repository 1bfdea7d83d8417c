"""One probe against one backend, whatever that backend may do."""

from __future__ import annotations

import ssl
from time import monotonic

import pytest
import trustme

from gateway.core.health import NO_ADVICE, Advice, ProbeReported
from gateway.health.client import HealthClient
from gateway.health.prober import MAX_BODY_BYTES, probe
from tests.health.asking import target_of
from tests.proxy.dialogue import (
    HANG,
    LAST_CHUNK,
    Ending,
    ScriptedBackend,
    chunk,
    event_stream,
    reply,
    settled,
)


async def ask(
    client: HealthClient, backend: ScriptedBackend | int, health: str = "", **more
) -> ProbeReported:
    target = target_of(backend, health=f"{{{health}}}", **more)
    assert target.health is not None
    return await probe(client, target, target.health)


def failed(backend: ScriptedBackend, reason: str) -> ProbeReported:
    return ProbeReported(f"here@127.0.0.1:{backend.port}", False, reason)


def passed(backend: ScriptedBackend, advice: Advice = NO_ADVICE) -> ProbeReported:
    return ProbeReported(f"here@127.0.0.1:{backend.port}", True, "completed", advice)


async def test_what_is_asked(client, start_backend) -> None:
    backend = await start_backend()
    assert await ask(client, backend, "path: /ready/x") == passed(backend)
    (request,) = backend.requests
    assert (request.method, request.target, request.body) == ("GET", "/ready/x", b"")
    assert dict(request.headers) == {
        "host": f"127.0.0.1:{backend.port}",
        "user-agent": "spillway-health",
        "accept-encoding": "identity",
        "accept": "*/*",
        "connection": "close",
    }


async def test_it_goes_behind_the_prefix_with_the_clusters_own_credential(client, start_backend) -> None:
    backend = await start_backend()
    target = target_of(
        backend, health="{}", auth="{header: X-Key, value: hunter2}", backends=f"['{backend.url}/engine']"
    )
    await probe(client, target, target.health)
    (request,) = backend.requests
    assert (request.target, request.header("x-key")) == ("/engine/health", "hunter2")


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "299 Odd"])
async def test_2xx_passes(client, start_backend, status) -> None:
    backend = await start_backend()
    backend.will(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    assert await ask(client, backend) == passed(backend)


@pytest.mark.parametrize("status", ["301", "400", "401", "404", "429", "500", "503"])
async def test_anything_else_fails_and_its_words_do_not_count(client, start_backend, status) -> None:
    backend = await start_backend()
    backend.will(reply(b"ready maxconn:1", status=f"{status} Because"))
    assert await ask(client, backend) == failed(backend, f"status_{status}")


async def test_a_redirect_is_not_followed(client, start_backend) -> None:
    elsewhere, backend = await start_backend(), await start_backend()
    backend.will(reply(b"", f"Location: {elsewhere.url}/health", status="302 Found"))
    assert await ask(client, backend) == failed(backend, "status_302")
    assert not elsewhere.requests


async def test_cookies_are_not_kept_and_no_connection_is(client, start_backend) -> None:
    backend = await start_backend()
    backend.will(reply(b"", "Set-Cookie: a=b; Path=/"))
    for _ in range(2):
        assert await ask(client, backend) == passed(backend)
    assert [request.header("cookie") for request in backend.requests] == [None, None]
    assert [request.connection for request in backend.requests] == [0, 1]


async def test_a_proxy_of_the_environment_is_not_used(client, start_backend, monkeypatch) -> None:
    backend, proxy = await start_backend(), await start_backend()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    assert await ask(client, backend) == passed(backend)
    assert not proxy.requests


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([HANG], "first_byte_timeout"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", HANG], "first_byte_timeout"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", HANG], "total_timeout"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", Ending.FIN], "truncated"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", Ending.FIN], "truncated"),
        ([Ending.RST], "reset"),
        ([Ending.FIN], "reset"),
        ([b"SSH-2.0-OpenSSH\r\n\r\n", Ending.FIN], "bad_response"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", Ending.FIN], "bad_response"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 50, HANG], "first_byte_timeout"),
    ],
)
async def test_what_goes_wrong_is_named_in_time(client, start_backend, script, reason) -> None:
    backend = await start_backend()
    backend.will(*script)
    began_s = monotonic()
    assert await ask(client, backend, "timeout: 100ms") == failed(backend, reason)
    assert monotonic() - began_s < 0.6
    assert len(backend.connections) == 1, "asked twice"


async def test_an_answer_that_trickles_has_no_longer(client, start_backend) -> None:
    backend = await start_backend()
    backend.will(event_stream(), *[step for _ in range(100) for step in (chunk(b"a"), 0.03)], LAST_CHUNK)
    began_s = monotonic()
    assert await ask(client, backend, "timeout: 100ms") == failed(backend, "total_timeout")
    assert monotonic() - began_s < 0.6


async def test_nobody_there(client, start_backend, deaf_port) -> None:
    backend = await start_backend()
    await backend.refuse()
    assert await ask(client, backend) == failed(backend, "connect_failed")
    for health in ("timeout: 80ms", "timeout: 80ms, tcp: true"):
        target = target_of(deaf_port, health=f"{{{health}}}")
        event = await probe(client, target, target.health)
        assert (event.passed, event.reason) in {(False, "connect_timeout"), (False, "first_byte_timeout")}


async def test_tcp_only_connects(client, start_backend) -> None:
    backend = await start_backend()
    assert await ask(client, backend, "tcp: true") == passed(backend)
    assert await settled_lost(backend)
    assert backend.received_bytes == 0
    await backend.refuse()
    assert await ask(client, backend, "tcp: true") == failed(backend, "connect_failed")


async def settled_lost(backend: ScriptedBackend) -> bool:
    """Has the one connection come, and gone?"""
    return await settled(lambda: bool(backend.connections) and not backend.open_connections)


async def test_words_are_obeyed_only_from_an_agent(client, start_backend) -> None:
    backend = await start_backend()
    backend.default = [reply(b"Drain 50% maxconn:3 \xff\r\n")]
    assert await ask(client, backend) == passed(backend, Advice(True, 0.5, 3))
    assert await ask(client, backend, "agent: false") == passed(backend)


async def test_a_huge_body_is_left_unread(client, start_backend) -> None:
    backend = await start_backend()
    size = 512 * 1024 * 1024
    backend.will(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\ndrain\n" % size, *[b"x" * 2 * MAX_BODY_BYTES] * 4, HANG
    )
    assert await ask(client, backend) == passed(backend), "a page, not an agent"
    assert await settled_lost(backend)


async def test_nothing_is_unpacked(client, start_backend) -> None:
    backend = await start_backend()
    backend.will(reply(b"not gzip", "Content-Encoding: gzip"))
    assert await ask(client, backend) == passed(backend)


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority, start_backend, tmp_path) -> ScriptedBackend:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("engine.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return await start_backend(tls=context)


async def test_tls_is_that_of_the_cluster(client, secure, tmp_path) -> None:
    tls = "{ca_file: ca.pem, server_name: engine.example}"
    assert await ask(client, secure, tls=tls, base_dir=tmp_path) == passed(secure)


@pytest.mark.parametrize("tls", ["{ca_file: ca.pem}", "{server_name: engine.example}"])
async def test_certificates_are_verified(client, secure, tmp_path, tls) -> None:
    assert await ask(client, secure, tls=tls, base_dir=tmp_path) == failed(secure, "connect_failed")
    assert not secure.requests
