# ruff: noqa: F811 - the fixtures of test_reload
"""Clients show their certificates to the gateway, and the gateway shows its own to backends."""

from __future__ import annotations

import asyncio
import ssl
import warnings

import pytest
import trustme

from gateway.config.fleet import UpstreamTls
from gateway.config.tls_contexts import upstream_context
from tests.proxy.dialogue import BODY, get, post, settled
from tests.proxy.test_reload import quick, start  # noqa: F401 - fixtures

TLS = "tls: {cert_file: cert.pem, key_file: key.pem, client_ca_file: clients.pem}"


@pytest.fixture(scope="module")
def servers() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(servers, clients, tmp_path):
    """A server's cert.pem and key.pem, client.pem and client.key; what signs them: ca.pem, clients.pem."""
    for authority, name, cert, key in (
        (servers, "localhost", "cert.pem", "key.pem"),
        (clients, "gateway.example", "client.pem", "client.key"),
    ):
        issued = authority.issue_cert(name, "127.0.0.1")
        issued.private_key_pem.write_to_path(str(tmp_path / key))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / cert))
    servers.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    return tmp_path


def client_context(servers: trustme.CA, shown: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    servers.configure_trust(context)
    if shown is not None:
        shown.issue_cert("team-a.example").configure_cert(context)
    return context


async def is_served(gateway, tls: ssl.SSLContext) -> bool:
    """Whether a client with this context gets an answer; TLS 1.3 tells it of a refusal only afterwards."""
    try:
        client = await gateway.connect(tls)
        await client.send(post())
        return (await client.answer()).status == 200
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return False


async def close(gateway) -> None:
    """The plain-text check at the end of a test does not apply."""
    gateway.is_stopped = True
    await gateway.check_clean()
    await gateway.stop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_only_who_shows_a_certificate_of_the_right_authority_is_served(
    start_gateway, start_backend, servers, clients, files, version
):
    backend = await start_backend()
    gateway = await start_gateway(TLS, backend)
    for shown, expected in ((clients, True), (None, False), (trustme.CA(), False), (servers, False)):
        tls = client_context(servers, shown)
        tls.minimum_version = tls.maximum_version = version
        assert await is_served(gateway, tls) is expected
    assert len(backend.requests) == 1
    await close(gateway)


async def test_no_session_is_taken_up_again_without_the_certificate(
    start_gateway, start_backend, servers, clients, files
):
    gateway = await start_gateway(TLS, await start_backend())
    tls = client_context(servers, clients)
    client = await gateway.connect(tls)
    await client.send(post())
    assert (await client.answer()).status == 200
    session = client.writer.get_extra_info("ssl_object").session
    assert session is None or not session.has_ticket
    await close(gateway)


async def test_older_tls_is_refused_on_both_sides(start_gateway, start_backend, servers, files):
    gateway = await start_gateway("tls: {cert_file: cert.pem, key_file: key.pem}", await start_backend())
    tls = client_context(servers)
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert not await is_served(gateway, tls)
    context = upstream_context(UpstreamTls("localhost"))
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    await close(gateway)


async def test_renewed_authorities_hold_for_the_next_handshake(
    quick,
    start,
    start_backend,
    servers,
    clients,
    files,
):
    backend = await start_backend()
    gateway = await start(TLS, backend)
    assert await is_served(gateway, client_context(servers, clients))
    others = trustme.CA()
    others.cert_pem.write_to_path(str(files / "clients.pem"))
    assert await settled(lambda: gateway.gateway.config_status().generation == 2)
    assert not await is_served(gateway, client_context(servers, clients))
    assert await is_served(gateway, client_context(servers, others))


async def test_that_certificates_are_asked_for_changes_only_with_a_restart(
    start,
    start_backend,
    servers,
    clients,
    files,
):
    backend = await start_backend()
    gateway = await start(TLS, backend)
    gateway.write("tls: {cert_file: cert.pem, key_file: key.pem}", backend)
    status, page = await gateway.reload()
    assert status == 422 and "tls.client_ca_file: changes only with a restart" in str(page)
    assert not await is_served(gateway, client_context(servers))


def demanding(servers: trustme.CA, clients: trustme.CA) -> ssl.SSLContext:
    """A backend's context that wants to see a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    servers.issue_cert("backend.example").configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_the_gateway_shows_its_certificate_to_a_backend_with_probes_too(
    start_gateway, start_backend, servers, clients, files
):
    backend = await start_backend(tls=demanding(servers, clients))
    asked: list[str | None] = []
    assert backend.tls is not None
    backend.tls.sni_callback = lambda shaking, name, context: asked.append(name)
    gateway = await start_gateway(
        f"clusters: [{{name: a, limit: 8, backends: ['{backend.url}'], health: {{interval: 50ms}}, "
        "tls: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key, server_name: backend.example}}]"
    )
    assert (await gateway.ask(post())).status == 200
    assert await settled(lambda: any(request.target == "/health" for request in backend.requests))
    assert set(asked) == {"backend.example"}
    await close(gateway)


async def test_without_it_that_backend_is_not_reached(start_gateway, start_backend, servers, clients, files):
    backend = await start_backend(tls=demanding(servers, clients))
    gateway = await start_gateway(
        f"clusters: [{{name: a, limit: 8, backends: ['{backend.url}'], "
        "tls: {ca_file: ca.pem, server_name: backend.example}}]",
        good_request=get("/v1/models"),
    )
    answer = await gateway.ask(post(BODY))
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert not backend.requests
