"""Requests that wait for a slot: served in order, gone at once with their client, planned anew."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.loading import parse
from gateway.core.fleet import Drained, Undrained
from gateway.core.model import Reason
from tests.proxy.conftest import _OWN_LINES, one_per_tier
from tests.proxy.dialogue import BODY, post, reply, settled

PATIENT = "hold: {max_wait: 20s}\n"
SHORT_S = 0.06


class Busy:
    """A primary whose only slot is in use until `done` is set, and a free backup."""

    def __init__(self, gateway, primary, backup) -> None:
        self.gateway, self.primary, self.backup = gateway, primary, backup
        self.done = asyncio.Event()
        self.holding = gateway.plane.holding

    async def begins(self) -> Busy:
        assert (await self.gateway.ask(post())).status == 200  # from now on its pace is known
        self.primary.will(self.done, reply())
        self.running = await self.gateway.connect()
        await self.running.send(post())
        assert await settled(lambda: self.gateway.leases == 1)
        return self

    async def waits(self, *lines: str, body: bytes = BODY):
        """One more client whose request waits."""
        before = self.holding.count
        client = await self.gateway.connect()
        await client.send(post(body, *lines))
        assert await settled(lambda: self.holding.count == before + 1)
        return client


@pytest.fixture
async def busy(start_backend, start_gateway):
    async def start(config: str = PATIENT, tiers: int = 2) -> Busy:
        backends = [await start_backend() for _ in range(2)]
        gateway = await start_gateway(config, *backends[:tiers], limit=1)
        return await Busy(gateway, *backends).begins()

    return start


def cluster(answer) -> tuple[int, str | None]:
    return answer.status, answer.header("x-spillway-cluster")


async def test_it_gets_the_slot_that_comes_free(busy):
    story = await busy()
    client = await story.waits()
    await asyncio.sleep(0.2)
    story.done.set()
    answer = await client.answer()
    assert cluster(answer) == (200, "primary")
    assert answer.header("x-spillway-spill-reason") is None
    # A timer may be a moment early, and what it shows is cut to whole milliseconds.
    assert int(answer.header("x-spillway-queue-ms")) >= 195
    assert float(answer.header("x-spillway-overhead-ms")) < 195, "the wait is not the gateway's own time"
    held = story.gateway.records[-1].held
    assert (held.tier, held.outcome) == ("primary", "served")
    assert held.seconds >= 0.195


async def test_its_time_over_it_spills(busy):
    story = await busy(f"hold: {{max_wait: {SHORT_S}s}}\n")
    answer = await (await story.waits()).answer()
    assert cluster(answer) == (200, "backup")
    assert answer.header("x-spillway-spill-reason") == "full"
    assert int(answer.header("x-spillway-queue-ms")) >= SHORT_S * 1000 - 1
    story.done.set()
    await story.running.answer()
    held = next(record.held for record in story.gateway.records if record.held)
    assert (held.tier, held.outcome) == ("primary", "spilled")


async def test_where_nobody_has_room_it_waits_for_any_slot(busy):
    story = await busy()
    tell, backup_done = story.gateway.gateway.apply, asyncio.Event()
    tell(Drained("primary"))
    story.backup.will(backup_done, reply())
    filler = await story.gateway.connect()
    await filler.send(post())
    assert await settled(lambda: len(story.backup.requests) == 1)
    tell(Undrained("primary"))
    client = await story.waits()
    backup_done.set()
    answer = await client.answer()
    assert cluster(answer) == (200, "backup")
    assert story.gateway.records[-1].held.outcome == "spilled"
    story.done.set()
    await story.running.answer()


async def test_nowhere_a_slot_in_time_is_queue_timeout(busy):
    story = await busy(f"hold: {{max_wait: {SHORT_S}s}}\n", tiers=1)
    answer = await (await story.waits()).answer()
    assert (answer.status, answer.error["code"]) == (429, "queue_timeout")
    assert int(answer.header("retry-after-ms")) > 0
    story.done.set()
    await story.running.answer()
    held = next(record.held for record in story.gateway.records if record.held)
    assert held.outcome == "timed_out"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_is_gone_at_once(busy, how):
    story = await busy()
    client = await story.waits()
    getattr(client, how)()
    assert await settled(lambda: story.holding.count == 0)
    assert await settled(lambda: len(story.gateway.plane.exchanges) == 1)
    held = story.gateway.records[-1].held
    assert (held.outcome, story.gateway.records[-1].outcome.reason) == ("left", Reason.CLIENT_LEFT)
    story.done.set()
    await story.running.answer()
    assert await settled(lambda: story.gateway.is_clean)
    assert len(story.primary.requests) == 2


async def test_who_leaves_with_a_slot_in_the_same_turn_hands_it_on(busy):
    story = await busy()
    first, second = await story.waits(), await story.waits()
    room = story.gateway.plane.waiting
    running, exchange, _ = sorted(story.gateway.plane.exchanges, key=lambda e: e.record.started_s)
    assert room.holding.count == 2
    running.client_left()  # frees the slot: it is leased for the first, whose coroutine has not gone on yet
    assert room.holding.count == 1
    exchange.client_left()
    assert room.holding.count == 0, "the second has it"
    assert cluster(await second.answer()) == (200, "primary")
    first.close()
    story.done.set()


async def test_one_slot_wakes_one_and_nobody_overtakes(busy):
    story = await busy()
    clients = []
    for name in ("one", "two", "three"):
        clients.append(await story.waits(body=b'{"model":"m","user":"%s"}' % name.encode()))
    urgent = await story.waits("x-spillway-deadline: 10", body=b'{"model":"m","user":"urgent"}')
    story.done.set()
    await asyncio.gather(*(client.answer() for client in (*clients, urgent)))
    order = [request.body.decode() for request in story.primary.requests[2:]]
    assert [body.split('"')[-2] for body in order] == ["urgent", "one", "two", "three"]
    assert story.backup.requests == []


async def test_a_tier_that_is_drained_sends_its_queue_on_at_once(busy):
    story = await busy()
    clients = [await story.waits() for _ in range(2)]
    story.gateway.gateway.apply(Drained("primary"))
    assert cluster(await clients[0].answer()) == (200, "backup")
    refused = await clients[1].answer()
    assert (refused.status, refused.error["code"]) == (429, "no_capacity"), "the only other slot is taken"
    story.done.set()
    await story.running.answer()


async def test_all_tiers_gone_the_queue_hears_it_at_once(busy):
    story = await busy(tiers=1)
    client = await story.waits()
    story.gateway.gateway.apply(Drained("primary"))
    assert (await client.answer()).error["code"] == "no_backend"
    story.done.set()
    await story.running.answer()
    held = next(record.held for record in story.gateway.records if record.held)
    assert held.outcome == "timed_out"
    story.gateway.gateway.apply(Undrained("primary"))


async def test_a_reload_holds_for_who_comes_after_it(busy, tmp_path):
    story = await busy()
    client = await story.waits()
    text = _OWN_LINES + "hold: {max_wait: 0s}\n" + one_per_tier(story.primary, story.backup, limit=1)
    story.gateway.gateway.adopt(parse(text, "test.yaml", tmp_path))
    assert cluster(await story.gateway.ask(post())) == (200, "backup")
    assert story.holding.count == 1
    story.done.set()
    assert cluster(await client.answer()) == (200, "primary")


async def test_a_raised_limit_is_room(busy, tmp_path):
    story = await busy()
    client = await story.waits()
    text = _OWN_LINES + PATIENT + one_per_tier(story.primary, story.backup, limit=2)
    story.gateway.gateway.adopt(parse(text, "test.yaml", tmp_path))
    assert cluster(await client.answer()) == (200, "primary")
    story.done.set()


async def test_a_backend_that_leaves_the_configuration_has_no_queue(busy, tmp_path):
    story = await busy()
    client = await story.waits()
    text = _OWN_LINES + PATIENT + one_per_tier(story.backup, limit=1)
    story.gateway.gateway.adopt(parse(text, "test.yaml", tmp_path))
    answer = await client.answer()
    assert (answer.status, answer.header("x-spillway-backend")) == (
        200,
        f"primary@127.0.0.1:{story.backup.port}",
    )
    story.done.set()
    await story.running.answer()


async def test_the_end_of_the_gateway_ends_waits(busy):
    story = await busy()
    client = await story.waits()
    draining = asyncio.ensure_future(story.gateway.plane.drain(0.0, SHORT_S))
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "no_backend")
    assert await draining is False
    story.gateway.is_stopped = True
    await story.gateway.stop()
    assert story.holding.count == 0


async def test_without_hold_it_spills_at_once(busy):
    story = await busy("hold: {max_wait: 0s}\n")
    answer = await story.gateway.ask(post())
    assert cluster(answer) == (200, "backup")
    assert answer.header("x-spillway-queue-ms") == "0"
    story.done.set()


async def test_when_its_wait_ends_a_tier_that_has_become_the_best_is_asked(busy):
    story = await busy("hold: {max_wait: 300ms}\n")
    client = await story.waits()
    fleet, clock = story.gateway.gateway._fleet, story.gateway.plane.clock
    # As when its time is over in the turn in which a circuit opens: nobody has looked through the queue yet.
    fleet.apply(Drained("primary"), clock())
    assert cluster(await client.answer()) == (200, "backup")
    story.done.set()
