"""Redis dies, forgets, stalls and refuses under load: no request notices, and the limit is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.chaos.door import Door
from tests.chaos.exact_limit import LOOKS, Look, check_peak_over_a_fault, check_that_it_is_exact
from tests.chaos.fleet import Fleet, eventually, running_fleet
from tests.chaos.load import Load, between, loaded
from tests.redis_server import RedisServer, running_redis

LIMIT = 12
GATEWAYS = 3
# What gateways that are cut off may take together: each its share, and at least one.
LIMIT_WHEN_CUT_OFF = LIMIT + GATEWAYS - 1
CLIENTS = 2 * LIMIT
LONGEST_HOLD_S = 0.09
SHORT = between(0.03, LONGEST_HOLD_S)
# A back-off, a try, and the heartbeat by which all are known again (MAX_BACKOFF_S, FIRST_DEADLINE_S).
BACK_S = 4.0
# A request waits for one failing exchange at most (DEADLINE_S); the rest is a loaded machine's.
NOTICED_S = 0.1 + 0.25


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One of our own: that of the other tests shall live."""
    with running_redis(tmp_path_factory.mktemp("outages")) as server:
        yield server


@pytest.fixture(scope="module")
def shared_fleet(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(server.url, folder, gateways=GATEWAYS, limit=LIMIT) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    shared_fleet.settle()
    shared_fleet.backend.reset()
    return shared_fleet


@contextmanager
def load_over(fleet: Fleet) -> Iterator[Load]:
    """Load from before a fault until all are back; nobody may notice, and then the limit is exact again."""
    look = Look(fleet)
    with loaded(fleet.ports, CLIENTS, SHORT) as load:
        eventually(lambda: fleet.backend.peak >= LIMIT, 5, "the primary is full")
        yield load
        eventually(lambda: not any(m.is_degraded for m in fleet.members), BACK_S, "all are back")
        check_peak_over_a_fault(fleet, look)
        check_that_it_is_exact(fleet, load)
    assert set(load.statuses) == {200}
    assert max(told.added_s for told in load.told) < NOTICED_S


def passes(seconds: float, load: Load) -> None:
    """So much time, in which requests go on."""
    started_s = time.monotonic()
    eventually(lambda: time.monotonic() - started_s > seconds, seconds + 1, "time")
    eventually(lambda: load.since(started_s - LONGEST_HOLD_S), 5, "requests go on")


def all_degraded(fleet: Fleet) -> bool:
    return all(member.is_degraded for member in fleet.members)


def said_of_the_store(member) -> tuple[int, str | None]:
    status, page = member.get("/health/readiness")
    return status, json.loads(page).get("store")


def check_that_all_serve_by_themselves(fleet: Fleet, load: Load, why: str) -> None:
    eventually(lambda: all_degraded(fleet), 3, "everybody knows")
    for member in fleet.members:
        # The first thing that failed may have been the connection that was cut; the next try says why.
        eventually(lambda member=member: said_of_the_store(member) == (200, f"degraded: {why}"), 5, why)
    passes(LONGEST_HOLD_S + 0.1, load)
    fleet.backend.reset()
    passes(0.5, load)
    assert GATEWAYS <= fleet.backend.peak <= LIMIT_WHEN_CUT_OFF


def test_redis_is_killed_and_comes_back_empty(fleet, server):
    lines = [len(member.log_lines()) for member in fleet.members]
    with load_over(fleet) as load:
        server.kill()
        try:
            check_that_all_serve_by_themselves(fleet, load, "ConnectionError")
        finally:
            server.start()
    for member, before in zip(fleet.members, lines, strict=True):
        down, back = member.log_lines()[before:]  # one line for each change, and no more
        assert "store: degraded" in down and "store: back after" in back


@pytest.mark.slow
def test_after_a_long_outage_all_are_back_together(fleet, server):
    with load_over(fleet) as load:
        server.kill()
        try:
            passes(15.0, load)
        finally:
            server.start()
        assert eventually(lambda: not any(m.is_degraded for m in fleet.members), 5, "all are back") < 2.5


def test_redis_forgets_everything_again_and_again(fleet, server):
    lines = [member.log_lines() for member in fleet.members]
    with server.client() as client, load_over(fleet) as load:
        for _ in range(5):
            client.flushall()
            passes(0.2, load)
        peak = fleet.backend.peak
        were_all_there = lines == [member.log_lines() for member in fleet.members]
    if not were_all_there:
        pytest.skip("an exchange was late, and who is cut off has its share: only that bound was looked at")
    assert peak == LIMIT, "all that was held was counted again before anything was given"


@pytest.mark.parametrize("kind", ["ALL", "WRITE"])
def test_redis_pauses_for_longer_than_an_exchange_may_take(fleet, server, kind):
    with server.client() as client, load_over(fleet) as load:
        client.client_pause(1500, all=kind == "ALL")
        passes(1.5, load)


@pytest.mark.parametrize("kind", ["ALL", "WRITE"])
def test_redis_pauses_for_a_moment(fleet, server, kind):
    """Shorter than the deadline of an exchange, so nobody falls back to its share.

    A machine that stands still meanwhile makes the pause longer than it is: one of some has to be short.
    """

    def passed_unnoticed() -> bool:
        look = Look(fleet)
        client.client_pause(60, all=kind == "ALL")
        passes(0.06, load)
        return not look.was_anybody_cut_off()

    with server.client() as client, load_over(fleet) as load:
        assert any(passed_unnoticed() for _ in range(LOOKS))


def test_redis_stands_still(fleet, server):
    with load_over(fleet) as load:
        server.pause()
        try:
            check_that_all_serve_by_themselves(fleet, load, "no answer in time")
        finally:
            server.resume()


def test_redis_is_a_replica_now(fleet, server):
    with server.client() as client, load_over(fleet) as load:
        client.replicaof("127.0.0.1", "1")
        try:
            check_that_all_serve_by_themselves(fleet, load, "ReadOnlyError")
        finally:
            client.replicaof("no", "one")


def test_redis_is_out_of_memory(fleet, server):
    with server.client() as client, load_over(fleet) as load:
        client.config_set("maxmemory", 1)
        try:
            check_that_all_serve_by_themselves(fleet, load, "OutOfMemoryError")
        finally:
            client.config_set("maxmemory", 0)


def test_redis_has_forgotten_the_script(fleet, server):
    lines = [member.log_lines() for member in fleet.members]
    with server.client() as client, load_over(fleet) as load:
        client.script_flush()
        passes(0.3, load)
    assert lines == [member.log_lines() for member in fleet.members], "nobody was cut off"


def test_redis_has_another_password(fleet, server):
    with server.client() as client, load_over(fleet) as load:
        client.config_set("requirepass", "new")
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)
        try:
            why = "AuthenticationError: the user or password is refused"
            check_that_all_serve_by_themselves(fleet, load, why)
        finally:
            client.config_set("requirepass", "")


@contextmanager
def fleet_behind_doors(server: RedisServer, folder: Path, doors: int) -> Iterator[tuple[Fleet, list[Door]]]:
    """Two gateways that each reach Redis through a door: the same one, or one each."""
    with ExitStack() as stack:
        opened = [Door(server.socket) for _ in range(doors)]
        for door in opened:
            stack.callback(door.close)
        url = f"redis://127.0.0.1:{opened[0].port}/1"
        fleet = stack.enter_context(running_fleet(url, folder, gateways=1, limit=LIMIT))
        fleet.grow_to(2, f"redis://127.0.0.1:{opened[-1].port}/1")
        fleet.settle()
        yield fleet, opened


def test_answers_that_take_half_a_second_make_nobody_flap(server, tmp_path):
    with (
        fleet_behind_doors(server, tmp_path, doors=1) as (fleet, doors),
        loaded(fleet.ports, CLIENTS, SHORT) as load,
    ):
        passes(0.3, load)
        doors[0].delay_s = 0.4
        eventually(lambda: all_degraded(fleet), 2, "everybody knows")
        passes(1.5, load)
        assert [len(member.log_lines()) for member in fleet.members] == [1, 1], "down, and not back between"
        doors[0].delay_s = 0.0
        eventually(lambda: not any(m.is_degraded for m in fleet.members), BACK_S, "all are back")
        check_that_it_is_exact(fleet, load)
    assert set(load.statuses) == {200}
    assert max(told.added_s for told in load.told) < NOTICED_S


def test_one_gateway_alone_loses_redis_and_finds_it_again(server, tmp_path):
    """The others can't know that it lives: after a while they use its slots, and it keeps its share."""
    with (
        fleet_behind_doors(server, tmp_path, doors=2) as (fleet, doors),
        loaded(fleet.ports, CLIENTS, SHORT) as load,
    ):
        eventually(lambda: fleet.backend.peak >= LIMIT, 5, "the primary is full")
        doors[1].is_shut = True
        eventually(lambda: fleet.members[1].is_degraded, 2, "it knows")
        eventually(lambda: fleet.backend.peak > LIMIT, 5, "its slots are used twice")
        assert not fleet.members[0].is_degraded
        doors[1].is_shut = False
        eventually(lambda: not fleet.members[1].is_degraded, BACK_S, "it is back")
        assert fleet.backend.peak <= LIMIT + LIMIT // 2
        check_that_it_is_exact(fleet, load)
    assert set(load.statuses) == {200}


def test_redis_appears_after_the_gateways(tmp_path):
    server = RedisServer(tmp_path)
    try:
        with running_fleet(server.url, tmp_path, gateways=2, limit=LIMIT) as fleet:
            assert all_degraded(fleet)
            assert [m.get("/health/readiness")[0] for m in fleet.members] == [200, 200]
            with loaded(fleet.ports, CLIENTS, SHORT) as load:
                passes(0.3, load)
                server.start()
                eventually(lambda: not any(m.is_degraded for m in fleet.members), BACK_S, "Redis is found")
                eventually(lambda: _know_each_other(fleet), 2, "they know each other")
                check_that_it_is_exact(fleet, load)
            assert set(load.statuses) == {200}
    finally:
        server.kill()


def _know_each_other(fleet: Fleet) -> bool:
    return all(m.metric("spillway_store_gateways") == len(fleet.members) for m in fleet.members)
