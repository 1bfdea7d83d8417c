"""TLS on both sides: verified always, and as visible to the backend as it must be."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from tests.proxy.dialogue import BODY, LAST_CHUNK, Client, chunk, event_stream, post


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
