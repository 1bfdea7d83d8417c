"""Whatever is lost, late, dead, flushed or set to another time: the limit holds, and every slot comes back.

The gateways' own bookkeeping and the real script in a real Redis are driven in virtual time, so thousands of
histories run in seconds and each can be replayed.
"""

from __future__ import annotations

from collections import Counter

import redis
from hypothesis import HealthCheck, given, settings
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
from gateway.state.messages import Wanting
from tests.redis_server import RedisServer
from tests.state.virtual_fleet import Fate, Gateway, VirtualFleet

BACKENDS = ("a", "b")
FATES = st.sampled_from([Fate.DELIVERED] * 5 + [Fate.REQUEST_LOST, Fate.REPLY_LOST, Fate.DELAYED])
ANY = st.integers(0, 2**16)
AGES = st.sampled_from((0.0, 0.02, 0.4))


class Fleet(RuleBasedStateMachine):
    """Three gateways or more, two backends, and everything that can go wrong between them and Redis.

    The limit may be passed only by *ghosts*: streams begun by a gateway that was cut off, or that ran on when
    the fleet had forgotten their gateway. Each is known to this machine.
    """

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.ghosts: Counter[tuple[str, str]] = Counter()
        self.forgotten: set[str] = set()
        self.excused: set[str] = set()  # there was a flush, or a clock was set, and they do not know yet

    @initialize(limits=st.tuples(st.integers(1, 6), st.integers(1, 6)), gateways=st.integers(3, 4))
    def start(self, limits, gateways) -> None:
        self.fleet = VirtualFleet(self.client, dict(zip(BACKENDS, limits, strict=True)), gateways)
        self.note_the_forgotten()

    def pick(self, at: int) -> Gateway:
        return self.fleet.gateways[at % len(self.fleet.gateways)]

    def note_the_forgotten(self) -> None:
        """Streams that run on when the fleet forgets their gateway are ghosts until they end."""
        known = self.fleet.known()
        for gateway in self.fleet.gateways:
            if gateway.id in known:
                self.forgotten.discard(gateway.id)
            elif gateway.id not in self.forgotten:
                self.forgotten.add(gateway.id)
                for backend_id in BACKENDS:
                    self.ghosts[gateway.id, backend_id] = gateway.in_flight(backend_id)

    def heard(self, gateway: Gateway) -> None:
        if not gateway.book.is_cut_off:
            self.excused.discard(gateway.id)
        self.note_the_forgotten()

    @rule(at=ANY, order=st.permutations(BACKENDS), fate=FATES)
    def request(self, at, order, fate) -> None:
        gateway = self.pick(at)
        candidate = self.fleet.request(gateway, self.fleet.plan(*order), fate)
        self.note_the_forgotten()
        if candidate is not None:
            self.check_admission(gateway, candidate.backend.id)
        if gateway.id not in self.forgotten:
            self.heard(gateway)

    def check_admission(self, gateway: Gateway, backend_id: str) -> None:
        slots = gateway.book.slots[backend_id]
        assert slots.in_use <= slots.allowance <= slots.limit, "more than its part"
        if gateway.book.is_cut_off:
            self.ghosts[gateway.id, backend_id] += 1
        elif gateway.id in self.forgotten:
            assert gateway.id in self.excused, "a slot taken after the fleet gave it away"
            self.ghosts[gateway.id, backend_id] += 1

    @rule(at=ANY, at_other=ANY, order=st.permutations(BACKENDS), requests=st.integers(1, 4))
    def an_answer_takes_its_time(self, at, at_other, order, requests) -> None:
        """The fleet has acted on a message, and its sender does not know yet; requests go on everywhere."""
        gateway, other = self.pick(at), self.pick(at_other)
        if gateway is other:
            return
        answer = self.fleet.begin_exchange(gateway)
        self.note_the_forgotten()
        for _ in range(requests):
            self.request(at_other, order, Fate.DELIVERED)
            candidate = gateway.book.take(self.fleet.plan(*order).candidates, self.fleet.now_s)
            if candidate is not None:
                gateway.running.append(candidate)
                self.check_admission(gateway, candidate.backend.id)
            self.the_limit_holds()
        answer()
        self.heard(gateway)

    @rule(at=ANY, fate=FATES)
    def tick(self, at, fate) -> None:
        gateway = self.pick(at)
        self.fleet.exchange(gateway, fate=fate)
        self.heard(gateway)

    @rule(at=ANY, order=st.permutations(BACKENDS), waiting=st.integers(0, 3), age_s=AGES, fate=FATES)
    def some_wait(self, at, order, waiting, age_s, fate) -> None:
        """A tick of a gateway in which requests wait: they take what it is given for them."""
        gateway = self.pick(at)
        self.fleet.exchange(gateway, fate=fate, wants=(Wanting(tuple(order), waiting, age_s),))
        self.heard(gateway)
        for _ in range(waiting):
            candidate = gateway.book.take_here(self.fleet.plan(*order).candidates, self.fleet.now_s)
            if candidate is not None:
                gateway.running.append(candidate)
                self.check_admission(gateway, candidate.backend.id)

    @rule(at=ANY, which=ANY)
    def finish(self, at, which) -> None:
        gateway = self.pick(at)
        if gateway.running:
            which %= len(gateway.running)
            backend_id = gateway.running[which].backend.id
            self.fleet.finish(gateway, which)
            left = gateway.in_flight(backend_id)
            self.ghosts[gateway.id, backend_id] = min(self.ghosts[gateway.id, backend_id], left)

    @rule(seconds=st.sampled_from((0.01, 0.05, 0.3, 1.0, TTL_S + 0.1)))
    def time_passes(self, seconds) -> None:
        self.fleet.now_s += seconds

    @rule(seconds=st.sampled_from((-3600.0, -1.0, 1.0, 5.0, 3600.0)))
    def the_servers_clock_is_set(self, seconds) -> None:
        self.fleet.server_offset_s += seconds
        self.excused |= {gateway.id for gateway in self.fleet.gateways}

    @rule(at=ANY)
    def crash_and_restart(self, at) -> None:
        gateway = self.pick(at)
        self.fleet.crash(gateway)
        for backend_id in BACKENDS:
            self.ghosts.pop((gateway.id, backend_id), None)
        self.fleet.join()
        self.note_the_forgotten()

    @rule(at=ANY, backend_ids=st.sets(st.sampled_from(BACKENDS)))
    def recall(self, at, backend_ids) -> None:
        self.pick(at).book.recall(backend_ids, self.fleet.now_s)

    @rule(at=ANY, backend_ids=st.sets(st.sampled_from(BACKENDS)))
    def reload(self, at, backend_ids) -> None:
        """One gateway is configured anew: backends leave it while streams run on them, others come back."""
        limits = {id_: limit for id_, limit in self.fleet.limits.items() if id_ in backend_ids}
        self.pick(at).book.set_limits(limits)

    @rule()
    def flush(self) -> None:
        self.fleet.flush()
        self.excused |= {gateway.id for gateway in self.fleet.gateways}
        self.note_the_forgotten()

    @precondition(lambda self: self.fleet.limbo)
    @rule()
    def late_arrival(self) -> None:
        self.fleet.late_arrival()
        self.note_the_forgotten()

    @invariant()
    def the_limit_holds(self) -> None:
        for backend_id, limit in self.fleet.limits.items():
            ghosts = sum(self.ghosts[gateway.id, backend_id] for gateway in self.fleet.gateways)
            running = self.fleet.in_flight(backend_id)
            assert running - ghosts <= limit, f"{backend_id}: {running} in flight, {ghosts} of them ghosts"

    @invariant()
    def the_books_are_sound(self) -> None:
        for gateway in self.fleet.gateways:
            for backend_id, slots in gateway.book.slots.items():
                assert slots.in_use == gateway.in_flight(backend_id) >= 0
                assert slots.granted >= 0
                assert 0 <= slots.allowance <= slots.limit
        for backend_id in BACKENDS:
            for granted, in_use in self.fleet.granted(backend_id).values():
                assert 0 <= in_use <= granted

    def teardown(self) -> None:
        """All requests end, faults are over: every slot is there for whoever asks, and no more than those."""
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        for gateway in fleet.gateways:
            gateway.book.set_limits(fleet.limits)
            while gateway.running:
                fleet.finish(gateway, 0)
        for _ in range(6):
            fleet.now_s += 1.0
            for gateway in fleet.gateways:
                fleet.exchange(gateway)
        asker, others = fleet.gateways[0], fleet.gateways[1:]
        for backend_id, limit in fleet.limits.items():
            for _ in range(limit):
                if fleet.request(asker, fleet.plan(backend_id)) is None:
                    for other in others:  # told by the news channel: give back what is idle
                        other.book.recall([backend_id], fleet.now_s)
                        fleet.exchange(other)
                    assert fleet.request(asker, fleet.plan(backend_id)) is not None, (
                        "a slot did not come back"
                    )
            assert fleet.request(asker, fleet.plan(backend_id)) is None
            assert fleet.in_flight(backend_id) == limit


@given(st.integers(1, 40), st.lists(st.integers(0, 12), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_fleet_that_loses_its_store_stays_within_one_slot_a_gateway(redis_server, limit, demand):
    """All are cut off at once, and every gateway takes whatever it may: limit + (gateways - 1) at most."""
    with redis_server.client() as client:
        fleet = VirtualFleet(client, {"a": limit}, len(demand))
        plan = fleet.plan("a")
        for gateway, requests in zip(fleet.gateways, demand, strict=True):
            fleet.exchange(gateway)
            for _ in range(requests):
                fleet.request(gateway, plan)
        for gateway in fleet.gateways:  # the heartbeat by which each hears of the others
            fleet.exchange(gateway)
        for gateway in fleet.gateways:
            gateway.book.cut_off()
            while fleet.request(gateway, plan) is not None:
                pass
        assert all(gateway.in_flight("a") >= 1 for gateway in fleet.gateways), "requests keep flowing"
        assert fleet.in_flight("a") <= limit + len(demand) - 1


def test_the_limit_holds_in_every_history(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        machine = type("Machine", (Fleet,), {"client": client})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=150,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
