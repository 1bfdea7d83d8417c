"""Who is kept out of the admin port."""

from __future__ import annotations

import pytest
from fake_gateway import FakeGateway, Serve

DRAIN = "/api/v1/clusters/here/drain"
TOKEN = "correct horse"


def is_drained(gateway: FakeGateway) -> bool:
    return gateway.fleet.view.clusters["here"].drained_until_s is not None


@pytest.mark.parametrize(
    "shown", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Bearer correct", f"Basic {TOKEN}", TOKEN]
)
async def test_a_write_without_the_token_is_401(serve: Serve, shown: str | None) -> None:
    gateway = await serve(TOKEN)
    headers = {} if shown is None else {"Authorization": shown}
    for path in (DRAIN, "/api/v1/clusters/here/undrain", "/nowhere"):
        answer = await gateway.ask("POST", path, **headers)
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert answer.json["error"]["type"] == "authentication_error"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not is_drained(gateway)


@pytest.mark.parametrize("shown", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN} "])
async def test_a_write_with_the_token_passes(serve: Serve, shown: str) -> None:
    gateway = await serve(TOKEN)
    assert (await gateway.ask("POST", DRAIN, Authorization=shown)).status == 200
    assert is_drained(gateway)


async def test_reads_need_no_token(serve: Serve) -> None:
    gateway = await serve(TOKEN)
    for path in ("/livez", "/readyz", "/metrics", "/api/v1/fleet"):
        assert (await gateway.ask("GET", path)).status == 200


async def test_a_newline_at_the_end_of_a_token_file_does_not_matter(serve: Serve) -> None:
    gateway = await serve(TOKEN + "\n")
    assert (await gateway.ask("POST", DRAIN, Authorization=f"Bearer {TOKEN}")).status == 200


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example"]
)
async def test_a_page_of_another_origin_may_not_write(serve: Serve, origin: str, token: str | None) -> None:
    gateway = await serve(token)
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    answer = await gateway.ask("POST", DRAIN, Origin=origin, **authorization)
    assert (answer.status, answer.code) == (403, "origin_refused")
    assert not is_drained(gateway)


async def test_a_page_of_the_admin_port_itself_may_write(serve: Serve) -> None:
    gateway = await serve()
    origin = f"http://127.0.0.1:{gateway.port}"
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
    assert (await gateway.ask("POST", DRAIN, **headers)).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "odd"])
async def test_an_image_on_a_foreign_page_cannot_end_the_gateway(serve: Serve, site: str) -> None:
    gateway = await serve()
    answer = await gateway.ask("GET", "/health/drain", Sec_Fetch_Site=site)
    assert (answer.status, answer.code) == (403, "origin_refused")
    assert gateway.drains == 0


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example", ""],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", DRAIN), ("GET", "/api/v1/fleet"), ("GET", "/health/drain")]
)
async def test_a_name_rebound_to_loopback_is_refused(serve: Serve, method: str, path: str, host: str) -> None:
    gateway = await serve()
    # A rebound page is of its own origin, so the Origin check alone would let it pass.
    answer = await gateway.ask(method, path, Host=host, Origin=f"http://{host}")
    assert (answer.status, answer.code) == (403, "host_refused")
    assert not is_drained(gateway) and gateway.drains == 0


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9090", "127.0.0.1", "127.8.8.8:1", "[::1]:9090", "[::1]", "LocalHost."]
)
async def test_loopback_names_are_answered(serve: Serve, host: str) -> None:
    assert (await (await serve()).ask("POST", DRAIN, Host=host)).status == 200


async def test_with_a_token_any_host_name_is_answered(serve: Serve) -> None:
    gateway = await serve(TOKEN)
    headers = {"Host": "spillway.prod.example", "Authorization": f"Bearer {TOKEN}"}
    assert (await gateway.ask("POST", DRAIN, **headers)).status == 200


async def test_a_local_prestop_hook_drains_without_the_token(serve: Serve) -> None:
    gateway = await serve(TOKEN)
    assert (await gateway.ask("GET", "/health/drain")).status == 200
    assert gateway.drains == 1


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
async def test_who_comes_through_a_local_proxy_is_not_local(serve: Serve, header: str) -> None:
    gateway = await serve(TOKEN)
    answer = await gateway.ask("POST", "/health/drain", **{header: "10.0.0.1"})
    assert answer.status == 401
    assert (
        await gateway.ask("POST", "/health/drain", Authorization=f"Bearer {TOKEN}", **{header: "1"})
    ).status == 200
    assert gateway.drains == 1


async def test_a_service_mesh_is_not_local(serve: Serve) -> None:
    gateway = await serve(TOKEN)
    gateway.source = "127.0.0.6"  # where Istio's sidecar hands on what came from elsewhere
    assert (await gateway.ask("GET", "/health/drain")).status == 401
    assert gateway.drains == 0
