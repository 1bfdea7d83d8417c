"""TLS on both sides: verified always, and as visible to the backend as it must be."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

import pytest
import trustme

from gateway.proxy.downstream import LINGER_S
from tests.proxy.dialogue import BODY, LAST_CHUNK, Client, chunk, event_stream, post, settled
from tests.proxy.tunnels import Switching, ask, switch, text_frame


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def files(authority, tmp_path):
    """Certificates as the configuration names them: ca.pem, cert.pem, key.pem."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(tmp_path / "cert.pem"), append=True)
    return tmp_path


def fleet(url: str, tls: str) -> str:
    return f"clusters: [{{name: a, limit: 8, backends: ['{url}'], tls: {{{tls}}}}}]"


async def test_towards_a_backend_it_is_verified_and_kept_alive(
    start_backend, start_gateway, server_tls, files
):
    backend = await start_backend(tls=server_tls)
    gateway = await start_gateway(fleet(backend.url, "ca_file: ca.pem"))
    big = b'{"model":"m","x":"%b"}' % (b"x" * 500_000)
    for body in (BODY, big, BODY):
        assert (await gateway.ask(post(body))).status == 200
    assert [request.body for request in backend.requests] == [BODY, big, BODY]
    assert len(backend.connections) == 1


async def test_a_certificate_of_another_name_is_refused(start_backend, start_gateway, authority, files):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    backend = await start_backend(tls=context)
    refusing = await start_gateway(fleet(backend.url, "ca_file: ca.pem"))
    refusing.good_request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await refusing.ask(post())
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert not backend.requests
    trusting = await start_gateway(fleet(backend.url, "ca_file: ca.pem, server_name: elsewhere.example"))
    assert (await trusting.ask(post())).status == 200


async def test_a_certificate_of_an_unknown_authority_is_refused(start_backend, start_gateway, files):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    backend = await start_backend(tls=context)
    gateway = await start_gateway(fleet(backend.url, "ca_file: ca.pem"))
    gateway.good_request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    assert (await gateway.ask(post())).status == 502
    assert not backend.requests


@pytest.fixture
async def secure(start_backend, start_gateway, files):
    backend = await start_backend()
    gateway = await start_gateway("tls: {cert_file: cert.pem, key_file: key.pem}", backend)
    gateway.is_stopped = True  # the plain-text check at the end does not apply; see `clean`
    yield gateway, backend
    await gateway.check_clean()
    await gateway.stop()


async def test_a_client_speaks_tls(secure, client_tls):
    gateway, backend = secure
    client = await gateway.connect(client_tls)
    backend.will(event_stream() + chunk(b"data: 1\n\n"), 0.01, chunk(b"data: 2\n\n") + LAST_CHUNK)
    await client.send(post())
    assert (await client.answer()).body == b"data: 1\n\ndata: 2\n\n"
    await client.send(post() + post())
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert backend.requests[0].all("x-forwarded-proto") == ["https"]
    assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() in (None, "http/1.1")


async def test_a_refused_request_is_answered_before_the_end(secure, client_tls):
    gateway, _ = secure
    client = await gateway.connect(client_tls)
    await client.send(b"NONSENSE\r\n\r\n")
    assert (await client.answer()).status == 400
    assert await client.rest() == b""


async def test_plain_text_on_a_tls_port_gets_nothing(secure):
    gateway, backend = secure
    client = await Client.connect(gateway.port)
    await client.send(post())
    assert b"HTTP" not in await client.rest()
    client.close()
    assert not backend.requests


async def test_a_client_that_leaves_is_seen_through_tls(secure, client_tls):
    gateway, backend = secure
    backend.will(event_stream() + chunk(b"data: 1\n\n"), float("inf"))
    client = await gateway.connect(client_tls)
    await client.send(post())
    await client.head()
    client.writer.transport.abort()
    await asyncio.wait_for(backend.connections[-1].is_lost.wait(), 0.3)


async def silent_client(port: int, tls: ssl.SSLContext, sent: bytes = b"") -> ssl.SSLSocket:
    """One that neither reads nor closes: it does not answer the goodbye of TLS."""

    def connect() -> ssl.SSLSocket:
        client = tls.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
        client.sendall(sent)
        return client

    return await asyncio.to_thread(connect)


async def test_a_refused_client_that_does_not_close_is_waited_for_as_long_as_without_tls(secure, client_tls):
    gateway, _ = secure
    client = await silent_client(gateway.port, client_tls, b"NONSENSE\r\n\r\n")
    began_s = time.monotonic()
    assert await settled(lambda: len(gateway.records) == 1)
    assert gateway.plane.connection_count == 1, "closed without lingering"
    assert await settled(lambda: gateway.plane.connection_count == 0, LINGER_S + 1)
    assert time.monotonic() - began_s > LINGER_S / 2
    client.settimeout(1)
    assert (await asyncio.to_thread(client.recv, 100)).startswith(b"HTTP/1.1 400")
    client.close()


async def test_the_answer_to_a_tls_client_that_goes_on_sending_is_not_lost(secure, client_tls):
    """Requests ahead of the bad one have made the gateway stop reading when it comes to close."""
    gateway, _ = secure
    client = await gateway.connect(client_tls)
    ahead = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 40
    client.writer.write(ahead + b"NONSENSE\r\n\r\n")
    for _ in range(8):
        await client.send(b"x" * 100_000, 0.02)
    assert [(await client.answer()).status for _ in range(41)] == [200] * 40 + [400]


async def test_an_idle_tls_client_that_does_not_answer_does_not_hold_up_the_end(secure, client_tls):
    gateway, _ = secure
    client = await silent_client(gateway.port, client_tls)
    assert await settled(lambda: gateway.plane.connection_count == 1)
    began_s = time.monotonic()
    assert await gateway.gateway.drain() is True
    assert time.monotonic() - began_s < LINGER_S + 1
    client.close()


async def test_a_tunnel_through_tls_on_both_sides_ends_for_both(
    start_backend, start_gateway, server_tls, client_tls, files
):
    backend = await start_backend(tls=server_tls)
    gateway = await start_gateway(
        "tls: {cert_file: cert.pem, key_file: key.pem}", fleet(backend.url, "ca_file: ca.pem")
    )
    gateway.is_stopped = True  # looked at below: its clients speak TLS
    engine = Switching(backend, switch() + text_frame(b"first"))
    client = await gateway.connect(client_tls)
    await client.send(ask())
    await client.head()
    assert await client.reader.readexactly(7) == text_frame(b"first")
    large = b"x" * 2_000_000
    client.writer.write(large)
    assert await settled(lambda: engine.heard == [large], within_s=3)
    engine.ends[0].transport.close()
    assert await client.rest() == b""
    assert await settled(lambda: gateway.is_clean and gateway.plane.connection_count == 0)
    assert gateway.records[-1].bytes_in == len(large)
    await gateway.stop()
