"""What the admin port answers, over a real socket."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_gateway import ONE, SPOT, TWO, FakeGateway, Serve

from gateway.admin.one_gateway import OneGateway
from gateway.admin.ports import AdminPorts, AdminSettings, GatewayState, GatewayStatus
from gateway.admin.server import AdminServer
from gateway.core.fleet import AttemptFinished, AttemptStarted, Drained, FirstByteSeen, Ticked, UnknownName
from gateway.core.model import Outcome, Reason

DRAIN_HERE = "/api/v1/clusters/here/drain"


def open_backends(gateway: FakeGateway) -> set[str]:
    return {b.id for cluster in gateway.fleet.view.clusters.values() for b in cluster.open_backends}


@pytest.mark.parametrize("path", ["/health/liveness", "/livez"])
async def test_a_running_gateway_is_alive_in_every_state(serve: Serve, path: str) -> None:
    gateway = await serve()
    gateway.status = GatewayStatus(GatewayState.DRAINING)
    answer = await gateway.ask("GET", path)
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(("state", "status"), [("starting", 503), ("ready", 200), ("draining", 503)])
@pytest.mark.parametrize("path", ["/health/readiness", "/readyz"])
async def test_only_a_ready_gateway_is_ready(serve: Serve, path: str, state: str, status: int) -> None:
    gateway = await serve()
    gateway.status = GatewayStatus(GatewayState(state), 3, {"store": "memory"})
    answer = await gateway.ask("GET", path)
    assert answer.status == status
    assert answer.json == {"status": state, "in_flight": 3, "store": "memory"}


async def test_metrics_come_in_the_format_asked_for(serve: Serve) -> None:
    gateway = await serve()
    plain = await gateway.ask("GET", "/metrics")
    assert (plain.body, plain.headers["Content-Type"]) == (b"a 1\nb 2\n", "text/plain")
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3"
    assert (await gateway.ask("GET", "/metrics", Accept=accept)).body == b"# EOF\n"


async def test_the_fleet_page_shows_tiers_in_order_with_their_numbers(serve: Serve) -> None:
    gateway = await serve()
    for backend_id in (ONE, ONE, ONE, SPOT):
        gateway.apply(AttemptStarted(backend_id))
    gateway.apply(FirstByteSeen(ONE, 0.25))
    gateway.apply(Drained(TWO, 1030.5))
    page = (await gateway.ask("GET", "/api/v1/fleet")).json
    primary, spot = page["tiers"]
    assert [primary["name"], spot["name"]] == ["primary", "spot"]
    assert {key: primary[key] for key in ("in_flight", "limit", "headroom", "share")} == {
        "in_flight": 3,
        "limit": 8,
        "headroom": 5,
        "share": 0.75,
    }
    (here,) = primary["clusters"]
    assert (here["name"], here["drained"], here["in_flight"]) == ("here", False, 3)
    one, two = here["backends"]
    assert one == {
        "id": ONE,
        "weight": 2.0,
        "in_flight": 3,
        "limit": 4,
        "headroom": 1,
        "share": 0.75,
        "drained": False,
        "drained_for_s": None,
        "latency_ewma_ms": 250.0,
        "circuit": {"state": "closed", "trigger": None, "reason": None, "for_s": None},
        "health": None,
    }
    assert here["capacity"] == {"ready": 1, "expected": 2, "share": 0.5}
    assert (two["drained"], two["drained_for_s"]) == (True, 30.5)
    assert page["in_flight"] == 4


async def test_the_fleet_page_says_why_a_circuit_is_open_and_for_how_long(serve: Serve) -> None:
    gateway = await serve()
    for _ in range(5):
        gateway.apply(AttemptStarted(ONE))
        gateway.apply(AttemptFinished(ONE, Outcome.of(Reason.RESET)))
    gateway.now_s += 0.25
    page = (await gateway.ask("GET", "/api/v1/fleet")).json
    one, two = page["tiers"][0]["clusters"][0]["backends"]
    assert one["circuit"] == {"state": "open", "trigger": "consecutive", "reason": "reset", "for_s": 0.25}
    assert two["circuit"]["state"] == "closed"
    gateway.now_s += 1.0
    gateway.apply(Ticked())
    page = (await gateway.ask("GET", "/api/v1/fleet")).json
    one, _ = page["tiers"][0]["clusters"][0]["backends"]
    assert one["circuit"] == {"state": "half_open", "trigger": "consecutive", "reason": "reset", "for_s": 0.0}


async def test_the_fleet_page_of_an_idle_fleet_and_no_secrets(serve: Serve) -> None:
    gateway = await serve()
    answer = await gateway.ask("GET", "/api/v1/fleet")
    assert answer.json["share"] == 0
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    ("query", "body"),
    [("?for=60s", b""), ("", b'{"for": "1m"}'), ("", b'{"for": 60}'), ("", b'{"for": 60.0}')],
)
async def test_a_drain_for_a_time_ends_by_the_clock(serve: Serve, query: str, body: bytes) -> None:
    gateway = await serve()
    answer = await gateway.ask("POST", DRAIN_HERE + query, body)
    assert (answer.status, answer.json["drained_for_s"]) == (200, 60.0)
    assert open_backends(gateway) == {SPOT}
    gateway.now_s += 59
    gateway.apply(Ticked())
    assert open_backends(gateway) == {SPOT}
    gateway.now_s += 1
    gateway.apply(Ticked())
    assert open_backends(gateway) == {ONE, TWO, SPOT}


async def test_a_drain_without_a_time_lasts_until_undrain(serve: Serve) -> None:
    gateway = await serve()
    gateway.apply(AttemptStarted(ONE))
    answer = await gateway.ask("POST", DRAIN_HERE)
    assert answer.json == {"name": "here", "in_flight": 1, "drained": True, "drained_for_s": None}
    gateway.now_s += 1e9
    gateway.apply(Ticked())
    assert open_backends(gateway) == {SPOT}
    answer = await gateway.ask("POST", "/api/v1/clusters/here/undrain")
    assert answer.json["drained"] is False
    assert open_backends(gateway) == {ONE, TWO, SPOT}


async def test_an_order_that_nobody_waits_for_any_more_changes_nothing(serve: Serve) -> None:
    """A worker that hung finds it when it goes on, and by then its parent may have told the opposite."""
    gateway = await serve()
    late = await gateway.ask("POST", DRAIN_HERE, x_spillway_before=f"{gateway.now_s - 0.1}")
    assert (late.status, late.code) == (409, "too_late")
    assert open_backends(gateway) == {ONE, TWO, SPOT}
    in_time = await gateway.ask("POST", DRAIN_HERE, x_spillway_before=f"{gateway.now_s + 0.1}")
    assert in_time.status == 200 and open_backends(gateway) == {SPOT}
    wrong = await gateway.ask("POST", DRAIN_HERE, x_spillway_before="soon")
    assert (wrong.status, wrong.json["error"]["param"]) == (400, "x-spillway-before")


@pytest.mark.parametrize("written", [TWO, TWO.replace("/", "%2F").replace("@", "%40")])
async def test_a_backend_is_found_by_its_id_slashes_and_all(serve: Serve, written: str) -> None:
    gateway = await serve()
    answer = await gateway.ask("POST", f"/api/v1/backends/{written}/drain?for=5s")
    assert answer.json["name"] == TWO
    assert open_backends(gateway) == {ONE, SPOT}
    await gateway.ask("POST", f"/api/v1/backends/{written}/undrain")
    assert open_backends(gateway) == {ONE, TWO, SPOT}


@pytest.mark.parametrize("verb", ["drain", "undrain"])
@pytest.mark.parametrize(("kind", "known"), [("cluster", "cheap, here"), ("backend", SPOT)])
async def test_an_unknown_name_is_404_with_the_known_ones(
    serve: Serve, kind: str, known: str, verb: str
) -> None:
    answer = await (await serve()).ask("POST", f"/api/v1/{kind}s/hree/{verb}")
    assert (answer.status, answer.code) == (404, f"{kind}_not_found")
    assert answer.json["error"]["type"] == "not_found_error"
    assert answer.json["error"]["param"] == kind
    assert "'hree'" in answer.json["error"]["message"]
    assert known in answer.json["error"]["message"]


async def test_a_cluster_is_not_a_backend(serve: Serve) -> None:
    answer = await (await serve()).ask("POST", "/api/v1/backends/here/drain")
    assert (answer.status, answer.code) == (404, "backend_not_found")


async def test_a_name_that_a_reload_took_away_meanwhile_is_404(serve: Serve) -> None:
    gateway = await serve()

    def gone(event: object) -> None:
        raise UnknownName("here")

    object.__setattr__(gateway, "apply", gone)
    server = AdminServer(AdminSettings("127.0.0.1", 0), OneGateway(gateway.ports()))
    await server.start()
    gateway.port = server.port
    answer = await gateway.ask("POST", DRAIN_HERE)
    await server.stop()
    assert (answer.status, answer.code) == (404, "cluster_not_found")


@pytest.mark.parametrize(
    ("query", "body", "param"),
    [
        ("?for=soon", b"", "for"),
        ("?for=0s", b"", "for"),
        ("?for=-5s", b"", "for"),
        ("?for=60", b"", "for"),
        ("", b'{"for": 0}', "for"),
        ("", b'{"for": true}', "for"),
        ("", b'{"for": [1]}', "for"),
        ("", b'{"for": 1e400}', None),
        ("", b'{"fro": "60s"}', "fro"),
        ("", b"[]", None),
        ("", b"{", None),
        ("", b"\xff", None),
    ],
)
async def test_a_malformed_drain_changes_nothing(
    serve: Serve, query: str, body: bytes, param: str | None
) -> None:
    gateway = await serve()
    answer = await gateway.ask("POST", DRAIN_HERE + query, body)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert answer.json["error"]["param"] == param
    assert open_backends(gateway) == {ONE, TWO, SPOT}


async def test_errors_of_the_server_itself_have_the_same_shape(serve: Serve) -> None:
    gateway = await serve()
    missing = await gateway.ask("GET", "/api/v1/nothing")
    assert (missing.status, missing.code) == (404, "not_found")
    wrong = await gateway.ask("POST", "/metrics")
    assert (wrong.status, wrong.code) == (405, "method_not_allowed")
    assert wrong.headers["Allow"] == "GET, HEAD"
    large = await gateway.ask("POST", DRAIN_HERE, b" " * 20_000)
    assert (large.status, large.code) == (413, "request_entity_too_large")


async def test_a_defect_is_500_and_says_nothing_of_the_inside(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await serve()
    gateway.status = None  # type: ignore[assignment]
    answer = await gateway.ask("GET", "/readyz")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"NoneType" not in answer.body
    assert "AttributeError" in caplog.text


async def test_answers_do_not_name_the_software_inside(serve: Serve) -> None:
    answer = await (await serve()).ask("GET", "/livez")
    assert answer.headers["Server"] == "spillway"


# --- the drain of the whole gateway ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_drain_answers_when_all_is_done(serve: Serve, method: str) -> None:
    gateway = await serve()
    gateway.drained = asyncio.get_running_loop().create_future()
    asking = asyncio.ensure_future(gateway.ask(method, "/health/drain"))
    await gateway.drain_asked.wait()
    await asyncio.sleep(0.02)
    assert not asking.done()
    gateway.drained.set_result(True)
    answer = await asking
    assert (answer.status, answer.json) == (200, {"status": "drained", "in_flight": 0})


async def test_a_drain_that_ran_out_of_time_says_how_many_are_left(serve: Serve) -> None:
    gateway = await serve()
    gateway.drained = asyncio.get_running_loop().create_future()
    gateway.drained.set_result(False)
    answer = await gateway.ask("GET", "/health/drain")
    assert (answer.status, answer.code) == (504, "drain_timeout")
    assert "2 exchanges" in answer.json["error"]["message"]


async def test_a_head_does_not_end_a_gateway(serve: Serve) -> None:
    gateway = await serve()
    assert (await gateway.ask("HEAD", "/health/drain")).status == 405
    assert gateway.drains == 0


# --- settings and life -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "admin.example.org"])
def test_without_a_token_only_loopback_is_bound(host: str) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        AdminSettings(host, 9090)
    assert AdminSettings(host, 9090, "secret").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_token(host: str) -> None:
    assert AdminSettings(host, 9090).token is None


def test_an_empty_token_is_a_mistake_and_a_token_is_never_shown() -> None:
    with pytest.raises(ValueError, match="empty"):
        AdminSettings("127.0.0.1", 9090, " \n")
    assert "hunter2" not in repr(AdminSettings("127.0.0.1", 9090, "hunter2"))


async def test_a_taken_port_is_an_os_error_and_leaves_nothing_behind(serve: Serve) -> None:
    gateway = await serve()
    ports: AdminPorts = gateway.ports()
    server = AdminServer(AdminSettings("127.0.0.1", gateway.port), OneGateway(ports))
    with pytest.raises(OSError):
        await server.start()
    await server.stop()
    assert (await gateway.ask("GET", "/livez")).status == 200


def test_without_the_c_parser_of_aiohttp_the_gateway_does_not_start(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\n"
        "clusters: [{name: a, limit: 1, backends: ['http://127.0.0.1:9']}]\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config)],
        env=os.environ | {"AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ended.returncode == 1
    assert "can't start: aiohttp runs without its C parser" in ended.stderr
    assert "Traceback" not in ended.stderr
