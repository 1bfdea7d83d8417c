"""What second attempts cost, when a plan is too old, and whom the fleet believes."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from gateway.core.breaker import JITTER, Circuit
from gateway.core.fleet import Drained, Undrained
from gateway.core.model import Reason
from tests.proxy.dialogue import (
    THEIRS,
    Ending,
    WaitingStore,
    post,
    reply,
    settled,
)
from tests.proxy.telling import circuit_of, ends, listen, trip

# --- plans that are too old --------------------------------------------------------------------------


async def waiting_for_a_slot(gateway):
    """A client whose request waits in the store; and what lets it go on."""
    inner = gateway.plane.store
    gateway.plane.store = store = WaitingStore(inner)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: store.waiting == 1)
    return client, store, inner


async def test_a_circuit_that_opened_while_the_request_waited_for_a_slot(impatient):
    gateway, primary, _ = impatient
    client, store, inner = await waiting_for_a_slot(gateway)
    trip(gateway, f"primary@127.0.0.1:{primary.port}")
    store.may_answer.set()
    answer = await client.answer()
    assert (answer.header("x-spillway-cluster"), answer.header("x-spillway-attempts")) == ("backup", "1")
    assert answer.header("x-spillway-spill-reason") == "ejected"
    assert not primary.requests
    gateway.plane.store = inner


async def test_who_was_drained_while_the_request_waited_for_a_slot(impatient):
    gateway, primary, _ = impatient
    client, store, inner = await waiting_for_a_slot(gateway)
    gateway.gateway.apply(Drained("primary"))
    store.may_answer.set()
    assert (await client.answer()).header("x-spillway-cluster") == "backup"
    assert not primary.requests
    gateway.plane.store = inner
    gateway.gateway.apply(Undrained("primary"))


async def test_everybody_was_drained_while_the_request_waited_for_a_slot(impatient):
    gateway, primary, backup = impatient
    client, store, inner = await waiting_for_a_slot(gateway)
    for name in ("primary", "backup"):
        gateway.gateway.apply(Drained(name))
    store.may_answer.set()
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "no_backend")
    assert gateway.is_clean and not primary.requests and not backup.requests
    gateway.plane.store = inner
    for name in ("primary", "backup"):
        gateway.gateway.apply(Undrained(name))


async def test_a_plan_that_is_always_too_old_is_not_made_for_ever(impatient, monkeypatch):
    gateway, primary, backup = impatient
    client, store, inner = await waiting_for_a_slot(gateway)
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(gateway.plane.view, "admits", lambda candidate: bool(asked.append(candidate)))
        store.may_answer.set()
        answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (429, "no_capacity")
    assert answer.header("retry-after")
    assert 2 <= len(asked) <= 5
    assert gateway.is_clean and not primary.requests and not backup.requests
    gateway.plane.store = inner


async def test_a_circuit_that_opened_while_the_attempt_connected(impatient):
    """The lease goes back at once, nothing is sent, nobody is blamed, and it was no attempt."""
    gateway, primary, _ = impatient
    pool = gateway.plane.pools[f"primary@127.0.0.1:{primary.port}"]
    connect, may_connect = pool.connect, asyncio.Event()

    async def connect_later():
        await may_connect.wait()
        return await connect()

    pool.connect = connect_later
    told = listen(gateway)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: gateway.leases == 1)
    trip(gateway, f"primary@127.0.0.1:{primary.port}")
    may_connect.set()
    answer = await client.answer()
    assert (answer.header("x-spillway-cluster"), answer.header("x-spillway-attempts")) == ("backup", "1")
    assert not primary.requests and await settled(lambda: not primary.open_connections)
    assert [end.outcome.reason for end in ends(told)] == [Reason.REFUSED, Reason.COMPLETED]
    (record,) = gateway.records
    assert (record.retries, record.denied_retry) == ((), None)
    pool.connect = connect


LOST = {
    "500 Broken": (502, "upstream_unreachable", Reason.SERVER_ERROR),
    "429 Full": (429, "no_capacity", Reason.REFUSED),
}


@pytest.mark.parametrize(("status", "told"), LOST.items(), ids=LOST)
async def test_an_error_answer_given_up_for_a_backend_that_was_lost_meanwhile(impatient, status, told):
    """The backup's circuit opens while it is connected to: the first one's answer is gone by then."""
    gateway, primary, backup = impatient
    backup_id = f"backup@127.0.0.1:{backup.port}"
    pool = gateway.plane.pools[backup_id]
    connect = pool.connect

    async def connect_too_late():
        connection = await connect()
        trip(gateway, backup_id)
        return connection

    pool.connect = connect_too_late
    primary.will(reply(status=status))
    answer = await gateway.ask(post())
    assert not backup.requests
    (record,) = gateway.records
    assert (answer.status, answer.error["code"], record.outcome.reason) == told
    pool.connect = connect


async def test_the_probe_itself_may_connect(impatient):
    """It holds the one permit: that this is taken does not speak against it."""
    gateway, primary, _ = impatient
    backend_id = f"primary@127.0.0.1:{primary.port}"
    trip(gateway, backend_id)
    assert await settled(lambda: circuit_of(gateway, primary) is Circuit.HALF_OPEN, 2.0)
    gateway.plane.pools[backend_id].close_idle()
    answer = await gateway.ask(post())
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "primary")
    assert circuit_of(gateway, primary) is Circuit.CLOSED


# --- the budget --------------------------------------------------------------------------------------


async def test_a_full_outage_multiplies_attempts_by_at_most_a_fifth(start_backend, start_gateway):
    backends = [await start_backend() for _ in range(3)]
    gateway = await start_gateway("breaker: {consecutive: 100000, min_samples: 100000}", *backends, limit=64)
    for backend in backends:
        backend.default = [reply(THEIRS, status="500 Broken")]
    for _ in range(10):
        answers = await asyncio.gather(*(gateway.ask(post()) for _ in range(20)))
        assert {(answer.status, answer.body) for answer in answers} == {(500, THEIRS)}
    upstream = sum(len(backend.requests) for backend in backends)
    assert 200 + 35 <= upstream <= 1.2 * 200 + 3
    denied = [record for record in gateway.records if record.denied_retry is not None]
    assert {record.denied_retry.reason for record in denied} == {Reason.SERVER_ERROR}
    assert len(denied) >= 150


async def test_without_a_budget_the_failure_is_told_as_it_is(start_backend, start_gateway):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("retry: {budget: 0}", primary, backup)
    primary.will(reply(THEIRS, "retry-after: 7", status="503 Full"))
    answer = await gateway.ask(post())
    assert (answer.status, answer.body, answer.header("retry-after")) == (503, THEIRS, "7")
    primary.will(b"no http")
    answer = await gateway.ask(post())
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert answer.header("x-should-retry") == "false"
    assert not backup.requests
    denied = [record.denied_retry for record in gateway.records]
    assert denied == [("primary", Reason.BACKEND_FULL), ("primary", Reason.BAD_RESPONSE)]


async def test_where_nobody_else_is_there_nothing_is_denied(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("retry: {budget: 0}", backend)
    backend.will(Ending.RST)
    assert (await gateway.ask(post())).status == 502
    assert gateway.records[0].denied_retry is None


async def test_what_others_spend_while_one_waits_for_a_slot_is_spent(impatient):
    gateway, primary, backup = impatient
    primary.will(Ending.RST)
    inner = gateway.plane.store
    client = await gateway.connect()
    store = WaitingStore(inner)
    store.lease_now = inner.lease_now
    gateway.plane.store = store
    await client.send(post())
    assert await settled(lambda: store.waiting == 1)
    for _ in range(3):
        gateway.plane.extra.retried(gateway.plane.clock())
    store.may_answer.set()
    answer = await client.answer()
    assert answer.status == 502 and not backup.requests
    assert gateway.is_clean and gateway.records[0].denied_retry == ("primary", Reason.RESET)
    gateway.plane.store = inner


@pytest.mark.parametrize(
    ("status", "lines", "told"),
    [
        ("500 Broken", (), ["false"]),
        ("504 Late", (), ["false"]),
        ("500 Broken", ("X-Should-Retry: true",), ["true"]),
        ("503 Full", ("retry-after: 7",), []),
        ("429 Full", ("retry-after: 7",), []),
    ],
)
async def test_who_has_been_tried_for_is_told_not_to_repeat(impatient, status, lines, told):
    """A full backend says itself when to come back."""
    gateway, primary, backup = impatient
    for backend in (primary, backup):
        backend.will(reply(THEIRS, *lines, status=status))
    answer = await gateway.ask(post())
    assert (f"{answer.status} {answer.reason}", answer.body) == (status, THEIRS)
    assert answer.all("x-should-retry") == told


async def test_an_error_that_was_not_retried_is_untouched(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("expose_routing: false", backend)
    backend.will(reply(THEIRS, "x-own: 1", status="500 Broken"))
    answer = await gateway.ask(post())
    assert {name for name, _ in answer.headers} == {"content-length", "content-type", "x-own", "x-request-id"}


# --- whom to believe ---------------------------------------------------------------------------------


def most_probes(open_s: float, within_s: float) -> int:
    """As many as can fail in that time: each opening is twice as long as the one before it."""
    return int(math.log2(1 + within_s / (open_s * (1 - JITTER))))


async def test_who_fails_fast_beside_who_answers_slowly_gets_only_probes(start_backend, start_gateway):
    broken, slow = await start_backend(), await start_backend()
    gateway = await start_gateway(
        "breaker: {open: 200ms}\nretry: {budget: 1}\n"
        f"clusters: [{{name: a, limit: 64, backends: ['{broken.url}', '{slow.url}']}}]"
    )
    broken.default = [0.005, reply(THEIRS, status="500 Broken")]
    slow.default = [0.2, reply()]
    began_s = time.monotonic()

    async def keep_asking() -> list[int]:
        return [(await gateway.ask(post())).status for _ in range(12)]

    statuses = await asyncio.gather(*(keep_asking() for _ in range(8)))
    probes = most_probes(0.2, time.monotonic() - began_s)
    assert statuses == [[200] * 12] * 8
    assert len(slow.requests) == 96
    # What its failures do to its latency keeps most away. The circuit alone would do, too: five to find out
    # (and who was on his way meanwhile), then one probe for each opening.
    assert len(broken.requests) <= 5 + 8 + probes


@pytest.mark.parametrize("status", ["400 Bad", "404 None", "422 Odd"])
async def test_a_storm_of_callers_errors_opens_nothing_and_goes_nowhere_else(impatient, status):
    gateway, primary, backup = impatient
    primary.default = [reply(THEIRS, status=status)]
    for _ in range(3):
        answers = await asyncio.gather(*(gateway.ask(post()) for _ in range(8)))
        assert {f"{answer.status} {answer.reason}" for answer in answers} == {status}
    assert (len(primary.requests), len(backup.requests)) == (24, 0)
    assert circuit_of(gateway, primary) is Circuit.CLOSED


async def test_an_opening_is_counted_and_logged_once(impatient, caplog):
    gateway, primary, _ = impatient
    primary.default = [Ending.RST]
    with caplog.at_level("INFO", "gateway.app"):
        for _ in range(7):
            await gateway.ask(post())
    backend_id = f"primary@127.0.0.1:{primary.port}"
    lines = [record.getMessage() for record in caplog.records if backend_id in record.getMessage()]
    assert lines == [f"the circuit of {backend_id} is open: consecutive, reset"]
    assert gateway.gateway._metrics.openings == {("primary", backend_id, "reset"): 1}
