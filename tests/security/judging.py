"""What comes of hostile bytes on a connection, and whether that is one of the outcomes there may be.

One gateway and one backend serve any number of cases. After each of them nothing may be held, the connection
has gone on in step or ended, and a new connection is served as if nothing had been.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from tests.proxy.conftest import Running
from tests.proxy.dialogue import Answer, Client, ScriptedBackend, get, post, settled
from tests.security.cases import BODY, Allowed, Case

Segments = list[bytes | float]
_AT_ONCE = 24
_WITHIN_S = 2.0
_MARK = "the-next-request"


class Fleet(NamedTuple):
    gateway: Running
    backend: ScriptedBackend


class Heard:
    """What came back on the connection of one vector."""

    def __init__(self, answers: list[Answer], is_closed: bool) -> None:
        self.answers = answers
        self.is_closed = is_closed

    def __repr__(self) -> str:
        heard = [(answer.status, answer.body[:200]) for answer in self.answers]
        return f"{heard}{' then closed' if self.is_closed else ''}"


async def speak(running: Running, segments: Segments) -> Heard:
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


async def judge(case: Case, fleet: Fleet, segmentations: Iterable[Segments]) -> None:
    """Sends the case in each of the segmentations; fails unless all have the same, allowed outcome."""
    running, backend = fleet
    seen, received = len(backend.requests), backend.received_bytes
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(segments: Segments) -> Heard:
        async with gate:
            return await speak(running, segments)

    heard = await asyncio.gather(*map(one, segmentations))
    outcomes = {outcome_of(case, each) for each in heard}
    assert len(outcomes) == 1, f"the outcome depends on how the bytes are cut: {heard}"
    outcome = outcomes.pop()
    assert outcome in case.allowed, heard
    arrived = backend.requests[seen:]
    if outcome is Allowed.PASSED:
        assert len(arrived) == len(heard)
    else:
        assert backend.received_bytes == received, "a backend saw bytes of a request that was refused"
    assert not backend.malformed
    for request in arrived:
        assert request.body == BODY
        assert request.header("host") == f"127.0.0.1:{backend.port}"
        assert not [text for text in case.absent if text in request.raw]


async def judge_all(cases: Iterable[Case], fleet: Fleet, cut: str) -> None:
    """Every case of a family on one gateway; names all that have gone wrong."""
    wrong = []
    for case in cases:
        try:
            await judge(case, fleet, segmentations(case.sent, cut))
            assert await settled(lambda: fleet.gateway.is_clean), "something is held"
            assert (await fleet.gateway.ask(post())).status == 200, "a new connection is not served"
        except (AssertionError, TimeoutError) as error:
            wrong.append(f"{case.id}: {type(error).__name__} {error}"[:400])
    assert not wrong, "\n".join(wrong)


def segmentations(sent: bytes, cut: str) -> list[Segments]:
    """`cut`: whole, bytes, or halves (in two at every place)."""
    if cut == "whole":
        return [[sent]]
    if cut == "bytes":
        return [[bytes((byte,)) for byte in sent]]
    return [[sent[:at], sent[at:]] for at in range(1, len(sent))]
