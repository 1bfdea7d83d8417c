"""Before the first byte any failure moves the request on; after it nothing is ever repeated."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.fleet import Drained, Undrained
from gateway.core.model import Outcome, Reason
from tests.proxy.dialogue import BODY, HANG, Ending, chunk, event_stream, post, reply, settled
from tests.proxy.telling import ends, listen

OWN_ERROR = b'{"error":{"message":"theirs"}}'
STATUSES = ["500 Broken", "502 Bad", "503 Full", "504 Late", "429 Full"]


@pytest.fixture
async def two(start_backend, start_gateway):
    """A gateway before a primary and a backup, each with room."""
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway("timeouts: {first_byte: 200ms, connect: 300ms}", primary, backup)
    return gateway, primary, backup


def is_from_backup(answer) -> bool:
    return (answer.status, answer.header("x-spillway-cluster"), answer.header("x-spillway-attempts")) == (
        200,
        "backup",
        "2",
    )


async def test_a_refused_connection_moves_the_request_on(two):
    gateway, primary, _ = two
    await primary.refuse()
    answer = await gateway.ask(post())
    assert is_from_backup(answer)
    assert answer.header("x-spillway-spill-reason") == "failed"


BREAKS = {
    "reset": [Ending.RST],
    "end": [Ending.FIN],
    "end-inside-the-head": [b"HTTP/1.1 200 OK\r\nContent-", Ending.FIN],
    "end-after-the-head": [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ending.FIN],
    "reset-after-the-head": [event_stream(), 0.01, Ending.RST],
    "no-http": [b"garbage\r\n\r\n"],
    "two-lengths": [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"],
    "unasked-101": [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
    "silence": [HANG],
    "silence-after-the-head": [event_stream(), HANG],
}


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
async def test_a_break_before_the_first_byte_moves_the_request_on(two, script):
    gateway, primary, backup = two
    primary.will(*script)
    assert is_from_backup(await gateway.ask(post()))
    assert [request.body for request in backup.requests] == [BODY]


@pytest.mark.parametrize("status", STATUSES)
async def test_an_answer_that_says_broken_or_full_moves_the_request_on(two, status):
    gateway, primary, _ = two
    primary.will(reply(OWN_ERROR, status=status))
    assert is_from_backup(await gateway.ask(post()))


@pytest.mark.parametrize("status", STATUSES)
async def test_when_nobody_is_left_the_backend_s_own_error_passes_untouched(two, status):
    gateway, primary, backup = two
    for backend in (primary, backup):
        backend.will(reply(OWN_ERROR, "retry-after: 7", status=status))
    answer = await gateway.ask(post())
    assert f"{answer.status} {answer.reason}" == status
    assert (answer.body, answer.header("retry-after")) == (OWN_ERROR, "7")
    assert answer.header("x-spillway-attempts") == "2"


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_held_answer_passes_when_the_others_are_full(start_backend, start_gateway, size):
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup, limit=1)
    done = asyncio.Event()
    primary.will(done, reply())
    backup.will(done, reply())
    busy = [await gateway.connect() for _ in range(2)]
    for client in busy[:1]:
        await client.send(post())
    assert await settled(lambda: gateway.in_flight == 1)
    await busy[1].send(post())
    assert await settled(lambda: len(backup.requests) == 1)
    done.set()
    await busy[0].answer()  # the primary has room, the backup is answering or done
    await busy[1].answer()

    stuck = asyncio.Event()
    backup.default = [stuck, reply()]
    await primary.refuse()
    await busy[1].send(post())
    assert await settled(lambda: len(backup.requests) == 2)
    primary.default = [reply(b"e" * size, status="500 Theirs")]
    await primary.listen()
    answer = await gateway.ask(post())
    assert (answer.status, answer.body) == (500, b"e" * size)
    stuck.set()
    assert (await busy[1].answer()).status == 200


@pytest.mark.parametrize("status", ["400 Bad", "401 Who", "404 None", "409 Clash", "422 Odd"])
async def test_a_caller_s_own_error_is_final(two, status):
    gateway, primary, backup = two
    primary.will(reply(OWN_ERROR, status=status))
    answer = await gateway.ask(post())
    assert (f"{answer.status} {answer.reason}", answer.body) == (status, OWN_ERROR)
    assert not backup.requests


async def test_when_nobody_can_be_reached_the_client_is_told_once(two):
    gateway, primary, backup = two
    await primary.refuse()
    await backup.refuse()
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert answer.header("x-should-retry") == "false"
    await primary.listen()
    await client.send(post())
    assert (await client.answer()).status == 200


async def test_attempts_are_counted(start_backend, start_gateway):
    backends = [await start_backend() for _ in range(3)]
    gateway = await start_gateway("retry: {attempts: 2}", *backends)
    for backend in backends[:2]:
        backend.will(reply(status="500 Broken"))
    answer = await gateway.ask(post())
    assert (answer.status, answer.header("x-spillway-attempts")) == (500, "2")
    assert not backends[2].requests


async def test_three_are_tried_in_order(start_backend, start_gateway):
    backends = [await start_backend() for _ in range(3)]
    gateway = await start_gateway(*backends)
    for backend in backends[:2]:
        backend.will(Ending.RST)
    answer = await gateway.ask(post())
    assert (answer.header("x-spillway-tier"), answer.header("x-spillway-attempts")) == ("spot", "3")


async def test_a_connection_that_went_stale_is_replaced_unseen(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(backend)
    await gateway.ask(post())
    backend.will(Ending.RST)  # as it is when the keep-alive timeout and a request cross
    answer = await gateway.ask(post())
    assert (answer.status, answer.header("x-spillway-attempts")) == (200, "1")
    assert [request.connection for request in backend.requests] == [0, 0, 1]


async def test_a_fresh_connection_is_not_tried_twice_on_one_backend(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(backend)
    backend.default = [Ending.RST]
    assert (await gateway.ask(post())).error["code"] == "upstream_unreachable"
    assert len(backend.requests) == 1


@pytest.mark.parametrize("poison", [b"x", reply(b"POISON"), b"\r\n"], ids=["byte", "answer", "blank"])
async def test_a_pooled_connection_that_gets_bytes_is_discarded(start_backend, start_gateway, poison):
    backend = await start_backend()
    gateway = await start_gateway(backend)
    await gateway.ask(post())
    (connection,) = backend.open_connections
    connection.transport.write(poison)
    await asyncio.wait_for(connection.is_lost.wait(), 1)
    assert (await gateway.ask(post())).body == b'{"ok":true}'
    assert backend.requests[1].connection == 1


async def test_bytes_right_behind_an_answer_cost_the_connection(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(backend)
    backend.will(reply(b"ok") + reply(b"POISON"))
    assert (await gateway.ask(post())).body == b"ok"
    assert (await gateway.ask(post())).body == b'{"ok":true}'
    assert backend.requests[1].connection == 1


async def test_a_pooled_connection_that_ends_is_discarded(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway(backend)
    await gateway.ask(post())
    backend.open_connections[0].transport.close()
    (pool,) = gateway.plane.pools.values()
    assert await settled(lambda: "idle=0" in repr(pool))
    assert (await gateway.ask(post())).status == 200


@pytest.mark.parametrize("is_warm", [False, True])
async def test_a_broken_error_answer_does_not_become_a_fault_of_the_gateway(
    start_backend, start_gateway, is_warm
):
    """The primary's 500 is held, the backup is full, and the rest of the 500 is not HTTP."""
    primary, backup = await start_backend(), await start_backend()
    gateway = await start_gateway(primary, backup, limit=1)
    done = asyncio.Event()
    await primary.refuse()
    backup.will(done, reply())
    busy = await gateway.connect()
    await busy.send(post())
    assert await settled(lambda: len(backup.requests) == 1)
    await primary.listen()
    if is_warm:
        assert (await gateway.ask(post())).header("x-spillway-cluster") == "primary"
    broken = b"HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello")
    primary.will(broken + b"ZZ\r\n")
    told = listen(gateway)
    answer = await gateway.ask(post())
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert gateway.records[-1].outcome == Outcome.of(Reason.TRUNCATED)
    assert [end.outcome.reason for end in ends(told)] == [Reason.SERVER_ERROR], "what it said it was"
    done.set()
    assert (await busy.answer()).status == 200


async def test_an_error_answer_that_breaks_while_it_is_held_moves_on_once(two):
    gateway, primary, backup = two
    broken = b"HTTP/1.1 500 Broken\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello")
    for ending in (b"ZZ\r\n", Ending.RST, Ending.FIN):
        await gateway.ask(post())  # the connection is warm
        primary.will(broken, ending)
        assert is_from_backup(await gateway.ask(post()))
    assert len(backup.requests) == 3


async def test_a_connection_whose_answer_was_held_serves_again(two):
    gateway, primary, _ = two
    primary.will(reply(OWN_ERROR, status="503 Full"))
    assert is_from_backup(await gateway.ask(post()))
    answer = await gateway.ask(post())
    assert (answer.header("x-spillway-cluster"), answer.status) == ("primary", 200)
    assert [request.connection for request in primary.requests] == [0, 0]


@pytest.fixture
async def three(start_backend, start_gateway):
    """A gateway before one backend in each tier."""
    backends = [await start_backend() for _ in range(3)]
    return await start_gateway("timeouts: {first_byte: 200ms}", *backends), backends


@pytest.mark.parametrize("is_cluster", [True, False], ids=["cluster", "backend"])
async def test_who_was_drained_while_an_attempt_ran_is_not_tried(three, is_cluster):
    gateway, (primary, backup, spot) = three
    primary.will(HANG)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(primary.requests) == 1)
    gateway.gateway.apply(Drained("backup" if is_cluster else f"backup@127.0.0.1:{backup.port}"))
    answer = await client.answer()
    assert (answer.status, answer.header("x-spillway-cluster")) == (200, "spot")
    assert answer.header("x-spillway-attempts") == "2"
    assert not backup.requests and len(spot.requests) == 1


async def test_when_all_others_were_drained_meanwhile_the_failure_is_told(three):
    gateway, (primary, backup, spot) = three
    primary.will(HANG)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(primary.requests) == 1)
    for name in ("backup", "spot"):
        gateway.gateway.apply(Drained(name))
    assert (await client.answer()).status == 504
    assert not backup.requests and not spot.requests
    for name in ("backup", "spot"):
        gateway.gateway.apply(Undrained(name))


async def test_an_error_answer_passes_when_all_others_were_drained_meanwhile(three):
    gateway, (primary, backup, spot) = three
    drained = asyncio.Event()
    primary.will(drained, reply(OWN_ERROR, status="503 Full"))
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(primary.requests) == 1)
    for name in ("backup", "spot"):
        gateway.gateway.apply(Drained(name))
    drained.set()
    answer = await client.answer()
    assert (answer.status, answer.body) == (503, OWN_ERROR)
    assert not backup.requests and not spot.requests


async def test_nobody_is_tried_twice_in_one_request(start_backend, start_gateway):
    """Two backends in one cluster: planned anew, the one that failed would stand first again."""
    backends = [await start_backend() for _ in range(2)]
    urls = ", ".join(f"'{backend.url}'" for backend in backends)
    gateway = await start_gateway(
        f"retry: {{attempts: 5}}\nclusters: [{{name: a, limit: 8, backends: [{urls}]}}]"
    )
    for backend in backends:
        backend.default = [Ending.RST]
    answer = await gateway.ask(post())
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert [len(backend.requests) for backend in backends] == [1, 1]
    (record,) = gateway.records
    assert record.attempts == 2


async def test_a_defect_while_it_plans_anew_costs_the_request_and_nothing_else(two, monkeypatch):
    gateway, primary, backup = two
    primary.will(HANG)
    client = await gateway.connect()
    await client.send(post())
    assert await settled(lambda: len(primary.requests) == 1)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("gateway.core.journey.plan_again", fail)
        answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert await settled(lambda: gateway.is_clean)
    assert not backup.requests
    (record,) = gateway.records
    assert (record.outcome, record.error_code) == (None, "internal_error")


# --- what a request leaves behind, so that it can be explained ---------------------------------------------


async def test_a_spilled_or_refused_request_leaves_behind_why_the_tiers_above_did_not_serve(
    start_backend, start_gateway
):
    primary, backup, spot = [await start_backend() for _ in range(3)]
    gateway = await start_gateway(primary, backup, spot, limit=1)
    release = asyncio.Event()
    primary.will(release, reply(b"{}"))
    spot.will(release, reply(b"{}"))
    gateway.gateway.apply(Drained("backup"))
    waiting = []
    for backend in (primary, spot):
        waiting.append(client := await gateway.connect())
        await client.send(post())
        assert await settled(lambda backend=backend: len(backend.requests) == 1)
    assert (await gateway.ask(post())).status == 429
    release.set()
    assert [(await client.answer()).status for client in waiting] == [200, 200]
    gateway.gateway.apply(Undrained("backup"))
    why = {record.tier: (record.spill_reason, record.passed_over) for record in gateway.records}
    assert why == {
        "primary": (None, ""),
        "spot": ("full", "primary: 1 full; backup: 1 drained"),
        "": (None, "primary: 1 full; backup: 1 drained; spot: 1 full"),
    }


async def test_a_model_that_nobody_may_serve_leaves_behind_why(start_backend, start_gateway):
    gateway = await start_gateway(await start_backend())
    gateway.gateway.apply(Drained("primary"))
    assert (await gateway.ask(post())).status == 503
    gateway.gateway.apply(Undrained("primary"))
    assert gateway.records[0].passed_over == "primary: 1 drained"


FAILURES = {
    "reset": ([Ending.RST], "upstream_unreachable", Reason.RESET),
    "no-http": ([b"garbage\r\n\r\n"], "upstream_unreachable", Reason.BAD_RESPONSE),
    "silence": ([HANG], "upstream_timeout_first_byte", Reason.FIRST_BYTE_TIMEOUT),
    "nobody": (None, "upstream_unreachable", Reason.CONNECT_FAILED),
}


@pytest.mark.parametrize(("script", "code", "reason"), FAILURES.values(), ids=FAILURES)
async def test_the_reason_of_a_failed_request_is_how_its_last_attempt_failed(
    start_backend, start_gateway, script, code, reason
):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {first_byte: 200ms}", backend)
    if script is None:
        await backend.refuse()
    else:
        backend.will(*script)
    assert (await gateway.ask(post())).error["code"] == code
    (record,) = gateway.records
    assert (record.error_code, record.outcome) == (code, Outcome.of(reason))


async def test_a_deadline_that_passes_without_an_attempt_is_no_backend_s_error(impatient):
    gateway, *_ = impatient
    answer = await gateway.ask(post(BODY, "x-spillway-deadline: 0"))
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
    (record,) = gateway.records
    assert record.outcome == Outcome.of(Reason.CLIENT_LEFT)
