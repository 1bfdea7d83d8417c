"""Every route of the admin port, and what each asks of who comes. A new one has to be put into the table."""

from __future__ import annotations

import pytest
from fake_gateway import ONE, FakeGateway, Serve

from gateway.admin.one_gateway import OneGateway
from gateway.admin.ports import AdminSettings
from gateway.admin.server import AdminServer

TOKEN = "correct horse"
READS = {
    "/health/liveness",
    "/livez",
    "/health/readiness",
    "/readyz",
    "/metrics",
    "/api/v1/fleet",
    "/api/v1/explain",
}
# Each with the methods that do something; a local caller needs no token for the one marked.
WRITES = {
    "/health/drain": {"GET", "POST"},
    f"/api/v1/backends/{ONE}/drain": {"POST"},
    f"/api/v1/backends/{ONE}/undrain": {"POST"},
    "/api/v1/clusters/here/drain": {"POST"},
    "/api/v1/clusters/here/undrain": {"POST"},
    "/api/v1/reload": {"POST"},
}
PATTERN = "/api/v1/{kind}/{name}"
# Not from this machine itself: a proxy stands between.
FROM_AFAR = {"X-Forwarded-For": "10.0.0.1"}


def routes() -> set[tuple[str, str]]:
    """Method and path of every route there is."""
    server = AdminServer(AdminSettings(), OneGateway(FakeGateway().ports()))
    found = set()
    for route in server._application().router.routes():
        assert route.resource is not None
        found.add((route.method, route.resource.canonical))
    return found


def test_the_table_knows_every_route() -> None:
    known = {(method, path) for path in READS for method in ("GET", "HEAD")}
    for path, methods in WRITES.items():
        is_of_one = path.startswith(("/api/v1/clusters/", "/api/v1/backends/"))
        shown = f"{PATTERN}/{path.rpartition('/')[2]}" if is_of_one else path
        known |= {(method, shown) for method in methods}
    assert routes() == known


@pytest.mark.parametrize("path", WRITES)
async def test_each_write_needs_the_token(serve: Serve, path: str) -> None:
    gateway = await serve(TOKEN)
    for method in WRITES[path]:
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN}x"}):
            answer = await gateway.ask(method, path, **FROM_AFAR, **shown)
            assert (answer.status, answer.code) == (401, "unauthorized")
        answer = await gateway.ask(method, path, **FROM_AFAR, Authorization=f"Bearer {TOKEN}")
        assert answer.status != 401
    assert gateway.drains == (2 if path == "/health/drain" else 0)


@pytest.mark.parametrize("path", sorted(WRITES))
async def test_no_write_is_taken_for_the_page_of_another_origin(serve: Serve, path: str) -> None:
    gateway = await serve()
    for method in WRITES[path]:
        answer = await gateway.ask(method, path, Origin="http://evil.example")
        assert (answer.status, answer.code) == (403, "origin_refused")
    assert gateway.drains == 0


@pytest.mark.parametrize("path", sorted({*READS, *WRITES}))
async def test_no_route_answers_to_a_rebound_name(serve: Serve, path: str) -> None:
    gateway = await serve()
    for method in WRITES.get(path, {"GET"}):
        answer = await gateway.ask(method, path, Host="evil.example")
        assert (answer.status, answer.code) == (403, "host_refused")
    assert gateway.drains == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_read_by_another_method_is_a_write_to_the_guard(serve: Serve, method: str) -> None:
    gateway = await serve(TOKEN)
    for path in READS:
        assert (await gateway.ask(method, path)).status == 401
