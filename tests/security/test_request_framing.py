"""Hostile framing, whole and in pieces: refused, or passed once and well formed; never a hang.

A parser that is right on a whole request may be wrong on the same bytes in two segments, so each vector
is cut at every byte that is not part of the good request's first lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.proxy.conftest import Running
from tests.proxy.dialogue import Answer, Client, ScriptedBackend, get
from tests.security.cases import BODY, CASES, HOST, LINE, TYPE, Allowed, Case

Fleet = tuple[Running, ScriptedBackend]
_AT_ONCE = 24
_SHORT_BYTES = 1024
_WITHIN_S = 2.0
_MARK = "the-next-request"


@pytest.fixture
async def fleet(
    start_backend: Callable[..., Awaitable[ScriptedBackend]], start_gateway: Callable[..., Awaitable[Running]]
) -> Fleet:
    backend = await start_backend()
    return await start_gateway(backend, limit=1000), backend


class Heard:
    """What came back on the connection of one vector."""

    def __init__(self, answers: list[Answer], is_closed: bool) -> None:
        self.answers = answers
        self.is_closed = is_closed

    def __repr__(self) -> str:
        heard = [(answer.status, answer.body[:200]) for answer in self.answers]
        return f"{heard}{' then closed' if self.is_closed else ''}"


async def speak(running: Running, segments: list[bytes | float]) -> Heard:
    """Sends the segments, hears the first answer, then asks one good question more.

    The question tells whether the two sides still agree on where requests end.
    """
    client = await Client.connect(running.port)
    answers: list[Answer] = []
    try:
        for segment in segments:
            if client.reader.at_eof():
                break
            await client.send(segment)
        async with asyncio.timeout(_WITHIN_S):
            answers.append(await client.answer())
            if answers[0].header("connection") != "close":
                await client.send(get("/v1/models", f"x-request-id: {_MARK}"))
                answers.append(await client.answer())
            while answers[-1].header("x-request-id") != _MARK:
                answers.append(await client.answer())
    except (asyncio.IncompleteReadError, ConnectionError):
        return Heard(answers, True)
    finally:
        client.close()
    return Heard(answers, False)


def outcome_of(case: Case, heard: Heard) -> Allowed:
    """What happened. Fails when it is none of the outcomes there are."""
    if not heard.answers:
        assert heard.is_closed
        return Allowed.CLOSED
    first = heard.answers[0]
    if first.status == 200:
        assert [answer.status for answer in heard.answers] == [200, 200], heard
        assert heard.answers[1].header("x-request-id") == _MARK
        return Allowed.PASSED
    assert first.status in case.statuses, heard
    assert first.error["code"]
    if heard.is_closed:
        assert len(heard.answers) == 1, heard
        return Allowed.REFUSED
    assert first.header("connection") is None
    assert [answer.header("x-request-id") == _MARK for answer in heard.answers] == [False, True], heard
    return Allowed.UNKNOWN


async def run(case: Case, fleet: Fleet, segmentations: list[list[bytes | float]]) -> None:
    running, backend = fleet
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(segments: list[bytes | float]) -> Heard:
        async with gate:
            return await speak(running, segments)

    heard = await asyncio.gather(*map(one, segmentations))
    outcomes = {outcome_of(case, each) for each in heard}
    assert len(outcomes) == 1, f"the outcome depends on how the bytes are cut: {heard}"
    outcome = outcomes.pop()
    assert outcome in case.allowed, heard
    if outcome is Allowed.PASSED:
        assert len(backend.requests) == len(heard)
    else:
        assert backend.received_bytes == 0, "a backend saw bytes of a request that was refused"
    assert not backend.malformed
    for request in backend.requests:
        assert request.body == BODY
        assert request.header("host") == f"127.0.0.1:{backend.port}"
        assert not [text for text in case.absent if text in request.raw]


def by_id(case: Case) -> str:
    return case.id


@pytest.mark.parametrize("case", CASES, ids=by_id)
async def test_whole(case: Case, fleet: Fleet) -> None:
    await run(case, fleet, [[case.sent]])


SHORT = [case for case in CASES if len(case.sent) <= _SHORT_BYTES]
LONG = [case for case in CASES if len(case.sent) > _SHORT_BYTES]


@pytest.mark.parametrize("case", SHORT, ids=by_id)
async def test_in_two_pieces(case: Case, fleet: Fleet) -> None:
    sent = case.sent
    usual = next((p for p in (LINE + HOST + TYPE, LINE + HOST, LINE) if sent.startswith(p)), b"")
    await run(case, fleet, [[sent[:at], sent[at:]] for at in range(max(len(usual) - 2, 1), len(sent))])


@pytest.mark.parametrize("case", SHORT, ids=by_id)
async def test_byte_by_byte(case: Case, fleet: Fleet) -> None:
    await run(case, fleet, [[bytes((byte,)) for byte in case.sent]])


@pytest.mark.parametrize("case", LONG, ids=by_id)
async def test_long_ones_in_pieces(case: Case, fleet: Fleet) -> None:
    sent = case.sent
    await run(
        case,
        fleet,
        [[sent[at : at + size] for at in range(0, len(sent), size)] for size in (1000, 4096, 16_384, 65_536)],
    )
