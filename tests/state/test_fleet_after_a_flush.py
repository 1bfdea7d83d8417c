"""The fleet's memory is lost, once or again and again: nobody gets a slot that somebody else still holds.

In virtual time against the real script. Nobody is cut off from the store here, so no limit is passed by one.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.state.grants import TTL_S
from gateway.state.messages import Ask, Served, Wanting
from gateway.state.shared import DEADLINE_S, IDLE_TICK_S
from tests.redis_server import RedisServer
from tests.state.virtual_fleet import Fate, Gateway, VirtualFleet, taken, takes_all_it_may

LIMIT = 12
BACKENDS = ("a", "b")
ANY = st.integers(0, 2**16)
WAITS = st.tuples(st.integers(0, 3), st.sampled_from((0.0, 0.02, 0.4)))


@pytest.fixture
def fleet(redis_server):
    """Three gateways that know of each other, and share twelve slots."""
    with redis_server.client() as client:
        fleet = VirtualFleet(client, {"a": LIMIT}, gateways=3)
        all_tell(fleet, *fleet.gateways)
        yield fleet


def all_tell(fleet, *gateways, seconds=0.05) -> None:
    for _ in range(2):
        fleet.now_s += seconds
        for gateway in gateways:
            fleet.exchange(gateway)


def forget(fleet) -> None:
    fleet.flush()
    fleet.now_s += 0.001


def test_who_comes_back_first_gets_nothing_of_what_the_others_use(fleet):
    busy, second, third = fleet.gateways
    assert taken(fleet, busy, 8) == 8
    all_tell(fleet, second, third)
    forget(fleet)
    takes_all_it_may(fleet, second, third)
    fleet.exchange(busy)
    takes_all_it_may(fleet, busy)
    assert fleet.in_flight("a") <= LIMIT


def test_what_ends_at_one_that_is_back_another_one_that_is_back_may_use(fleet):
    away, here, there = fleet.gateways
    assert taken(fleet, away, 6) == 6
    assert taken(fleet, here, 6) == 6
    all_tell(fleet, *fleet.gateways)
    forget(fleet)
    all_tell(fleet, here, there)
    assert takes_all_it_may(fleet, there) == 0
    for _ in range(4):
        fleet.finish(here, 0)
    fleet.exchange(here)
    assert takes_all_it_may(fleet, there) == 4


def test_when_all_are_back_every_slot_is_there_at_once(fleet):
    asker, *others = fleet.gateways
    forget(fleet)
    all_tell(fleet, *fleet.gateways, seconds=0.002)
    for other in others:
        other.book.recall(["a"], fleet.now_s)
        fleet.exchange(other)
    assert takes_all_it_may(fleet, asker) == LIMIT


def test_what_a_gateway_held_idle_it_still_has_while_others_are_away(fleet):
    gateway = fleet.gateways[0]
    idle = gateway.book.slots["a"].idle
    assert idle > 0
    forget(fleet)
    assert takes_all_it_may(fleet, gateway) == idle


def test_one_that_died_with_the_memory_is_waited_for_as_long_as_a_heartbeat_lasts(fleet):
    dead, here, there = fleet.gateways
    assert taken(fleet, dead, LIMIT) == LIMIT
    all_tell(fleet, here, there)
    fleet.crash(dead)
    forget(fleet)
    for _ in range(int(TTL_S / 0.5)):
        assert takes_all_it_may(fleet, here, there) == 0
        fleet.now_s += 0.5
    all_tell(fleet, here, there)
    assert takes_all_it_may(fleet, here, there) == LIMIT


def test_one_that_is_new_is_not_taken_for_one_that_came_back(fleet):
    away, here, there = fleet.gateways
    assert taken(fleet, away, LIMIT) == LIMIT
    all_tell(fleet, here, there)
    forget(fleet)
    all_tell(fleet, here, there)
    new = fleet.join()
    fleet.exchange(new)
    assert takes_all_it_may(fleet, new, here, there) == 0


def test_one_that_is_back_and_hears_no_answer_comes_back_once(fleet):
    away, here, there = fleet.gateways
    assert taken(fleet, away, 8) == 8
    assert taken(fleet, here, 2) == 2
    all_tell(fleet, *fleet.gateways)
    forget(fleet)
    for _ in range(3):
        fleet.exchange(here)  # "unknown", and then a full report
        here.book.void()
        fleet.exchange(here, fate=Fate.REPLY_LOST)
    fleet.exchange(here)
    assert takes_all_it_may(fleet, there) <= LIMIT - 10


def test_cut_off_before_all_are_back_a_gateway_goes_on_with_what_it_holds(fleet):
    busy, here, there = fleet.gateways
    assert taken(fleet, busy, 8) == 8
    all_tell(fleet, *fleet.gateways)
    forget(fleet)
    all_tell(fleet, here, there)
    for gateway in fleet.gateways:
        gateway.book.cut_off()
    takes_all_it_may(fleet, *fleet.gateways)
    assert here.running and there.running, "requests keep flowing"
    assert fleet.in_flight("a") <= LIMIT + len(fleet.gateways) - 1


def test_who_was_cut_off_comes_back_with_its_share(fleet):
    """A store that was away for long, and is back without a memory."""
    first, *others = fleet.gateways
    for gateway in fleet.gateways:
        gateway.book.cut_off()
    fleet.now_s += 60
    forget(fleet)
    fleet.exchange(first)
    assert takes_all_it_may(fleet, first) == LIMIT // 3
    assert takes_all_it_may(fleet, *others, first) == LIMIT - LIMIT // 3


def test_who_stood_still_for_longer_than_its_heartbeat_claims_no_more_than_it_uses(fleet):
    stopped, here, there = fleet.gateways
    assert taken(fleet, stopped, 6) == 6
    for _ in range(4):
        fleet.finish(stopped, 0)
    for _ in range(4):
        all_tell(fleet, here, there, seconds=0.5)
    there.book.recall(["a"], fleet.now_s)
    fleet.exchange(there)
    takes_all_it_may(fleet, here)
    assert fleet.in_flight("a") == LIMIT + 2, "its slots were given away"
    forget(fleet)
    fleet.exchange(stopped)
    assert takes_all_it_may(fleet, stopped) == 0


def test_all_are_called_as_soon_as_the_memory_is_known_to_be_lost(fleet):
    first = fleet.gateways[0]
    with fleet.client.pubsub(ignore_subscribe_messages=True) as news:
        news.subscribe(fleet.keys.news)
        news.get_message(timeout=5)
        forget(fleet)
        for gateway in fleet.gateways:
            fleet.exchange(gateway)
        heard = news.get_message(timeout=5)
        assert msgspec.msgpack.decode(heard["data"]) == ["forgotten", first.id]
        assert news.get_message(timeout=0.1) is None, "once"


class ForgetfulFleet(RuleBasedStateMachine):
    """Messages, answers, requests and losses of the memory in every order, a gateway's death among them."""

    client: redis.Redis

    @initialize(limits=st.tuples(st.integers(1, 12), st.integers(1, 3)), gateways=st.integers(2, 4))
    def start(self, limits, gateways) -> None:
        self.fleet = VirtualFleet(self.client, dict(zip(BACKENDS, limits, strict=True)), gateways)
        self.answers: dict[Gateway, Callable[[], list[Served]]] = {}
        self.told_s: dict[Gateway, float] = {}
        for _ in range(2):
            for gateway in self.fleet.gateways:
                self.tell(gateway)
                self.hear(gateway)

    def pick(self, at: int) -> Gateway:
        return self.fleet.gateways[at % len(self.fleet.gateways)]

    def tell(self, gateway: Gateway, asks: tuple[Ask, ...] = (), wants: tuple[Wanting, ...] = ()) -> None:
        """One exchange at a time: its answer comes later, and what it asks for may have gone by then."""
        if gateway not in self.answers:
            self.told_s[gateway] = self.fleet.now_s
            self.answers[gateway] = self.fleet.begin_exchange(gateway, asks, wants)

    def hear(self, gateway: Gateway) -> None:
        if (answer := self.answers.pop(gateway, None)) is not None:
            gateway.running += [served.candidate for served in answer() if served.candidate is not None]

    @rule(at=ANY, order=st.permutations(BACKENDS), waits=WAITS)
    def exchange_begins(self, at, order, waits) -> None:
        waiting, age_s = waits
        self.tell(self.pick(at), wants=(Wanting(tuple(order), waiting, age_s),) if waiting else ())

    @rule(at=ANY)
    def answer_comes(self, at) -> None:
        self.hear(self.pick(at))

    @rule()
    def all_answers_come(self) -> None:
        for gateway in self.fleet.gateways:
            self.hear(gateway)

    @rule(at=ANY, order=st.permutations(BACKENDS), requests=st.integers(1, 9), is_prompt=st.booleans())
    def requests_come(self, at, order, requests, is_prompt) -> None:
        """They take what is here; those that find nothing ask for it with the next exchange."""
        gateway, plan = self.pick(at), self.fleet.plan(*order)
        for _ in range(requests):
            candidate = gateway.book.take(plan.candidates, self.fleet.now_s)
            if candidate is not None:
                gateway.running.append(candidate)
        if (ask := gateway.book.to_ask(plan.candidates, self.fleet.now_s)) is not None:
            for _ in range(2 if is_prompt else 1):  # who is not known tells all that it holds, and asks again
                self.tell(gateway, (ask,) * requests)
                if is_prompt:
                    self.hear(gateway)

    @rule(at=ANY, order=st.permutations(BACKENDS))
    def the_refused_take_what_is_here(self, at, order) -> None:
        gateway = self.pick(at)
        candidate = gateway.book.take_here(self.fleet.plan(*order).candidates, self.fleet.now_s)
        if candidate is not None:
            gateway.running.append(candidate)

    @rule(at=ANY, streams=st.integers(1, 6))
    def streams_end(self, at, streams) -> None:
        gateway = self.pick(at)
        for _ in range(min(streams, len(gateway.running))):
            self.fleet.finish(gateway, 0)

    @rule(at=ANY)
    def idle_slots_are_recalled(self, at) -> None:
        self.pick(at).book.recall(BACKENDS, self.fleet.now_s)

    @rule(seconds=st.sampled_from((0.002, 0.05, 0.05, 0.5, TTL_S)))
    def time_passes(self, seconds) -> None:
        """Everybody hears its answer and sends its heartbeat in time."""
        until_s = self.fleet.now_s + seconds
        while self.fleet.now_s < until_s:
            self.fleet.now_s = min(until_s, self.fleet.now_s + 0.05)
            for gateway in self.fleet.gateways:
                since_s = self.fleet.now_s - self.told_s[gateway]
                if since_s > DEADLINE_S:
                    self.hear(gateway)
                if since_s >= IDLE_TICK_S or self.fleet.now_s >= gateway.book.valid_until_s:
                    self.tell(gateway)

    @rule()
    def the_memory_is_lost(self) -> None:
        self.fleet.flush()
        self.fleet.now_s += 0.001

    @precondition(lambda self: len(self.fleet.gateways) > 1)
    @rule(at=ANY)
    def one_dies(self, at) -> None:
        gateway = self.pick(at)
        self.answers.pop(gateway, None)
        self.fleet.crash(gateway)

    @precondition(lambda self: len(self.fleet.gateways) < 4 and self.fleet.has_memory())
    @rule()
    def one_is_started(self) -> None:
        gateway = self.fleet.join()
        self.tell(gateway)
        self.hear(gateway)

    @rule(at=ANY, backend_ids=st.sets(st.sampled_from(BACKENDS)))
    def one_is_configured_anew(self, at, backend_ids) -> None:
        limits = {id_: limit for id_, limit in self.fleet.limits.items() if id_ in backend_ids}
        self.pick(at).book.set_limits(limits)

    @invariant()
    def nobody_may_take_more_than_there_is(self) -> None:
        for backend_id, limit in self.fleet.limits.items():
            held = [gateway.book.slots.get(backend_id) for gateway in self.fleet.gateways]
            may_run = sum(max(slots.in_use, slots.allowance) for slots in held if slots is not None)
            assert self.fleet.in_flight(backend_id) <= may_run <= limit

    def teardown(self) -> None:
        """The slots are all there again: when the others have given back theirs, one may have them all."""
        if not hasattr(self, "fleet"):
            return
        self.all_answers_come()
        for gateway in self.fleet.gateways:
            gateway.book.set_limits(self.fleet.limits)
            while gateway.running:
                self.fleet.finish(gateway, 0)
        for _ in range(4):
            self.time_passes(1.0)
        asker, others = self.fleet.gateways[0], self.fleet.gateways[1:]
        for backend_id, limit in self.fleet.limits.items():
            for gateway in others:
                gateway.book.recall(BACKENDS, self.fleet.now_s)
                self.fleet.exchange(gateway)
            for _ in range(limit):
                assert self.fleet.request(asker, self.fleet.plan(backend_id)) is not None, backend_id


def test_a_memory_that_is_lost_again_and_again_costs_no_limit(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        run_state_machine_as_test(
            type("Machine", (ForgetfulFleet,), {"client": client}),
            settings=settings(
                max_examples=150,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
