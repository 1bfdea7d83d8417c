"""The store's script in an embedded Lua answers and publishes what a real server does, word for word."""

from __future__ import annotations

import sys
from importlib.resources import files
from random import Random
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis

from gateway.core.latency import LatencySummary
from gateway.core.model import Backend, Candidate, PlanReason
from gateway.sim.script_host import EPOCH_US, NoLua, ScriptHost
from gateway.state import wire
from gateway.state.grants import TTL_S, GrantBook
from gateway.state.keys import KEY_TTL_MS, Keys
from gateway.state.messages import Ask, Wanting
from tests.redis_server import RedisServer

LIMITS = {"a": 5, 'b "quoted" é\\': 3, "c": 40}


class RealHost:
    """A real server with the virtual clock, asked like a ScriptHost."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._clock = f"clock-{uuid4().hex}"
        script = files("gateway.state").joinpath("lua/exchange.lua").read_text("utf-8")
        assert script.count("redis.call('TIME')") == 1
        self._script = client.register_script(
            script.replace("redis.call('TIME')", f"redis.call('LRANGE', '{self._clock}', 0, 1)")
        )
        self._keys = keys
        self._news = client.pubsub(ignore_subscribe_messages=True)
        self._news.subscribe(keys.news)

    def run(self, keys: list[str], payload: bytes, now_s: float) -> tuple[bytes, list[bytes]]:
        time = divmod(EPOCH_US + int(now_s * 1_000_000), 1_000_000)
        with self._client.pipeline() as pipe:
            pipe.delete(self._clock)
            pipe.rpush(self._clock, *time)
            pipe.execute()
        answer = self._script(keys=keys, args=[payload])
        return answer, self._published()

    def _published(self) -> list[bytes]:
        """What came before a word that is said last."""
        last = uuid4().hex.encode()
        self._client.publish(self._keys.news, last)
        published: list[bytes] = []
        while True:
            message = self._news.get_message(timeout=5.0)
            if message is None:
                continue
            if message["data"] == last:
                return published
            published.append(message["data"])

    def flush(self) -> None:
        for key in self._client.scan_iter(match=self._keys.news.replace("news", "*")):
            self._client.delete(key)


class Life:
    """Gateways that do whatever gateways do, drawn from a seed."""

    def __init__(self, seed: int, gateways: int = 4) -> None:
        self.draw = Random(seed)
        self.now_s = 0.0
        self.names = [f"g{number}" for number in range(gateways)]
        self.books = {name: self.newborn() for name in self.names}
        self.running: dict[str, list[Candidate]] = {name: [] for name in self.names}

    def newborn(self) -> GrantBook:
        book = GrantBook()
        book.set_limits(LIMITS, {"c": self.draw.choice((40, 9))})
        return book

    def seat(self, *, is_probe: bool = False) -> Candidate:
        backend = Backend(self.draw.choice(list(LIMITS)), "http://b", 1)
        return Candidate(backend, "cluster", "primary", PlanReason.FIRST_CHOICE, is_probe=is_probe)

    def message(self, name: str) -> tuple[list[Ask], Any]:
        """What a gateway says next, and what it asks for."""
        draw, book = self.draw, self.books[name]
        for _ in range(draw.randrange(6)):
            taken = book.take([self.seat()], self.now_s)
            if taken is not None:
                self.running[name].append(taken)
        while self.running[name] and draw.random() < 0.4:
            at = draw.randrange(len(self.running[name]))
            book.give_back(self.running[name].pop(at), self.now_s)
        if draw.random() < 0.1:
            book.recall([draw.choice(list(LIMITS))], self.now_s)
        asks = [
            Ask(tuple(self.seat(is_probe=draw.random() < 0.2) for _ in range(draw.randint(1, 2))))
            for _ in range(draw.randrange(4))
        ]
        wants = [
            Wanting((draw.choice(list(LIMITS)),), draw.randrange(4), draw.random())
            for _ in range(draw.randrange(3))
        ]
        return asks, book.compose(tuple(asks), self.now_s, tuple(wants))

    def extras(self) -> wire.Extras:
        draw = self.draw
        drained = [(name, draw.choice((-1, 0, 500, 60_000))) for name in ("x", "y", "z")]
        return wire.Extras(
            is_leaving=draw.random() < 0.02,
            drains=drained[: draw.randrange(3)] if draw.random() < 0.1 else (),
            known_drains=drained if draw.random() < 0.1 else (),
            latency={"a": LatencySummary(draw.random(), draw.randint(1, 99))}
            if draw.random() < 0.3
            else None,
            openings=[("a", "hung", draw.randint(0, 3000), 2)] if draw.random() < 0.1 else (),
            closings=["a"] if draw.random() < 0.05 else (),
        )

    def absorb(self, name: str, message: Any, raw: bytes) -> None:
        served = self.books[name].absorb(message, wire.decode(raw).answer, self.now_s)
        self.running[name] += [one.candidate for one in served if one.candidate is not None]


def test_it_answers_and_publishes_what_a_real_server_does(redis_server: RedisServer) -> None:
    kinds, statuses = set(), set()
    with redis_server.client() as client:
        for seed in range(4):
            keys = Keys(f"twin-{uuid4().hex}")
            real, embedded, life = RealHost(client, keys), ScriptHost(), Life(seed)
            for _ in range(250):
                life.now_s += life.draw.choice((0.0, 0.002, 0.05, 0.05, 0.4, TTL_S + 0.1))
                name = life.draw.choice(life.names)
                _, message = life.message(name)
                extras = life.extras()
                names, payload = wire.encode(keys, name, message, extras)
                answers = [host.run(names, payload, life.now_s) for host in (real, embedded)]
                (said, told), (twin_said, twin_told) = answers
                decode = msgspec.msgpack.decode
                assert decode(twin_said) == decode(said)
                assert list(map(decode, twin_told)) == list(map(decode, told))
                statuses.add(decode(said)[0])
                kinds |= {decode(one)[0] for one in told}
                if not extras.is_leaving:
                    life.absorb(name, message, said)
                if extras.is_leaving or life.draw.random() < 0.02:  # it comes back with the same name
                    life.books[name], life.running[name] = life.newborn(), []
                if life.draw.random() < 0.01:
                    real.flush()
                    embedded.flush()
    assert statuses == {"ok", "stale", "unknown"}
    assert kinds >= {"recall", "freed", "drains", "circuits"}


def test_what_nobody_writes_any_more_expires() -> None:
    host, keys, life = ScriptHost(), Keys("f"), Life(0, gateways=1)
    born = []
    for now_s in (0.0, 1.0, 1.0 + KEY_TTL_MS / 1000 - 0.001, 2.1 + 2 * KEY_TTL_MS / 1000):
        life.books["g0"].void()
        message = life.books["g0"].compose((), now_s)
        answer, _ = host.run(*wire.encode(keys, "g0", message, wire.Extras()), now_s)
        born.append(wire.decode(answer).answer.born_ms)
    assert born[0] == born[1] == born[2] == EPOCH_US // 1000
    assert born[3] > born[2], "its memory is a new one"


def test_where_the_embedded_lua_is_missing_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lupa", None)
    with pytest.raises(NoLua, match=r"pip install 'spillway\[sim\]'"):
        ScriptHost()
