"""Several workers on one port: they look like one gateway, and outlive each other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
from fleet import Fleet, Stream, clusters, metrics_of, started, total
from system import is_reaped, wait_for

from tests.proxy.processes import Engine, running, start_engine
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.timeout(90)]
WORKERS = 3
MANY = 300


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = start_engine("--ttft", "1ms", "--tpot", "20ms")
    with running(engine):
        yield engine


@pytest.fixture(scope="module")
def shared(engine: Engine, server_program: str) -> Iterator[Fleet]:
    """For tests that leave everything as it was. Nothing is on PATH, so that the wheel's server is used."""
    with started(f"workers: {WORKERS}\n" + clusters(engine.url), {"PATH": ""}) as fleet:
        yield fleet.wait_ready()


def requests_of(fleet: Fleet, number: int) -> float:
    return total(metrics_of(fleet.worker_page(number, "/metrics")), "requests_total")


def ask_until_all_have_served(fleet: Fleet, workers: int) -> int:
    """The kernel spreads connections by their ports; how many requests it took."""
    before = [requests_of(fleet, number) for number in range(1, workers + 1)]
    for count in range(1, MANY):
        assert fleet.ask() == 200
        if count % 10 == 0:
            now = [requests_of(fleet, number) for number in range(1, workers + 1)]
            if all(b > a for a, b in zip(before, now, strict=True)):
                return count
    raise AssertionError(f"after {MANY} requests some worker has served none")


def test_all_serve_one_port_and_the_metrics_are_their_sum(shared: Fleet) -> None:
    before = total(shared.metrics(), "requests_total")
    sent = ask_until_all_have_served(shared, WORKERS)
    merged = shared.metrics()
    assert total(merged, "requests_total") == before + sent
    own = [metrics_of(shared.worker_page(number, "/metrics")) for number in range(1, WORKERS + 1)]
    for name in ("requests_total", "ttft_seconds_count", "duration_seconds_bucket", "in_flight"):
        assert total(merged, name) == sum(total(one, name) for one in own), name
    assert total(merged, "limit") == 64
    assert total(merged, "headroom") == 64
    assert merged['spillway_workers{state="ready"}'] == WORKERS


def test_what_is_in_flight_is_seen_on_the_one_admin_port(shared: Fleet) -> None:
    streams = [shared.stream(max_tokens=200) for _ in range(6)]
    try:
        assert all(stream.status == 200 for stream in streams)
        page = shared.page("/api/v1/fleet")
        assert (page["in_flight"], page["limit"], page["headroom"]) == (6, 64, 58)
        merged = shared.metrics()
        in_flight, headroom = total(merged, "in_flight"), total(merged, "headroom")
        assert (in_flight, headroom) == (6, 58)
        assert shared.page("/readyz")["in_flight"] == 6
    finally:
        for stream in streams:
            stream.close()
    assert wait_for(lambda: shared.page("/api/v1/fleet")["in_flight"] == 0)


def test_readiness_has_a_line_for_each_worker(shared: Fleet) -> None:
    page = shared.page("/readyz")
    assert (page["status"], page["private_redis"]) == ("ready", "running")
    assert [one["status"] for one in page["workers"]] == ["ready"] * WORKERS
    assert {one["pid"] for one in page["workers"]} == set(shared.workers)
    assert len(shared.workers) == WORKERS


def test_a_drain_holds_for_all(shared: Fleet) -> None:
    status, body = shared.admin("POST", "/api/v1/clusters/primary/drain")
    assert (status, json.loads(body)["drained"]) == (200, True)
    try:
        assert {shared.ask() for _ in range(20)} == {503}
    finally:
        assert shared.admin("POST", "/api/v1/clusters/primary/undrain")[0] == 200
    assert {shared.ask() for _ in range(20)} == {200}


def test_openmetrics_ends_as_it_must(shared: Fleet) -> None:
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", shared.admin_port, timeout=5)
    connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.read().endswith(b"# EOF\n")
    connection.close()


def test_no_secret_and_no_setting_is_on_a_command_line(shared: Fleet) -> None:
    for line in shared.workers.values():
        assert line.split()[1:] == ["-P", "-m", "gateway.workers.worker", str(shared.process.pid)]


def test_a_killed_worker_is_replaced_while_the_others_serve(engine: Engine, server_program: str) -> None:
    with started("workers: 2\n" + clusters(engine.url, engine.url)) as fleet:
        fleet.wait_ready()
        assert fleet.admin("POST", "/api/v1/clusters/backup/drain")[0] == 200
        ask_until_all_have_served(fleet, 2)
        before = total(fleet.metrics(), "requests_total")
        victim = fleet.pid_of(1)
        os.kill(victim, signal.SIGKILL)
        assert wait_for(lambda: is_reaped(victim))
        served = 0

        def serves_and_is_whole_again() -> bool:
            nonlocal served
            assert fleet.ask() == 200, "the other worker serves"
            served += 1
            return fleet.is_ready(2)

        assert wait_for(serves_and_is_whole_again, 30)
        assert fleet.pid_of(1) != victim
        metrics = fleet.metrics()
        assert total(metrics, "requests_total") == before + served, "what the dead one had counted stays"
        assert total(metrics, "worker_restarts_total") == 1
        page = json.loads(fleet.worker_page(1, "/api/v1/fleet"))
        assert [tier["clusters"][0]["drained"] for tier in page["tiers"] if tier["clusters"]] == [False, True]
        assert "worker 1 ended with signal 9; it is started again" in fleet.said
        ask_until_all_have_served(fleet, 2)


def whole_scrape(fleet: Fleet) -> tuple[float, float]:
    """Requests and missed scrapes, when every worker told its own: on a busy machine one may be late."""
    while True:
        missed = total(fleet.metrics(), "worker_scrapes_missed_total")
        metrics = fleet.metrics()
        if total(metrics, "worker_scrapes_missed_total") == missed:
            return total(metrics, "requests_total"), missed


def test_a_worker_that_hangs_is_left_out_and_said_and_does_not_stop_the_others(
    engine: Engine, server_program: str
) -> None:
    with started("workers: 2\n" + clusters(engine.url)) as fleet:
        fleet.wait_ready()
        ask_until_all_have_served(fleet, 2)
        before, missed = whole_scrape(fleet)
        victim = fleet.pid_of(2)
        os.kill(victim, signal.SIGSTOP)
        try:
            metrics = fleet.metrics()
            assert total(metrics, "requests_total") == before
            assert total(metrics, "worker_scrapes_missed_total") > missed
            page = fleet.page("/readyz")
            assert [one["status"] for one in page["workers"]] == ["ready", "unresponsive"]
            status, body = fleet.admin("POST", "/api/v1/clusters/primary/drain")
            assert status == 502
            assert "worker 2 did not answer within 1 s" in json.loads(body)["error"]["message"]
        finally:
            os.kill(victim, signal.SIGCONT)
        assert wait_for(lambda: fleet.is_ready(2))
        assert fleet.admin("POST", "/api/v1/clusters/primary/undrain")[0] == 200
        assert {fleet.ask() for _ in range(10)} == {200}


def test_log_rotation_reaches_every_worker(engine: Engine, server_program: str) -> None:
    with started("access_log: access.log\nworkers: 2\n" + clusters(engine.url)) as fleet:
        fleet.wait_ready()
        ask_until_all_have_served(fleet, 2)
        log = fleet.folder / "access.log"
        log.rename(fleet.folder / "access.log.1")
        fleet.process.send_signal(signal.SIGHUP)

        def both_write_to_the_new_file() -> bool:
            assert fleet.ask() == 200
            if not log.exists():
                return False
            lines = log.read_text().splitlines()
            return len({json.loads(line)["request_id"][:16] for line in lines}) == 2

        assert wait_for(both_write_to_the_new_file)
        assert fleet.is_ready(2)


def test_a_redis_of_ones_own_is_used_and_none_is_started(engine: Engine, redis_server: RedisServer) -> None:
    text = f"workers: 2\nstate: {{url: '{redis_server.url}', fleet: own}}\n" + clusters(engine.url)
    with started(text) as fleet:
        fleet.wait_ready()
        assert fleet.descendants == list(fleet.workers)
        assert "private_redis" not in fleet.page("/readyz")
        assert fleet.ask() == 200
        with redis_server.client() as client:
            gateways = client.hkeys("spillway:{own}:gateways")
        assert len([name for name in gateways if not name.startswith(b"!")]) == 2


def test_a_single_worker_needs_no_parent(engine: Engine) -> None:
    with started("workers: 1\n" + clusters(engine.url), {"PATH": ""}) as fleet:
        fleet.wait_ready()
        assert not fleet.descendants
        assert not fleet.private_directories
        assert "workers" not in fleet.page("/readyz")
        assert fleet.ask() == 200


def test_all_workers_keep_one_limit_and_a_dead_ones_slots_come_back(
    engine: Engine, server_program: str
) -> None:
    with started(f"workers: {WORKERS}\n" + clusters(engine.url, limit=4)) as fleet:
        fleet.wait_ready()
        first = [fleet.stream(max_tokens=2000) for _ in range(20)]
        assert sorted(stream.status for stream in first) == [200] * 4 + [429] * 16
        metrics = fleet.metrics()
        assert [total(metrics, name) for name in ("in_flight", "limit", "headroom")] == [4, 4, 0]
        for pid in fleet.workers:
            os.kill(pid, signal.SIGKILL)
        for stream in first:
            stream.close()
        assert wait_for(lambda: fleet.is_ready(WORKERS), 30)
        streams: list[Stream] = []

        def four_are_served() -> bool:
            stream = fleet.stream(max_tokens=2000)
            if stream.status == 200:
                streams.append(stream)
            else:
                stream.close()
            return len(streams) == 4

        assert wait_for(four_are_served), "the slots of the dead are lost"
        assert fleet.ask() == 429
        for stream in streams:
            stream.close()
