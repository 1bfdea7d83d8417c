"""Every kind of Redis that `state.url` can name: two gateways share one limit there."""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import trustme

from tests.chaos.door import Door
from tests.chaos.exact_limit import check_peak
from tests.chaos.fleet import Fleet, eventually, running_fleet
from tests.chaos.load import between, loaded
from tests.redis_server import binary, free_port, running_redis

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "share-limits.md"
LIMIT = 6
SHORT = between(0.03, 0.09)


def check_that_the_limit_is_shared(fleet: Fleet) -> None:
    """The primary is filled by both, exactly, and nobody is degraded."""

    def story() -> int:
        fleet.settle()
        fleet.backend.reset()
        with loaded(fleet.ports, 4 * LIMIT, SHORT) as load:
            eventually(lambda: len(load.told) > 200, 20, "200 answers")
        assert set(load.statuses) == {200}
        at_primary = {told.gateway for told in load.told if told.cluster == "primary"}
        assert at_primary == {0, 1}, "both of them got slots"
        return fleet.backend.peak

    check_peak(fleet, story, at_most=LIMIT, at_least=LIMIT)
    assert [member.metric("spillway_store_gateways") for member in fleet.members] == [2, 2]


def rights_in_the_docs(password: str) -> list[str]:
    """The user that the how-to recommends, as ACL SETUSER takes it."""
    line = re.search(r"^ *user (spillway on .*)$", HOW_TO.read_text(), re.MULTILINE)
    assert line is not None
    return line[1].replace("FLEET", "default").replace("PASSWORD", password).split()


def test_over_tls_as_a_user_with_the_rights_that_the_docs_name(redis_server, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    door = Door(redis_server.socket, context)
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", *rights_in_the_docs("p@ss"))
    url = f"rediss://spillway:p%40ss@localhost:{door.port}/1?ssl_ca_certs={tmp_path / 'ca.pem'}"
    try:
        with running_fleet(url, tmp_path, gateways=2, limit=LIMIT) as fleet:
            check_that_the_limit_is_shared(fleet)
    finally:
        door.close()


def test_a_cluster(tmp_path):
    while (port := free_port()) > 55535:
        pass  # its bus is 10,000 above
    with running_redis(tmp_path / "node", port=port, **{"cluster-enabled": "yes"}) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            eventually(lambda: client.cluster("info")["cluster_state"] == "ok", 10, "it serves")
        with running_fleet(f"redis+cluster://127.0.0.1:{port}", tmp_path, gateways=2, limit=LIMIT) as fleet:
            check_that_the_limit_is_shared(fleet)


@contextmanager
def sentinel_over(primary_port: int, folder: Path) -> Iterator[int]:
    """One sentinel that watches the primary as `main`; its port."""
    port = free_port()
    folder.mkdir()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\ndir {folder}\nsentinel monitor main 127.0.0.1 {primary_port} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
    )
    with (folder / "sentinel.log").open("wb") as log:
        child = subprocess.Popen([binary(), str(settings), "--sentinel"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        child.kill()
        child.wait()


def test_sentinel_and_a_failover(tmp_path):
    ports = free_port(), free_port()
    replica_of = {"replicaof": f"127.0.0.1 {ports[0]}"}
    with (
        running_redis(tmp_path / "a", port=ports[0]) as first,
        running_redis(tmp_path / "b", port=ports[1], **replica_of) as second,
        sentinel_over(ports[0], tmp_path / "sentinel") as port,
        redis.Redis(port=port) as sentinel,
    ):
        eventually(lambda: _knows_replica(sentinel), 20, "the sentinel knows the replica")
        url = f"redis+sentinel://127.0.0.1:{port}/main/0"
        with running_fleet(url, tmp_path, gateways=2, limit=LIMIT) as fleet:
            check_that_the_limit_is_shared(fleet)
            with loaded(fleet.ports, 3 * LIMIT, SHORT) as load:
                first.kill()
                with second.client() as client:
                    eventually(lambda: client.info("replication")["role"] == "master", 20, "a new primary")
                    eventually(lambda: client.exists("spillway:{default}:gateways"), 10, "it is used")
            assert set(load.statuses) == {200}
            assert fleet.backend.peak <= LIMIT + 1
            check_that_the_limit_is_shared(fleet)


def _knows_replica(sentinel: redis.Redis) -> bool:
    try:
        found = sentinel.execute_command("SENTINEL", "REPLICAS", "main")
    except redis.RedisError:
        return False
    return len(found) == 1
