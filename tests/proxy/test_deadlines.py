"""The client's own deadline: it ends the request, and blames nobody."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.core.breaker import Circuit
from gateway.core.fleet import Drained, Undrained
from gateway.core.model import Reason
from tests.proxy.dialogue import (
    BODY,
    DEADLINE,
    EVENT,
    HANG,
    THEIRS,
    chunk,
    event_stream,
    post,
    reply,
)
from tests.proxy.telling import circuit_of, ends, listen


async def test_the_client_s_deadline_ends_the_request_and_blames_nobody(impatient):
    gateway, primary, backup = impatient
    told = listen(gateway)
    primary.default = [HANG]
    for _ in range(6):
        began_s = time.monotonic()
        answer = await gateway.ask(post(BODY, f"{DEADLINE}: 0.1"))
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
        assert 0.1 <= time.monotonic() - began_s < 0.28
    assert {end.outcome.reason for end in ends(told)} == {Reason.CLIENT_LEFT}
    assert min(end.elapsed_s for end in ends(told)) >= 0.09
    assert circuit_of(gateway, primary) is Circuit.CLOSED
    assert {record.outcome.verdict for record in gateway.records} == {"ignored"}
    assert not backup.requests
    assert all(request.header(DEADLINE) is None for request in primary.requests)


async def test_a_deadline_in_the_middle_of_a_stream(impatient):
    gateway, primary, _ = impatient
    primary.will(event_stream(), *[chunk(EVENT), 0.05] * 40)
    answer = await gateway.ask(post(BODY, f"{DEADLINE}: 0.25"))
    assert not answer.is_whole and answer.body.count(b"upstream_timeout_total") == 1
    assert gateway.records[0].outcome.reason is Reason.CLIENT_LEFT


async def test_the_smaller_of_both_deadlines_wins(start_backend, start_gateway):
    backend = await start_backend()
    gateway = await start_gateway("timeouts: {total: 200ms}", backend)
    told = listen(gateway)
    backend.will(HANG)
    began_s = time.monotonic()
    assert (await gateway.ask(post(BODY, f"{DEADLINE}: 30"))).status == 504
    assert time.monotonic() - began_s < 0.5
    assert ends(told)[0].outcome.reason is Reason.TOTAL_TIMEOUT


async def test_a_deadline_that_has_passed_takes_no_slot(impatient):
    gateway, primary, _ = impatient
    answer = await gateway.ask(post(BODY, f"{DEADLINE}: 0"))
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
    assert not primary.requests and gateway.records[0].attempts == 0


@pytest.mark.parametrize("value", ["soon", "-1", "1e3", "nan", "inf", "", "1,5", "1s", "99999999999"])
async def test_a_malformed_deadline_is_a_400_that_names_the_header(impatient, value):
    gateway, primary, _ = impatient
    client = await gateway.connect()
    await client.send(post(BODY, f"{DEADLINE}: {value}"))
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", DEADLINE)
    assert DEADLINE in answer.error["message"]
    assert not primary.requests
    await client.send(post())
    assert (await client.answer()).status == 200


async def test_nobody_is_tried_who_needs_longer_than_there_is_time(impatient):
    gateway, primary, backup = impatient
    gateway.gateway.apply(Drained("primary"))
    backup.default = [0.2, reply()]
    await asyncio.gather(*(gateway.ask(post()) for _ in range(8)))
    for _ in range(2):
        await asyncio.gather(*(gateway.ask(post()) for _ in range(8)))
    gateway.gateway.apply(Undrained("primary"))
    asked = len(backup.requests)
    primary.will(reply(THEIRS, status="500 Broken"))
    answer = await gateway.ask(post(BODY, f"{DEADLINE}: 0.15"))
    assert (answer.status, answer.body) == (500, THEIRS)
    primary.will(reply(THEIRS, status="500 Broken"))
    assert (await gateway.ask(post(BODY, f"{DEADLINE}: 20"))).status == 200
    assert len(backup.requests) == asked + 1
