"""Several GrantBooks and the real script in a real Redis, with one virtual clock under all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from importlib.resources import files
from itertools import count
from uuid import uuid4

import redis

from gateway.core.model import Backend, Candidate, Plan, PlanReason
from gateway.state import wire
from gateway.state.grants import GrantBook
from gateway.state.keys import Keys
from gateway.state.messages import Ask, Message, Served, Wanting

CLOCK_KEY = "test:clock"
START_S = 1_700_000_000.0
_REAL_CLOCK = "redis.call('TIME')"


class Fate(Enum):
    """What becomes of an exchange."""

    DELIVERED = "delivered"
    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"  # it was executed, and the gateway does not know
    DELAYED = "delayed"  # it is executed some time later, and the gateway has given it up


class Gateway:
    """One gateway: its book, what runs on it, and what it knows of time."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.book = GrantBook()
        self.running: list[Candidate] = []

    def in_flight(self, backend_id: str) -> int:
        return sum(candidate.backend.id == backend_id for candidate in self.running)


def taken(fleet: VirtualFleet, gateway: Gateway, requests: int, backend_id: str = "a") -> int:
    """How many of so many requests get a slot of the backend, what is idle elsewhere being called back."""
    plan = fleet.plan(backend_id)

    def serve() -> bool:
        if fleet.request(gateway, plan) is not None:
            return True
        for other in fleet.gateways:
            if other is not gateway and other.book.recall([backend_id], fleet.now_s):
                fleet.exchange(other)
        return fleet.request(gateway, plan) is not None

    return sum(serve() for _ in range(requests))


def takes_all_it_may(fleet: VirtualFleet, *gateways: Gateway) -> int:
    """How many requests get a slot there, while nobody else does anything."""
    before = fleet.in_flight("a")
    for gateway in gateways:
        while fleet.request(gateway, fleet.plan("a")) is not None:
            pass
    return fleet.in_flight("a") - before


class VirtualFleet:
    """Drives gateways as SharedStore does, one step at a time."""

    def __init__(self, client: redis.Redis, limits: Mapping[str, int], gateways: int) -> None:
        self.client = client
        self.limits = dict(limits)
        self.keys = Keys(f"machine-{uuid4().hex}")
        script = files("gateway.state").joinpath("lua/exchange.lua").read_text("utf-8")
        assert script.count(_REAL_CLOCK) == 1
        self._script = client.register_script(
            script.replace(_REAL_CLOCK, f"redis.call('LRANGE', '{CLOCK_KEY}', 0, 1)")
        )
        self.now_s = 0.0
        self.server_offset_s = START_S
        self._names = map("g{}".format, count())
        self.limbo: list[tuple[str, int, list[str], bytes]] = []
        self.executed: dict[str, int] = {}  # the newest message of each gateway that was executed
        self.gateways: list[Gateway] = []
        for _ in range(gateways):
            self.join()

    # --- the world -----------------------------------------------------------------------------------

    def join(self) -> Gateway:
        gateway = Gateway(next(self._names))
        gateway.book.set_limits(self.limits)
        self.gateways.append(gateway)
        return gateway

    def crash(self, gateway: Gateway) -> None:
        """kill -9: its streams end with it, its grants stay in Redis."""
        self.gateways.remove(gateway)

    def plan(self, *backend_ids: str) -> Plan:
        seats = [
            Candidate(Backend(id_, "http://b", 1), "c", "primary", PlanReason.FIRST_CHOICE)
            for id_ in backend_ids
        ]
        return Plan(tuple(seats), "primary")

    def in_flight(self, backend_id: str) -> int:
        """As the backend sees it."""
        return sum(gateway.in_flight(backend_id) for gateway in self.gateways)

    # --- Redis ---------------------------------------------------------------------------------------

    def execute(self, names: list[str], payload: bytes) -> bytes:
        server_us = int((self.server_offset_s + self.now_s) * 1_000_000)
        with self.client.pipeline() as pipe:
            pipe.delete(CLOCK_KEY)
            pipe.rpush(CLOCK_KEY, server_us // 1_000_000, server_us % 1_000_000)
            pipe.execute()
        return self._script(keys=names, args=[payload])

    def flush(self) -> None:
        """The fleet's memory is gone: FLUSHALL, or a failover that lost it."""
        for key in (
            self.keys.gateways,
            self.keys.latency,
            self.keys.drains,
            self.keys.openings,
            *map(self.keys.grants, self.limits),
        ):
            self.client.delete(key)

    def has_memory(self) -> bool:
        """Whether anybody has told what it holds since the memory was lost."""
        return bool(self.client.hexists(self.keys.gateways, "!born"))

    def late_arrival(self) -> None:
        """A message that its gateway gave up is executed after all; after a newer one it changes nothing."""
        gateway_id, seq, names, payload = self.limbo.pop()
        before = {backend_id: self.granted(backend_id).get(gateway_id) for backend_id in self.limits}
        is_outdated = gateway_id in self.known() and self.executed.get(gateway_id, 0) > seq
        self.execute(names, payload)
        self.executed[gateway_id] = max(self.executed.get(gateway_id, 0), seq)
        if is_outdated and gateway_id in self.known():
            for backend_id, grant in before.items():
                assert self.granted(backend_id).get(gateway_id) == grant, (
                    "an old message changed a newer state"
                )

    def known(self) -> set[str]:
        """The gateways that the fleet counts among the living."""
        fields = {k.decode(): v.decode() for k, v in self.client.hgetall(self.keys.gateways).items()}
        clock_ms = float(fields.get("!clock", 0))
        return {
            name
            for name, beat in fields.items()
            if not name.startswith("!") and float(beat.split(":")[1]) > clock_ms
        }

    def granted(self, backend_id: str) -> dict[str, tuple[int, int]]:
        """What stands in Redis: gateway -> (granted, in use), of the dead too."""
        fields = self.client.hgetall(self.keys.grants(backend_id)).items()
        return {
            k.decode(): tuple(map(int, v.decode().split(":")))
            for k, v in fields
            if not k.startswith((b"!", b"?"))
        }

    # --- what a gateway does -------------------------------------------------------------------------

    def exchange(
        self,
        gateway: Gateway,
        asks: tuple[Ask, ...] = (),
        fate: Fate = Fate.DELIVERED,
        wants: tuple[Wanting, ...] = (),
    ) -> list[Served]:
        """One exchange, and a second one when the fleet does not know the gateway."""
        message = gateway.book.compose(asks, self.now_s, wants)
        names, payload = wire.encode(self.keys, gateway.id, message, wire.Extras())
        if fate is Fate.DELAYED:
            self.limbo.append((gateway.id, message.seq, names, payload))
        if fate in (Fate.REQUEST_LOST, Fate.DELAYED):
            gateway.book.cut_off()
            return []
        reply = wire.decode(self.execute(names, payload))
        self.executed[gateway.id] = message.seq
        if fate is Fate.REPLY_LOST:
            gateway.book.cut_off()
            return []
        return self._hear(gateway, message, reply)

    def begin_exchange(
        self, gateway: Gateway, asks: tuple[Ask, ...] = (), wants: tuple[Wanting, ...] = ()
    ) -> Callable[[], list[Served]]:
        """The fleet acts on it at once; the gateway hears of it when it calls what this returns.

        Whom the fleet does not know begins another one later: nothing follows at once.
        """
        message = gateway.book.compose(asks, self.now_s, wants)
        reply = wire.decode(self.execute(*wire.encode(self.keys, gateway.id, message, wire.Extras())))
        self.executed[gateway.id] = message.seq

        def hear() -> list[Served]:
            return gateway.book.absorb(message, reply.answer, self.now_s)

        return hear

    def _hear(self, gateway: Gateway, message: Message, reply: wire.Reply) -> list[Served]:
        served = gateway.book.absorb(message, reply.answer, self.now_s)
        if reply.answer.status != "ok":
            return self.exchange(gateway, message.asks)
        self._check_streams_are_counted(gateway, message)
        return served

    def _check_streams_are_counted(self, gateway: Gateway, message: Message) -> None:
        for backend_id in message.backend_ids:
            granted, _ = self.granted(backend_id).get(gateway.id, (0, 0))
            told = dict(zip(message.backend_ids, message.reports, strict=True))[backend_id][2]
            assert granted >= told, "a live stream has lost its slot"

    def request(self, gateway: Gateway, plan: Plan, fate: Fate = Fate.DELIVERED) -> Candidate | None:
        """A request as SharedStore.lease carries it, without the second asking."""
        book = gateway.book
        candidate = book.take(plan.candidates, self.now_s)
        if candidate is None:
            ask = book.to_ask(plan.candidates, self.now_s)
            if ask is not None:
                served = self.exchange(gateway, (ask,), fate)
                candidate = served[0].candidate if served else None
            if candidate is None:
                candidate = book.take_here(plan.candidates, self.now_s)
        if candidate is not None:
            gateway.running.append(candidate)
        return candidate

    def finish(self, gateway: Gateway, at: int) -> None:
        candidate = gateway.running.pop(at)
        gateway.book.give_back(candidate, self.now_s)
