"""Two attempts for one request: the first good byte wins, and nothing is left behind, whatever happens."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from gateway.core.breaker import Circuit
from gateway.core.fleet import AttemptFinished, AttemptStarted, Drained
from gateway.core.model import Reason
from gateway.proxy.attempt import Attempt
from gateway.proxy.exchange import Exchange
from gateway.proxy.hedging import Hedge
from tests.proxy.dialogue import (
    BODY,
    EVENT,
    HANG,
    LAST_CHUNK,
    Ending,
    WaitingStore,
    chunk,
    event_stream,
    post,
    reply,
    settled,
)
from tests.proxy.telling import listen, trip

AFTER_S = 0.08
# The loop's timers go by whole milliseconds.
GRAIN_S = 0.002
HEDGED = f"hedge: {{after: {AFTER_S * 1000:g}ms, budget: 1}}\nretry: {{budget: 1}}\n"
TIMEOUTS = "timeouts: {first_byte: 400ms, connect: 300ms}\n"


def reasons(told) -> dict[str, list[Reason]]:
    """Of the attempts that ended, by cluster."""
    found: dict[str, list[Reason]] = {}
    for event in told:
        if isinstance(event, AttemptFinished):
            found.setdefault(event.backend_id.partition("@")[0], []).append(event.outcome.reason)
    return found


@pytest.fixture
async def two(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(HEDGED + TIMEOUTS, primary, backup)
    return gateway, primary, backup


async def begin(gateway, primary, *script):
    """A client whose first attempt plays `script` at the primary."""
    primary.will(*script)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(primary.requests) == 1)
    return client


SLOW_ANSWERS = {
    "hung": [HANG],
    "hung-after-the-head": [event_stream(), HANG],
    "late": [0.3, reply(b"late")],
    "late-stream": [event_stream(), 0.3, chunk(EVENT), LAST_CHUNK],
}


@pytest.mark.parametrize("script", SLOW_ANSWERS.values(), ids=SLOW_ANSWERS)
async def test_the_hedge_wins_and_the_first_is_closed_at_once(two, script):
    gateway, primary, backup = two
    told = listen(gateway)
    client = await begin(gateway, primary, *script)
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b'{"ok":true}')
    assert answer.header("x-spillway-cluster") == "backup"
    assert answer.header("x-spillway-attempts") == "2"
    assert answer.header("x-spillway-spill-reason") == "hedged"
    assert await settled(lambda: not primary.open_connections, 0.1)
    assert reasons(told) == {"primary": [Reason.OVERTAKEN], "backup": [Reason.COMPLETED]}
    lost = next(event for event in told if isinstance(event, AttemptFinished))
    assert lost.elapsed_s >= AFTER_S - GRAIN_S and lost.ttft_s is None
    assert [request.body for request in backup.requests] == [BODY]
    (record,) = gateway.records
    assert (record.attempts, record.hedge, record.retries) == (2, ("backup", "won"), ())
    assert 0 < record.overhead_s < 0.05 < AFTER_S - GRAIN_S <= record.ttft_s
    await asyncio.sleep(0.3)  # what the late one has to say reaches nobody
    assert await client.is_silent(0.01)


async def test_the_hedge_begins_when_its_time_has_come(two):
    gateway, primary, _ = two
    told = listen(gateway)
    for _ in range(5):
        told.clear()
        began_s = time.monotonic()
        primary.will(HANG)
        asking = asyncio.ensure_future(gateway.ask(post()))
        assert await settled(lambda: sum(isinstance(e, AttemptStarted) for e in told) == 2)
        assert AFTER_S - GRAIN_S <= time.monotonic() - began_s < AFTER_S + 0.03
        assert (await asking).status == 200


async def test_the_first_wins_and_the_hedge_is_closed_at_once(two):
    gateway, primary, backup = two
    told = listen(gateway)
    backup.will(HANG)
    client = await begin(
        gateway, primary, 0.2, event_stream() + chunk(EVENT), 0.05, chunk(EVENT) + LAST_CHUNK
    )
    answer = await client.answer()
    assert (answer.header("x-spillway-cluster"), answer.body, answer.is_whole) == ("primary", EVENT * 2, True)
    assert len(backup.requests) == 1
    assert await settled(lambda: not backup.open_connections)
    assert reasons(told) == {"backup": [Reason.OVERTAKEN], "primary": [Reason.COMPLETED]}
    (record,) = gateway.records
    assert (record.cluster, record.hedge, record.attempts) == ("primary", ("backup", "lost"), 2)
    assert 0 < record.overhead_s < 0.05


async def test_a_quick_answer_is_not_hedged(two):
    gateway, primary, backup = two
    client = await begin(gateway, primary, event_stream() + chunk(EVENT), 0.2, chunk(EVENT) + LAST_CHUNK)
    answer = await client.answer()
    assert (answer.is_whole, answer.header("x-spillway-attempts")) == (True, "1")
    assert not backup.requests
    assert gateway.records[0].hedge is None


FAILURES = {
    "reset": ([Ending.RST], Reason.RESET),
    "500": ([reply(b"{}", status="500 Broken")], Reason.SERVER_ERROR),
    "503": ([reply(b"{}", status="503 Full")], Reason.BACKEND_FULL),
    "503-without-a-body": ([b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n"], Reason.BACKEND_FULL),
    "broken-503": ([b"HTTP/1.1 503 Full\r\nContent-Length: 9\r\n\r\nabc", HANG], Reason.BACKEND_FULL),
    "no-http": ([b"garbage\r\n\r\n"], Reason.BAD_RESPONSE),
}


@pytest.mark.parametrize(("script", "reason"), FAILURES.values(), ids=FAILURES)
async def test_the_first_fails_and_the_hedge_carries_on_alone(two, script, reason):
    gateway, primary, backup = two
    told = listen(gateway)
    backup.will(0.2, reply(b"good"))
    client = await begin(gateway, primary, 0.15, *script)
    answer = await client.answer()
    assert (answer.status, answer.body, answer.header("x-spillway-attempts")) == (200, b"good", "2")
    assert (len(primary.requests), len(backup.requests)) == (1, 1)
    assert reasons(told) == {"primary": [reason], "backup": [Reason.COMPLETED]}
    (record,) = gateway.records
    assert (record.hedge, record.cluster) == (("backup", "won"), "backup")
    assert record.overhead_s < 0.05


@pytest.mark.parametrize(("script", "reason"), FAILURES.values(), ids=FAILURES)
async def test_the_hedge_fails_and_the_first_carries_on_alone(two, script, reason):
    gateway, primary, backup = two
    told = listen(gateway)
    backup.will(*script)
    client = await begin(gateway, primary, 0.2, reply(b"good"))
    answer = await client.answer()
    assert (answer.status, answer.body, answer.header("x-spillway-cluster")) == (200, b"good", "primary")
    assert (len(primary.requests), len(backup.requests)) == (1, 1)
    assert reasons(told) == {"backup": [reason], "primary": [Reason.COMPLETED]}
    assert gateway.records[0].hedge == ("backup", "failed")


async def test_a_refused_hedge_leaves_the_first_alone(two):
    gateway, primary, backup = two
    await backup.refuse()
    client = await begin(gateway, primary, 0.2, reply(b"good"))
    assert (await client.answer()).body == b"good"
    assert gateway.records[0].hedge == ("backup", "failed")


async def test_when_both_have_failed_a_third_may_try(start_backend, start_gateway):
    backends = [await start_backend() for _ in range(3)]
    gateway = await start_gateway(HEDGED + TIMEOUTS, *backends)
    primary, backup, _ = backends
    backup.will(0.1, Ending.RST)
    client = await begin(gateway, primary, 0.12, Ending.RST)
    answer = await client.answer()
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "spot")
    assert answer.header("x-spillway-attempts") == "3"
    assert [len(backend.requests) for backend in backends] == [1, 1, 1]
    assert gateway.records[0].hedge == ("backup", "failed")


async def test_when_both_have_failed_and_nobody_is_left_the_last_answer_passes(two):
    gateway, primary, backup = two
    backup.will(0.1, reply(b"theirs", "retry-after: 7", status="503 Full"))
    client = await begin(gateway, primary, 0.12, Ending.RST)
    answer = await client.answer()
    assert (answer.status, answer.body, answer.header("retry-after")) == (503, b"theirs", "7")
    assert gateway.records[0].hedge == ("backup", "failed")


async def test_a_caller_s_own_error_wins_like_any_answer(two):
    gateway, primary, backup = two
    backup.will(reply(b"theirs", status="400 Bad"))
    client = await begin(gateway, primary, HANG)
    answer = await client.answer()
    assert (answer.status, answer.body) == (400, b"theirs")
    assert await settled(lambda: not primary.open_connections)


async def test_both_hang_and_each_has_its_own_first_byte_timeout(two):
    gateway, primary, backup = two
    told = listen(gateway)
    backup.will(HANG)
    began_s = time.monotonic()
    client = await begin(gateway, primary, HANG)
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_first_byte")
    assert 0.4 + AFTER_S - GRAIN_S <= time.monotonic() - began_s < 0.4 + AFTER_S + 0.25
    assert reasons(told) == {"primary": [Reason.FIRST_BYTE_TIMEOUT], "backup": [Reason.FIRST_BYTE_TIMEOUT]}


async def running_two(two):
    """A client for whom two attempts hang."""
    gateway, primary, backup = two
    told = listen(gateway)
    backup.will(HANG)
    client = await begin(gateway, primary, HANG)
    assert await settled(lambda: len(backup.requests) == 1)
    assert (gateway.in_flight, gateway.leases) == (2, 2)
    return client, told


async def test_a_client_that_leaves_ends_both(two):
    gateway, primary, backup = two
    client, told = await running_two(two)
    client.reset()
    assert await settled(lambda: not primary.open_connections and not backup.open_connections)
    assert gateway.is_clean
    assert reasons(told) == {"primary": [Reason.CLIENT_LEFT], "backup": [Reason.CLIENT_LEFT]}
    assert gateway.records[0].hedge == ("backup", "lost")


async def test_shutdown_ends_both(two):
    gateway, primary, backup = two
    client, told = await running_two(two)
    assert not await gateway.plane.drain(0.0, 0.05)
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "no_backend")
    assert gateway.is_clean
    assert reasons(told) == {"backup": [Reason.SHUTDOWN], "primary": [Reason.SHUTDOWN]}
    assert await settled(lambda: not primary.open_connections and not backup.open_connections)
    await gateway.stop()


async def test_a_deadline_ends_both_and_blames_nobody_for_the_client_s_own(two):
    gateway, primary, backup = two
    told = listen(gateway)
    primary.will(HANG)
    backup.will(HANG)
    answer = await gateway.ask(post(BODY, "x-spillway-deadline: 0.2"))
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
    assert reasons(told) == {"primary": [Reason.CLIENT_LEFT], "backup": [Reason.CLIENT_LEFT]}


async def test_the_total_timeout_is_the_failure_of_the_first_only(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(HEDGED + "timeouts: {total: 200ms, first_byte: 5s}\n", primary, backup)
    told = listen(gateway)
    backup.will(HANG)
    client = await begin(gateway, primary, HANG)
    assert (await client.answer()).status == 504
    assert reasons(told) == {"backup": [Reason.OVERTAKEN], "primary": [Reason.TOTAL_TIMEOUT]}


async def test_a_first_attempt_that_still_connects_is_overtaken(start_backend, start_gateway, deaf_port):
    backup = await start_backend()
    gateway = await start_gateway(
        HEDGED + "timeouts: {connect: 30s}\nclusters:\n"
        f"- {{name: deaf, limit: 8, backends: ['http://127.0.0.1:{deaf_port}']}}\n"
        f"- {{name: backup, tier: backup, limit: 8, backends: ['{backup.url}']}}"
    )
    told = listen(gateway)
    answer = await gateway.ask(post(), 1.0)
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "backup")
    assert reasons(told) == {"deaf": [Reason.OVERTAKEN], "backup": [Reason.COMPLETED]}


# --- who is hedged, and where ------------------------------------------------------------------------


async def test_off_without_the_section(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("retry: {budget: 1}", primary, backup)
    client = await begin(gateway, primary, 0.3, reply())
    assert (await client.answer()).header("x-spillway-attempts") == "1"
    assert not backup.requests


async def test_nobody_to_hedge_with(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(HEDGED, backend)
    client = await begin(gateway, backend, 0.2, reply())
    assert (await client.answer()).status == 200
    assert len(backend.requests) == 1 and gateway.records[0].hedge is None


async def in_one_tier(start_backend, start_gateway, text: str, limit: int = 8):
    """Two backends in the primary tier, one in the backup tier."""
    one, two, backup = [await start_backend() for _ in range(3)]
    gateway = await start_gateway(
        f"{text}\nclusters:\n- {{name: near, limit: {limit}, backends: ['{one.url}', '{two.url}']}}\n"
        f"- {{name: far, tier: backup, limit: 8, backends: ['{backup.url}']}}"
    )
    return gateway, one, two, backup


async def test_a_hedge_stays_in_the_tier(start_backend, start_gateway):
    gateway, one, two, backup = await in_one_tier(start_backend, start_gateway, HEDGED)
    one.default = two.default = [0.2, reply()]
    answer = await gateway.ask(post())
    assert (answer.header("x-spillway-tier"), answer.header("x-spillway-attempts")) == ("primary", "2")
    assert (len(one.requests), len(two.requests), len(backup.requests)) == (1, 1, 0)


async def test_a_hedge_takes_no_slot_that_is_not_there_and_fills_no_other_tier(start_backend, start_gateway):
    gateway, one, two, backup = await in_one_tier(start_backend, start_gateway, HEDGED, limit=1)
    go = asyncio.Event()
    one.default = two.default = [go, reply()]
    clients = [await gateway.connect() for _ in range(2)]
    for client in clients:
        await client.send(post())
    assert await settled(lambda: len(one.requests) == len(two.requests) == 1)
    await asyncio.sleep(AFTER_S + 0.1)
    assert gateway.leases == 2 and not backup.requests
    go.set()
    for client in clients:
        assert (await client.answer()).header("x-spillway-attempts") == "1"


async def test_who_was_drained_meanwhile_is_no_hedge(two):
    gateway, primary, backup = two
    client = await begin(gateway, primary, 0.2, reply())
    gateway.gateway.apply(Drained("backup"))
    assert (await client.answer()).status == 200
    assert not backup.requests


async def test_a_probe_runs_alone(two):
    gateway, primary, backup = two
    (state, _) = gateway.plane.view.backends.values()
    trip(gateway, state.id)
    assert await settled(lambda: state.circuit is Circuit.HALF_OPEN, 2.0)
    client = await begin(gateway, primary, HANG)
    await asyncio.sleep(AFTER_S + 0.1)
    assert not backup.requests
    answer = await client.answer()
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "backup")
    assert (state.circuit, state.breaker.opening.reason) == (Circuit.OPEN, Reason.FIRST_BYTE_TIMEOUT)
    assert gateway.records[0].hedge is None


async def test_no_hedge_while_the_store_has_to_be_asked(two):
    gateway, primary, backup = two
    client = await begin(gateway, primary, 0.2, reply())
    inner, gateway.plane.store = gateway.plane.store, WaitingStore(gateway.plane.store)
    assert (await client.answer()).status == 200
    assert not backup.requests and gateway.plane.store.waiting == 0
    gateway.plane.store = inner


async def test_the_budget_of_hedges_is_kept(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("hedge: {after: 30ms, budget: 0.1}\n", primary, backup, limit=64)
    primary.default = [0.1, reply()]
    backup.default = [HANG]
    answers = await asyncio.gather(*(gateway.ask(post()) for _ in range(40)))
    assert {answer.status for answer in answers} == {200}
    assert len(primary.requests) == 40
    # One that has lost before it was written does not arrive.
    assert sum(record.hedge is not None for record in gateway.records) == 4 >= len(backup.requests)


async def test_p95_waits_until_enough_is_known_and_then_for_p95(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("hedge: {after: p95, budget: 1}\nretry: {budget: 1}", primary, backup)
    client = await begin(gateway, primary, 0.3, reply())
    await client.answer()
    assert not backup.requests, "one answer says nothing about a p95"
    for _ in range(40):
        await gateway.ask(post())
    primary.will(HANG)
    await asyncio.sleep(0.5)  # a quantile is remembered for half a second
    began_s = time.monotonic()
    answer = await gateway.ask(post())
    assert answer.header("x-spillway-cluster") == "backup"
    assert time.monotonic() - began_s < 0.2


async def test_a_race_leaves_no_ring_behind(two):
    gateway, primary, _ = two
    await gateway.ask(post())
    primary.will(HANG)
    gc.collect()
    gc.disable()
    try:
        await gateway.ask(post())
        assert await settled(lambda: gateway.is_clean)
        await asyncio.sleep(0.15)  # for the sweep to let go of its copy
        left = [type(o).__name__ for o in gc.get_objects() if isinstance(o, Attempt | Exchange | Hedge)]
        assert left == []
    finally:
        gc.enable()
