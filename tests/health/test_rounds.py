"""When each backend is asked: delays from a draw, one at a time, started and stopped as the fleet changes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.fleet import BackendEndpoint
from gateway.health.rounds import Round, Rounds, first_delay_s, next_delay_s
from gateway.health.targets import Target
from tests.proxy.dialogue import settled

LAST_DRAW = 2**64 - 1


def round_of(name: str, interval_s: float = 0.01, tier: str = "primary") -> Round:
    return Round(Target(BackendEndpoint(name, "http", "h", 1, b"", b"h"), "c", tier, 1.0), interval_s)


def test_delays() -> None:
    assert (first_delay_s(2.0, 0), first_delay_s(2.0, 2**63)) == (0.0, 1.0)
    assert next_delay_s(2.0, 0.0, 0) == pytest.approx(1.8)
    assert next_delay_s(2.0, 0.0, 2**63) == pytest.approx(2.0)
    assert next_delay_s(2.0, 0.0, LAST_DRAW) == pytest.approx(2.2)
    assert next_delay_s(2.0, 0.5, 2**63) == pytest.approx(1.5), "from begin to begin"
    assert next_delay_s(2.0, 9.0, 2**63) == 0.0


@given(st.floats(0.01, 1e6), st.floats(0, 1e6), st.integers(0, LAST_DRAW))
def test_delays_are_never_negative_nor_much_longer_than_the_interval(interval_s, took_s, draw) -> None:
    assert 0 <= first_delay_s(interval_s, draw) <= interval_s
    assert 0 <= next_delay_s(interval_s, took_s, draw) <= interval_s * 1.1 + 1e-6


class Asking:
    """Counts who is asked; each question takes until `answered` is set."""

    def __init__(self, max_at_once: int = 100) -> None:
        self.asked: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.most = 0
        self.cancelled: Counter[str] = Counter()
        self.answered = asyncio.Event()
        self.answered.set()
        self.rounds = Rounds(self.ask, monotonic, lambda: 0, max_at_once)

    async def ask(self, target: Target) -> None:
        name = target.backend_id
        self.asked[name] += 1
        self.under_way[name] += 1
        assert self.under_way[name] == 1, "two at once"
        self.most = max(self.most, sum(self.under_way.values()))
        try:
            await self.answered.wait()
        except asyncio.CancelledError:
            self.cancelled[name] += 1
            raise
        finally:
            self.under_way[name] -= 1

    def follow(self, *rounds: Round) -> None:
        self.rounds.follow({r.target.backend_id: r for r in rounds})


@pytest.fixture
async def asking():
    made = Asking()
    yield made
    await made.rounds.stop()


async def test_each_is_asked_again_and_again_one_at_a_time(asking) -> None:
    asking.follow(round_of("a"), round_of("b"))
    assert await settled(lambda: min(asking.asked["a"], asking.asked["b"]) >= 3)
    asking.answered.clear()
    assert await settled(lambda: sum(asking.under_way.values()) == 2)
    seen = dict(asking.asked)
    await asyncio.sleep(0.05)
    assert asking.asked == seen, "a slow one is not asked again meanwhile"


async def test_who_joins_is_asked_and_who_leaves_no_longer_in_the_middle_of_a_question(asking) -> None:
    asking.answered.clear()
    asking.follow(round_of("a"), round_of("b"))
    assert await settled(lambda: asking.under_way == {"a": 1, "b": 1})
    asking.follow(round_of("b"), round_of("c"))
    assert await settled(lambda: asking.under_way == {"a": 0, "b": 1, "c": 1})
    assert (asking.cancelled, asking.rounds.backend_ids) == ({"a": 1}, {"b", "c"})
    asking.answered.set()
    assert await settled(lambda: asking.asked["c"] >= 3)
    assert asking.asked["a"] == 1


async def test_a_changed_one_begins_anew(asking) -> None:
    asking.answered.clear()
    asking.follow(round_of("a"))
    assert await settled(lambda: asking.asked["a"] == 1)
    asking.follow(round_of("a", tier="spot"))
    assert await settled(lambda: asking.asked["a"] == 2 and asking.cancelled["a"] == 1)


async def test_so_many_at_once_and_no_more() -> None:
    asking = Asking(max_at_once=2)
    asking.answered.clear()
    asking.follow(*(round_of(f"b{number}") for number in range(9)))
    assert await settled(lambda: asking.most == 2)
    await asyncio.sleep(0.05)
    assert asking.most == 2
    asking.answered.set()
    assert await settled(lambda: len(asking.asked) == 9), "all get their turn"
    await asking.rounds.stop()


async def test_a_defect_is_logged_and_does_not_end_the_rounds(caplog) -> None:
    asked: list[str] = []

    async def ask(target: Target) -> None:
        asked.append(target.backend_id)
        raise RuntimeError("a defect")

    rounds = Rounds(ask, monotonic, lambda: 0, 1)
    with caplog.at_level(logging.ERROR):
        rounds.follow({"a": round_of("a")})
        assert await settled(lambda: len(asked) >= 2)
    assert "asking after a failed" in caplog.text
    await rounds.stop()


async def test_after_stop_nothing_is_under_way() -> None:
    asking = Asking(max_at_once=1)
    asking.answered.clear()
    asking.follow(round_of("a"), round_of("b"), round_of("c", interval_s=50.0))
    assert await settled(lambda: asking.most == 1)
    before = asyncio.all_tasks()
    await asking.rounds.stop()
    assert sum(asking.under_way.values()) == 0
    assert len(before) - len(asyncio.all_tasks()) == 3
    await asking.rounds.stop()
