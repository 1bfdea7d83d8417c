"""Redis dies, forgets, stalls and refuses under load: no request notices, and the limit is kept as far as can be."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager

import pytest
import redis

from tests.chaos.fleet import Fleet, eventually, running_fleet
from tests.chaos.load import between, loaded
from tests.redis_server import RedisServer, running_redis

LIMIT = 12
GATEWAYS = 3
# What gateways that are cut off may take together: each its share, rounded up to one.
LIMIT_WHEN_CUT_OFF = LIMIT + GATEWAYS - 1
CLIENTS = 2 * LIMIT
SHORT = between(0.03, 0.09)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A Redis of our own: the one of the other tests shall live."""
    with running_redis(tmp_path_factory.mktemp("outages")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_fleet(server: RedisServer, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(server.url, folder, gateways=GATEWAYS, limit=LIMIT) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    shared_fleet.settle()
    shared_fleet.backend.reset()
    return shared_fleet


@contextmanager
def under_load(fleet: Fleet):
    """Load from before the fault until after it; nobody may notice, and in the end the limit is exact again."""
    with loaded(fleet.ports, CLIENTS, SHORT) as load:
        eventually(lambda: fleet.backend.peak == LIMIT, 5, "the primary is full")
        yield load
        eventually(lambda: not any(m.is_degraded for m in fleet.members), 10, "all are back")
    fleet.settle()
    print("peak", fleet.backend.peak, "max added", max(t.added_s for t in load.told))
    assert set(load.statuses) == {200}
    assert fleet.backend.peak <= LIMIT_WHEN_CUT_OFF


def all_degraded(fleet: Fleet) -> bool:
    return all(member.is_degraded for member in fleet.members)


def test_redis_killed(fleet, server):
    lines_before = [len(m.log_lines()) for m in fleet.members]
    with under_load(fleet) as load:
        server.kill()
        eventually(lambda: all_degraded(fleet), 5, "everybody knows")
        down_s = time.monotonic()
        eventually(lambda: len(load.since(down_s)) > 500, 10, "load goes on without Redis")
        for m in fleet.members:
            print(m.get("/readyz"))
        server.start()
        print("restarted")
    for m in fleet.members:
        print(m.log_lines())


def test_flush(fleet, server):
    with under_load(fleet) as load, server.client() as client:
        for _ in range(5):
            client.flushall()
            at = time.monotonic()
            eventually(lambda: len(load.since(at)) > 100, 10, "load goes on")


@pytest.mark.parametrize("what", ["ALL", "WRITE"])
@pytest.mark.parametrize("ms", [60, 3000])
def test_client_pause(fleet, server, what, ms):
    with under_load(fleet) as load, server.client() as client:
        client.client_pause(ms, all=what == "ALL")
        at = time.monotonic()
        eventually(lambda: time.monotonic() - at > ms / 1000, 5, "pause is over")


def test_slow(fleet, server):
    with under_load(fleet) as load:
        server.pause()
        at = time.monotonic()
        eventually(lambda: time.monotonic() - at > 1, 5, "pause is over")
        server.resume()


def refusals(client):
    return {
        "readonly": (lambda: client.replicaof("127.0.0.1", 1), lambda: client.replicaof("NO", "ONE")),
        "oom": (lambda: client.config_set("maxmemory", 1), lambda: client.config_set("maxmemory", 0)),
        "script": (client.script_flush, lambda: None),
    }


@pytest.mark.parametrize("kind", ["readonly", "oom", "script"])
def test_refuses(fleet, server, kind):
    with server.client() as client, under_load(fleet) as load:
        begin, end = refusals(client)[kind]
        begin()
        try:
            if kind != "script":
                eventually(lambda: all_degraded(fleet), 5, "everybody knows")
            at = time.monotonic()
            eventually(lambda: len(load.since(at)) > 300, 10, "load goes on")
            for m in fleet.members:
                print(m.get("/readyz"))
        finally:
            end()
    print(fleet.members[0].log_lines()[-4:])


def test_noauth(fleet, server):
    with server.client() as client, under_load(fleet) as load:
        client.config_set("requirepass", "new")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
        try:
            eventually(lambda: all_degraded(fleet), 5, "everybody knows")
            print(fleet.members[0].get("/readyz"))
        finally:
            client.config_set("requirepass", "")
    print(fleet.members[0].log_lines()[-4:])
