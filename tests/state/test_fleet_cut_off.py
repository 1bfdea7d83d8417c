"""One gateway alone is cut off and comes back: what it goes on to use meanwhile nobody else gets.

In virtual time against the real script. Nothing is said here of what the others were given before it knew.
"""

from __future__ import annotations

import pytest

from gateway.state.grants import TTL_S
from tests.state.virtual_fleet import Fate, Gateway, VirtualFleet, taken, takes_all_it_may

LIMIT = 12
SHARE = LIMIT // 3


@pytest.fixture
def fleet(redis_server):
    """Three gateways that know of each other, and share twelve slots; the first has just lost the store."""
    with redis_server.client() as client:
        fleet = VirtualFleet(client, {"a": LIMIT}, gateways=3)
        for _ in range(2):
            fleet.now_s += 0.05
            for gateway in fleet.gateways:
                fleet.exchange(gateway)
        fleet.gateways[0].book.cut_off()
        yield fleet


def runs(fleet: VirtualFleet, gateway: Gateway, requests: int) -> None:
    """So many requests are served there without a word from the fleet."""
    for _ in range(requests):
        assert fleet.request(gateway, fleet.plan("a")) is not None


def test_what_begins_while_its_message_is_under_way_is_counted(fleet):
    away, *others = fleet.gateways
    answer = fleet.begin_exchange(away)
    takes_all_it_may(fleet, *others)
    runs(fleet, away, SHARE)
    answer()
    takes_all_it_may(fleet, *others)
    assert not away.book.is_cut_off
    assert fleet.in_flight("a") == LIMIT


def test_what_begins_after_an_answer_that_was_lost_is_counted(fleet):
    away, *others = fleet.gateways
    for _ in range(3):
        fleet.exchange(away, fate=Fate.REPLY_LOST)
        takes_all_it_may(fleet, *others)
        runs(fleet, away, SHARE)
        assert fleet.in_flight("a") == LIMIT
        while away.running:
            fleet.finish(away, 0)


def test_where_others_have_all_a_share_takes_nothing_from_them(fleet):
    away, *others = fleet.gateways
    for _ in range(int(TTL_S / 0.5)):  # and then its grant is over
        fleet.now_s += 0.5
        takes_all_it_may(fleet, *others)
        for other in others:
            fleet.exchange(other)
    takes_all_it_may(fleet, *others)
    assert fleet.in_flight("a") == LIMIT
    fleet.exchange(away)
    assert takes_all_it_may(fleet, away) == 0


def test_what_it_claimed_and_does_not_use_is_free_again_soon(fleet):
    away, *others = fleet.gateways
    fleet.exchange(away)
    assert away.book.has_news(), "so the next busy tick tells"
    fleet.now_s += 0.05
    fleet.exchange(away)
    assert away.book.slots["a"].idle <= 1, "a reserve"
    assert taken(fleet, others[0], LIMIT) == LIMIT
