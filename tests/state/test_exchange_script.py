"""What the fleet's script decides, one story each, in virtual time against a real Redis."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.latency import LatencySummary
from gateway.state import wire
from gateway.state.grants import CONTENDED_S, TTL_S
from tests.state.virtual_fleet import Fate, VirtualFleet, taken


@pytest.fixture
def client(redis_server):
    with redis_server.client() as client:
        yield client


@pytest.fixture
def fleet(client):
    fleet = VirtualFleet(client, {"a": 4}, gateways=2)
    for gateway in fleet.gateways:
        fleet.exchange(gateway)
    return fleet


def tell(fleet, gateway, **extras) -> wire.Reply:
    """A heartbeat with something riding on it."""
    message = gateway.book.compose((), fleet.now_s)
    raw = fleet.execute(*wire.encode(fleet.keys, gateway.id, message, wire.Extras(**extras)))
    reply = wire.decode(raw)
    if not extras.get("is_leaving"):
        gateway.book.absorb(message, reply.answer, fleet.now_s)
    return reply


def pass_time(fleet, seconds, *gateways) -> None:
    """These gateways send their heartbeats meanwhile."""
    for _ in range(round(seconds * 10)):
        fleet.now_s += 0.1
        for gateway in gateways:
            fleet.exchange(gateway)


def test_two_gateways_share_one_limit(fleet):
    here, there = fleet.gateways
    assert (taken(fleet, here, 3), taken(fleet, there, 3)) == (3, 1)


def test_the_slots_of_a_dead_gateway_come_back_when_its_heartbeat_ends(fleet):
    dead, alive = fleet.gateways
    taken(fleet, dead, 4)
    fleet.crash(dead)
    pass_time(fleet, TTL_S - 0.1, alive)
    assert taken(fleet, alive, 1) == 0
    pass_time(fleet, 0.2, alive)
    assert taken(fleet, alive, 9) == 4


def test_who_leaves_frees_its_slots_at_once(fleet):
    leaving, staying = fleet.gateways
    taken(fleet, leaving, 4)
    tell(fleet, leaving, is_leaving=True)
    fleet.crash(leaving)
    assert taken(fleet, staying, 9) == 4


@pytest.mark.parametrize("jump_s", (-3600.0, 3600.0))
def test_a_server_whose_clock_is_set_buries_nobody(fleet, jump_s):
    here, there = fleet.gateways
    taken(fleet, here, 3)
    fleet.server_offset_s += jump_s
    assert taken(fleet, there, 4) == 1
    assert here.id in fleet.known()


def test_a_stopped_gateway_takes_nothing_when_it_wakes_before_it_has_asked(fleet):
    stopped, other = fleet.gateways
    taken(fleet, stopped, 3)
    fleet.finish(stopped, 0)  # its slot is idle, and nobody has been told
    pass_time(fleet, TTL_S + 1, other)
    assert taken(fleet, other, 4) == 4, "its slots were given away"
    assert stopped.book.take(fleet.plan("a").candidates, fleet.now_s) is None
    assert taken(fleet, stopped, 1) == 0, "and its own streams, which run on, are counted again"
    while other.running:
        fleet.finish(other, 0)
    fleet.exchange(other)
    assert taken(fleet, other, 4) == 2


def test_after_a_flush_streams_are_counted_again_and_nobody_takes_what_others_hold(fleet):
    busy, other = fleet.gateways
    taken(fleet, busy, 3)
    pass_time(fleet, 1, busy, other)
    fleet.flush()
    assert fleet.request(other, fleet.plan("a")) is None, "nobody has told what it holds"
    fleet.exchange(busy)
    assert fleet.granted("a")[busy.id] == (3, 3)
    assert taken(fleet, other, 4) == 1, "all have"


def test_what_is_being_given_back_is_not_used_meanwhile(fleet):
    giving, other = fleet.gateways
    taken(fleet, giving, 4)
    fleet.finish(giving, 0)
    hear = fleet.begin_exchange(giving)
    assert taken(fleet, other, 1) == 1
    assert giving.book.take(fleet.plan("a").candidates, fleet.now_s) is None
    hear()
    assert fleet.in_flight("a") == 4


def test_an_exchange_done_twice_is_done_once(fleet):
    here = fleet.gateways[0]
    taken(fleet, here, 1)
    message = here.book.compose((), fleet.now_s)
    wired = wire.encode(fleet.keys, here.id, message, wire.Extras())
    here.book.absorb(message, wire.decode(fleet.execute(*wired)).answer, fleet.now_s)
    before = fleet.granted("a")
    assert wire.decode(fleet.execute(*wired)).answer.status == "stale"
    assert fleet.granted("a") == before


def test_a_reply_that_was_lost_costs_no_slot(fleet):
    here, there = fleet.gateways
    fleet.request(here, fleet.plan("a"), Fate.REPLY_LOST)
    while here.running:
        fleet.finish(here, 0)
    fleet.exchange(here)
    assert taken(fleet, there, 4) == 4


def test_idle_slots_are_kept_while_there_are_plenty_and_given_back_as_the_backend_fills(client):
    fleet = VirtualFleet(client, {"a": 100}, gateways=2)
    here, there = fleet.gateways
    for _ in range(3):
        for gateway in fleet.gateways:
            fleet.exchange(gateway)
        fleet.now_s += 0.1
    assert here.book.take(fleet.plan("a").candidates, fleet.now_s) is not None, "nobody had to be asked"
    here.running.append(fleet.plan("a").candidates[0])
    assert taken(fleet, there, 97) == 97
    fleet.exchange(here)
    assert fleet.granted("a")[here.id] == (1, 1)
    assert taken(fleet, there, 2) == 2
    assert taken(fleet, there, 1) == 0


def test_many_arrivals_earn_a_reserve(client):
    fleet = VirtualFleet(client, {"a": 1000}, gateways=2)
    busy, _ = fleet.gateways
    for _ in range(20):
        taken(fleet, busy, 10)
        while busy.running:
            fleet.finish(busy, 0)
        fleet.now_s += 0.05
        for gateway in fleet.gateways:
            fleet.exchange(gateway)
    assert busy.book.slots["a"].idle >= 20, "two ticks' worth of 200 requests a second"


def test_somebody_who_lacks_a_slot_has_it_called_back(client):
    fleet = VirtualFleet(client, {"a": 8}, gateways=2)
    idle, wanting = fleet.gateways
    for gateway in fleet.gateways:
        fleet.exchange(gateway)
    assert idle.book.slots["a"].idle > 0
    plan = fleet.plan("a")
    with client.pubsub(ignore_subscribe_messages=True) as news:
        news.subscribe(fleet.keys.news)
        news.get_message(timeout=5)
        while fleet.request(wanting, plan) is not None:
            pass
        message = news.get_message(timeout=5)
    kind, sender, keys = msgspec.msgpack.decode(message["data"])
    assert (kind, sender) == ("recall", wanting.id)
    assert idle.book.recall(map(fleet.keys.backend_of, keys), fleet.now_s), "it holds one and is to say so"
    fleet.exchange(idle)
    while fleet.request(wanting, plan) is not None:
        pass
    assert fleet.in_flight("a") == 8


def test_a_gateway_s_own_cap_takes_nothing_from_the_others(fleet):
    capped, other = fleet.gateways
    capped.book.set_limits({"a": 4}, {"a": 1})
    assert taken(fleet, other, 3) == 3
    assert taken(fleet, capped, 2) == 1
    assert taken(fleet, other, 2) == 0
    fleet.finish(capped, 0)
    assert taken(fleet, capped, 1) == 1, "what it gave back it may take again"


def test_where_too_much_is_in_use_what_ends_makes_room_for_nobody(fleet):
    one, two = fleet.gateways
    taken(fleet, one, 4)
    fleet.exchange(two)
    two.book.cut_off()
    assert fleet.request(two, fleet.plan("a")) is not None, "cut off, it has a part all the same"
    fleet.exchange(two)
    fleet.finish(two, 0)
    assert taken(fleet, two, 1) == 0
    fleet.finish(one, 0)
    assert taken(fleet, two, 2) == 1


def test_drains_are_told_to_all_and_end(fleet):
    here, there = fleet.gateways
    tell(fleet, here, drains=[("c1", 0), ("c2", 5000)])
    assert tell(fleet, there).drains_left_ms == {"c1": None, "c2": 5000}
    fleet.now_s += 4
    assert tell(fleet, there).drains_left_ms == {"c1": None, "c2": 1000}
    fleet.now_s += 2
    tell(fleet, there, drains=[("c1", wire.LIFTED_MS)])
    assert tell(fleet, here).drains_left_ms == {}


def test_known_drains_only_help_a_fleet_without_a_memory(fleet):
    here = fleet.gateways[0]
    pass_time(fleet, TTL_S, here)
    assert tell(fleet, here, known_drains=[("old", 0)]).drains_left_ms == {}
    fleet.flush()
    tell(fleet, here)
    assert tell(fleet, here, known_drains=[("c1", 0)]).drains_left_ms == {"c1": None}


def test_latencies_are_told_to_the_others_with_their_age(fleet):
    here, there = fleet.gateways
    tell(fleet, here, latency={"a": LatencySummary(0.25, 7)})
    fleet.now_s += 0.5
    assert tell(fleet, there, latency={}).latencies == {"a": LatencySummary(0.25, 7, 0.5)}
    assert tell(fleet, here, latency={}).latencies == {}, "nobody hears of itself"


def test_every_key_expires_by_itself(client, fleet):
    here, _ = fleet.gateways
    taken(fleet, here, 1)
    tell(fleet, here, latency={"a": LatencySummary(0.25, 7)}, drains=[("c1", 0)])
    keys = (fleet.keys.gateways, fleet.keys.latency, fleet.keys.drains, fleet.keys.grants("a"))
    assert all(client.pttl(key) > 0 for key in keys)
    assert len({key[key.index("{") : key.index("}")] for key in keys}) == 1, "one hash tag"


def test_when_all_were_away_nobody_is_buried_before_all_had_time_to_come_back(fleet):
    """The server stood still: who comes back a second after the first still holds its slots."""
    first, late = fleet.gateways
    taken(fleet, late, 3)
    fleet.exchange(late)
    pass_time(fleet, 1.0, first)  # the late one's next heartbeat is due, and now nothing comes through
    fleet.now_s += 5.0
    pass_time(fleet, 1.0, first)
    assert late.id in fleet.known()
    assert taken(fleet, first, 4) == 1


@pytest.fixture
def news(fleet):
    with fleet.client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(fleet.keys.news)
        assert pubsub.get_message(timeout=5) is None  # the subscription itself

        def heard() -> int:
            """How many recalls there were since this was asked last."""
            count = 0
            while (message := pubsub.get_message(timeout=0.1)) is not None:
                count += msgspec.msgpack.decode(message["data"])[0] == "recall"
            return count

        yield heard


def test_who_gets_no_slot_makes_the_others_tell_what_they_have_but_not_all_the_time(fleet, news):
    """They may have one that has come free since they told: nobody is known to hold an idle one."""
    asker, holder = fleet.gateways
    taken(fleet, holder, 4)
    for _ in range(5):
        assert fleet.request(asker, fleet.plan("a")) is None
    assert news() == 1
    fleet.now_s += 0.3
    assert fleet.request(asker, fleet.plan("a")) is None
    assert news() == 1


def test_a_recalled_gateway_says_what_it_has_not_told(client):
    fleet = VirtualFleet(client, {"a": 40}, gateways=2)
    gateway = fleet.gateways[0]
    fleet.request(gateway, fleet.plan("a"))
    fleet.exchange(gateway)
    slots = gateway.book.slots["a"]
    assert slots.idle, "a reserve, of which the fleet knows"
    while slots.idle:
        gateway.book.take(fleet.plan("a").candidates, fleet.now_s)
    assert gateway.book.recall(["a"], fleet.now_s), "it is thought to hold idle slots, and has none"


def test_where_slots_are_short_each_that_comes_free_is_told_at_once(client):
    fleet = VirtualFleet(client, {"a": 40}, gateways=2)
    gateway = fleet.gateways[0]
    taken(fleet, gateway, 2)
    gateway.book.recall(["a"], fleet.now_s)
    fleet.exchange(gateway)
    assert gateway.book.slots["a"].plenty, "there are many, as far as it knows"
    assert gateway.book.give_back(fleet.plan("a").candidates[0], fleet.now_s)
    assert not gateway.book.give_back(fleet.plan("a").candidates[0], fleet.now_s + CONTENDED_S), (
        "later they are not short any more"
    )
