"""Three gateways, one limit: it holds exactly while gateways die, stand still and come back."""

from __future__ import annotations

import time

import pytest

from tests.chaos.fleet import Fleet, eventually, running_fleet
from tests.chaos.load import between, loaded
from tests.redis_server import RedisServer

LIMIT = 12
MANY = 3 * LIMIT
SHORT = between(0.03, 0.09)


@pytest.fixture(scope="module")
def shared_fleet(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(redis_server.url, folder, gateways=3, limit=LIMIT) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    """All gateways of it are well, and nothing is in flight."""
    shared_fleet.settle()
    shared_fleet.backend.reset()
    return shared_fleet


def test_under_a_load_above_the_limit_the_backend_sees_exactly_the_limit(fleet):
    with loaded(fleet.ports, MANY, SHORT) as load:
        eventually(lambda: len(load.told) > 800, 20, "800 answers")
    assert set(load.statuses) == {200}
    assert fleet.backend.peak == LIMIT
    fleet.settle()


def test_the_slots_of_a_killed_gateway_are_free_in_3_s_and_a_long_stream_keeps_its_own(fleet):
    victim = fleet.members[0]
    with loaded(fleet.ports[1:]) as others, loaded(fleet.ports[:1]) as doomed:
        stream = others.ask(1, 12.0, is_stream=True)
        lost = [doomed.ask(0, 60.0, is_stream=True) for _ in range(5)]
        eventually(lambda: fleet.backend.in_flight == 6, 5, "6 streams run")
        others.add(MANY, SHORT)
        eventually(lambda: fleet.backend.peak == LIMIT, 5, "the primary is full")
        victim.kill()
        killed_s = time.monotonic()
        eventually(lambda: fleet.backend.in_flight <= LIMIT - 5, 1, "the backend has lost its streams")
        eventually(lambda: fleet.backend.in_flight == LIMIT, 5, "the slots are used again")
        took_s = time.monotonic() - killed_s
        assert all(one.result(5).status == 0 for one in lost)
        assert stream.result(30).status == 200
    assert took_s <= 3.0
    assert set(others.statuses) == {200}
    assert fleet.backend.peak == LIMIT
    fleet.replace(victim)


def test_a_gateway_that_stood_still_takes_nothing_that_is_not_its_own_any_more(fleet):
    sleeper = fleet.members[0]
    with loaded(fleet.ports) as load:
        held = [load.ask(0, 6.0, is_stream=True) for _ in range(3)]
        eventually(lambda: fleet.backend.in_flight == 3, 5, "3 streams run")
        load.add(MANY, SHORT)
        eventually(lambda: len(load.told) > 100, 10, "load")
        sleeper.pause()
        paused_s = time.monotonic()
        print("peak before", fleet.backend.peak)
        eventually(lambda: fleet.backend.peak > LIMIT, 5, "others were given its slots while its streams run")
        print(time.monotonic() - paused_s)
        eventually(lambda: time.monotonic() - paused_s > 3.5, 5, "it stands still for longer than its grants")
        print("peak asleep", fleet.backend.peak)
        fleet.backend.reset()
        sleeper.resume()
        woken_s = time.monotonic()
        assert [one.result(20).status for one in held] == [200] * 3
        eventually(
            lambda: any(t.cluster == "primary" and t.gateway == 0 for t in load.since(woken_s)),
            5,
            "it works again",
        )
        print("peak awake", fleet.backend.peak)
        fleet.backend.reset()
        woken_s = time.monotonic()
        eventually(lambda: len(load.since(woken_s)) > 300, 5, "load")
        print("peak later", fleet.backend.peak)
    assert set(load.statuses) == {200}
