"""One try at one backend: what it tells the fleet and its owner, also when two run for one request."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.fleet import FirstByteSeen
from gateway.core.model import SUCCESS, Outcome, Reason, RequestFacts
from gateway.core.routing import plan_route
from gateway.proxy.attempt import Attempt
from tests.proxy.dialogue import (
    BODY,
    EVENT,
    HANG,
    LAST_CHUNK,
    Ending,
    chunk,
    event_stream,
    post,
    reply,
    settled,
)
from tests.proxy.telling import ends, listen


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {first_byte: 200ms, connect: 300ms}", backend)
    return gateway, backend, listen(gateway)


async def test_a_client_that_leaves_before_the_first_byte_tells_a_lower_bound(pair):
    gateway, backend, told = pair
    backend.will(HANG)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(backend.requests) == 1)
    await asyncio.sleep(0.08)
    client.close()
    assert await settled(lambda: len(ends(told)) == 1)
    (end,) = ends(told)
    assert (end.outcome.reason, end.ttft_s) == (Reason.CLIENT_LEFT, None)
    assert 0.08 <= end.elapsed_s < 0.2


@pytest.mark.parametrize("head", [b"", event_stream()], ids=["nothing", "a-head"])
async def test_a_first_byte_that_does_not_come_in_time_tells_a_lower_bound(pair, head):
    gateway, backend, told = pair
    backend.will(head, HANG)
    assert (await gateway.ask(post())).status == 504
    (end,) = ends(told)
    assert end.outcome.reason is Reason.FIRST_BYTE_TIMEOUT
    assert 0.2 <= end.elapsed_s < 0.5


GOOD = {
    "whole": [reply()],
    "without-a-body": [b"HTTP/1.1 204 None\r\n\r\n"],
    "cut-later": [event_stream() + chunk(EVENT), 0.02, Ending.RST],
    "error": [reply(b"{}", status="400 Bad")],
    "full": [reply(b"{}", status="503 Full")],
}


@pytest.mark.parametrize("script", GOOD.values(), ids=GOOD)
async def test_with_a_first_byte_there_is_no_lower_bound(pair, script):
    gateway, backend, told = pair
    backend.will(*script)
    await gateway.ask(post())
    (end,) = ends(told)
    assert end.elapsed_s is None


async def test_a_held_answer_that_gives_way_to_another_had_its_first_byte(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup)
    told = listen(gateway)
    primary.will(reply(b"{}", status="503 Full"))
    assert (await gateway.ask(post())).status == 200
    assert [(end.outcome.reason, end.elapsed_s) for end in ends(told)] == [
        (Reason.BACKEND_FULL, None),
        (Reason.COMPLETED, None),
    ]


@pytest.mark.parametrize("is_stale", [False, True])
async def test_without_a_connection_the_time_until_then_is_the_lower_bound(pair, is_stale):
    """The fleet counts it among those that wait from its begin, and must hear that it waits no more."""
    gateway, backend, told = pair
    if is_stale:
        await gateway.ask(post())
        told.clear()

        def refuse_and_reset(connection, data: bytes) -> bool:
            """The idle connection ends as the request comes, and nobody listens any more."""
            backend._server.close()
            connection.reset()
            return True

        backend.intercept = refuse_and_reset
    else:
        await backend.refuse()
    assert (await gateway.ask(post())).status == 502
    (end,) = ends(told)
    assert end.outcome.reason is Reason.CONNECT_FAILED
    assert 0 < end.elapsed_s < 0.2
    await backend.refuse()


async def test_a_long_answer_tells_of_its_first_byte_before_its_end_and_once(pair):
    gateway, backend, told = pair
    backend.will(event_stream() + chunk(EVENT), *[0.06, chunk(EVENT)] * 6, LAST_CHUNK)
    assert (await gateway.ask(post())).is_whole
    (seen,) = [event for event in told if isinstance(event, FirstByteSeen)]
    (end,) = ends(told)
    assert seen.ttft_s > 0 and end.ttft_s is None and end.elapsed_s is None


class Racing:
    """An owner of two attempts for one request: the first to have a byte wins, the other is let go."""

    def __init__(self, gateway) -> None:
        self._plane = gateway.plane
        self.settings = gateway.plane.settings
        self.attempts: list[Attempt] = []
        self.heard: list[tuple[Attempt, str]] = []
        self.body = b""

    async def begin(self, head: bytes) -> None:
        plan = plan_route(RequestFacts("m", 0), self._plane.view, self._plane.clock())
        for _ in range(2):
            lease = await self._plane.store.lease(plan)
            attempt = Attempt(self._plane, self, lease, self._plane.clock())
            self.attempts.append(attempt)
            attempt.begin(self._plane.pools[attempt.candidate.backend.id], head, BODY)
            plan = plan.after([attempt.candidate])

    def on_first_byte(self, attempt: Attempt, begun: bytes) -> None:
        self.heard.append((attempt, "first byte"))
        for other in self.attempts:
            if other is not attempt:
                other.settle(Outcome.of(Reason.OVERTAKEN))
        self._take(begun)
        attempt.relay(self._take, begun, self._plane.clock())

    def _take(self, piece: bytes) -> None:
        self.body += piece

    def on_attempt_ended(self, attempt: Attempt, reason: Reason) -> None:
        self.heard.append((attempt, reason))
        attempt.settle(Outcome.of(reason))

    def on_attempt_fault(self, attempt: Attempt) -> None:
        self.heard.append((attempt, "fault"))


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\ncontent-length: %d\r\n\r\n" % len(BODY)


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize(
    "slow", [[HANG], [0.05, reply(b"late")], [Ending.RST]], ids=["hung", "late", "reset"]
)
async def test_two_attempts_of_one_request_race_and_the_loser_is_let_go(
    start_backend, start_gateway, is_warm, slow
):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup)
    if is_warm:
        primary.will(reply(b"{}", status="503 Full"))  # so that both have a connection in their pool
        await gateway.ask(post())
    told = listen(gateway)
    primary.will(*slow)
    primary.default = [HANG]  # a warm connection that is reset is replaced by another
    backup.will(0.02, event_stream() + chunk(EVENT), 0.01, chunk(EVENT) + LAST_CHUNK)
    owner = Racing(gateway)
    await owner.begin(HEAD)
    loser, winner = owner.attempts
    assert (gateway.in_flight, gateway.leases) == (2, 2)
    assert await settled(lambda: winner.is_settled)
    assert owner.body == EVENT * 2
    assert [heard for attempt, heard in owner.heard if attempt is winner] == ["first byte", Reason.COMPLETED]
    assert {heard for attempt, heard in owner.heard if attempt is loser} <= {Reason.RESET}
    assert loser.is_settled and gateway.is_clean
    assert await settled(lambda: not primary.open_connections)
    assert sorted(end.outcome is SUCCESS for end in ends(told)) == [False, True]


async def test_a_loser_that_still_connects_is_let_go_too(start_backend, start_gateway, deaf_port):
    backup = await start_backend()
    gateway = await start_gateway(
        "timeouts: {connect: 30s}\nclusters:\n"
        f"- {{name: deaf, limit: 8, backends: ['http://127.0.0.1:{deaf_port}']}}\n"
        f"- {{name: backup, tier: backup, limit: 8, backends: ['{backup.url}']}}",
        good_request=b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    told = listen(gateway)
    owner = Racing(gateway)
    await owner.begin(HEAD)
    loser, winner = owner.attempts
    assert await settled(lambda: winner.is_settled)
    assert loser.is_settled and gateway.is_clean
    assert [attempt for attempt, _ in owner.heard] == [winner, winner]
    lost, won = ends(told)
    assert lost.elapsed_s > 0 and won.elapsed_s is None


async def test_settled_twice_is_settled_once(pair):
    gateway, backend, told = pair
    backend.will(HANG)
    plan = plan_route(RequestFacts("m", 0), gateway.plane.view, gateway.plane.clock())
    owner = Racing(gateway)
    lease = await gateway.plane.store.lease(plan)
    attempt = Attempt(gateway.plane, owner, lease, gateway.plane.clock())
    attempt.begin(gateway.plane.pools[attempt.candidate.backend.id], HEAD, BODY)
    assert await settled(lambda: len(backend.requests) == 1)
    for reason in (Reason.CLIENT_LEFT, Reason.RESET):
        attempt.settle(Outcome.of(reason))
    assert [end.outcome.reason for end in ends(told)] == [Reason.CLIENT_LEFT]
    assert gateway.is_clean and not owner.heard
