"""Three gateways, one limit: it holds exactly while gateways die, stand still and come back."""

from __future__ import annotations

import time
from concurrent.futures import Future

import pytest

from tests.chaos.exact_limit import check_peak, check_that_it_is_exact
from tests.chaos.fleet import Fleet, eventually, running_fleet
from tests.chaos.load import Load, Told, between, loaded
from tests.redis_server import RedisServer

LIMIT = 12
MANY = 3 * LIMIT
SHORT = between(0.03, 0.09)
# Longer than a gateway's grants last without a heartbeat (TTL_S).
EXPIRED_S = 3.0
# A busy tick, and what a loaded machine adds to it.
TOLD_S = 0.5


@pytest.fixture(scope="module")
def shared_fleet(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("fleet")
    with running_fleet(redis_server.url, folder, gateways=3, limit=LIMIT) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Fleet:
    """All its gateways are well, and nothing is in flight."""
    shared_fleet.settle()
    shared_fleet.backend.reset()
    return shared_fleet


def test_under_a_load_above_the_limit_the_backend_sees_exactly_the_limit(fleet):
    def story() -> int:
        fleet.settle()
        fleet.backend.reset()
        with loaded(fleet.ports, MANY, SHORT) as load:
            eventually(lambda: len(load.told) > 800, 20, "800 answers")
        assert set(load.statuses) == {200}
        return fleet.backend.peak

    check_peak(fleet, story, at_most=LIMIT, at_least=LIMIT)


def occupy(fleet: Fleet, load: Load, slots: int) -> list[Future[Told]]:
    """Streams by the first gateway until it holds so many slots of the primary, should one of them spill."""
    streams: list[Future[Told]] = []
    before = fleet.backend.in_flight

    def all_at_work() -> bool:
        return sum(fleet.backend.counts(at)["in_flight"] for at in (0, 1)) == before + len(streams)

    while (missing := before + slots - fleet.backend.in_flight) > 0:
        streams += [load.ask(0, 600.0, is_stream=True) for _ in range(missing)]
        eventually(all_at_work, 5, "each is somewhere")
    return streams


def peak_when_one_is_killed_that_holds(slots: int, fleet: Fleet) -> int:
    """Its slots are in use again in 3 s."""
    fleet.backend.reset()
    victim = fleet.members[0]
    with loaded(fleet.ports[:1]) as doomed:
        streams = occupy(fleet, doomed, slots)
        with loaded(fleet.ports[1:], MANY, SHORT) as load:
            eventually(lambda: fleet.backend.peak >= LIMIT, 5, "the primary is full")
            victim.kill()
            eventually(
                lambda: fleet.backend.in_flight <= LIMIT - slots, 1, "the backend has lost its streams"
            )
            eventually(lambda: fleet.backend.in_flight >= LIMIT, 3, "its slots are in use again")
        assert {stream.result(5).status for stream in streams} == {0}
    assert set(load.statuses) == {200}
    peak = fleet.backend.peak
    fleet.replace(victim)
    return peak


@pytest.mark.parametrize(
    "stream_s", [5.0, pytest.param(600.0, marks=[pytest.mark.slow, pytest.mark.timeout(700)])]
)
def test_a_killed_gateway_s_slots_come_back_and_a_long_stream_keeps_its_own(fleet, stream_s):
    def story() -> int:
        eventually(lambda: fleet.backend.in_flight <= 1, 5, "only the stream runs, if it has not ended")
        return peak_when_one_is_killed_that_holds(5, fleet)

    started_s = time.monotonic()
    with loaded(fleet.ports) as load:
        stream = load.ask(1, stream_s, is_stream=True)
        eventually(lambda: fleet.backend.in_flight == 1, 5, "the stream runs")
        check_peak(fleet, story, at_most=LIMIT, at_least=LIMIT)
        while time.monotonic() - started_s < stream_s - 60:
            check_peak(fleet, story, at_most=LIMIT, at_least=LIMIT)
        assert stream.result(stream_s + 5).status == 200


def peak_when_one_stood_still_that_held(slots: int, fleet: Fleet) -> int:
    """Longer than its grants last; at the end the limit is exact again."""
    fleet.settle()
    fleet.backend.reset()
    sleeper = fleet.members[0]
    with loaded(fleet.ports) as load:
        streams = [load.ask(0, 5.0, is_stream=True) for _ in range(slots)]
        eventually(lambda: fleet.backend.in_flight == slots, 5, "it holds its slots")
        load.add(MANY, SHORT)
        eventually(lambda: fleet.backend.peak >= LIMIT, 5, "the primary is full")
        sleeper.pause()
        paused_s = time.monotonic()
        eventually(lambda: fleet.backend.peak > LIMIT, 5, "its slots were given to others")
        eventually(lambda: time.monotonic() - paused_s > EXPIRED_S, 5, "its grants are over")
        assert not any(one.done() for one in streams)
        sleeper.resume()
        assert [one.result(20).status for one in streams] == [200] * slots
        peak = fleet.backend.peak
        later_s = time.monotonic()
        eventually(lambda: _used_by(load, 0, later_s), 5, "it gets slots again")
        check_that_it_is_exact(fleet, load, answers=300)
    assert set(load.statuses) == {200}
    return peak


def test_a_gateway_that_stood_still_takes_nothing_that_is_not_its_own_any_more(fleet):
    """No more than the limit and the streams that it already had."""
    check_peak(fleet, lambda: peak_when_one_stood_still_that_held(3, fleet), at_most=LIMIT + 3)


def _used_by(load: Load, gateway: int, since_s: float) -> bool:
    return any(t.gateway == gateway and t.cluster == "primary" for t in load.since(since_s))


def test_a_drain_is_obeyed_by_all_survives_a_flush_and_ends(fleet, redis_server):
    first, *others = fleet.members
    first.post("/api/v1/clusters/primary/drain?for=8s")
    drained_s = time.monotonic()
    eventually(lambda: all(m.drained("primary") for m in others), TOLD_S, "told to all")
    with redis_server.client() as client:
        client.flushall()
    with loaded(fleet.ports, 6, SHORT) as load:
        eventually(lambda: len(load.told) > 60, 5, "load")
        assert {told.cluster for told in load.told} == {"backup"}
        newcomer = fleet.launch().ready()
        try:
            assert newcomer.drained("primary"), "a new gateway knows it before its first request"
            eventually(lambda: not newcomer.drained("primary"), 10, "it ends there, too")
        finally:
            newcomer.stop()
        eventually(lambda: all(_used_by(load, at, drained_s) for at in range(3)), 5, "it ends everywhere")
        first_use_s = min(told.sent_s for told in load.told if told.cluster == "primary")
        assert 7.9 < first_use_s - drained_s < 9


def test_an_undrain_is_obeyed_by_all(fleet):
    fleet.members[0].post("/api/v1/clusters/primary/drain")
    eventually(lambda: all(m.drained("primary") for m in fleet.members), TOLD_S, "told to all")
    fleet.members[2].post("/api/v1/clusters/primary/undrain")
    eventually(lambda: not any(m.drained("primary") for m in fleet.members), TOLD_S, "told to all")
