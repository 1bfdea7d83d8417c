"""Each rule of FAULTS 2b in every spelling: a 502 or a visible cut, the same however the bytes are cut.

After each case nothing is held, and the next request gets its own answer.
"""

from __future__ import annotations

import pytest

from tests.proxy.dialogue import Answer, Ending, post, settled
from tests.security.answer_families import ANSWER_FAMILIES, Case
from tests.security.head_families import CONTROLS
from tests.security.judging import Fleet

_GOOD = b'{"ok":true}'
_CALM = "breaker: {consecutive: 100000, min_samples: 100000, ratio: 1.0}\n"
# Every answer ends, so no deadline is to end it: one that passes is a hang, or a machine that stood still,
# and would be taken for a verdict (a stall cuts an answer, too).
_DEADLINES = "timeouts: {connect: 60s, first_byte: 60s, stall: 60s}"
_WITHIN_S = 20.0
_SHORT_BYTES = 400


@pytest.fixture
async def fleet(start_backend, start_gateway) -> Fleet:
    backend = await start_backend()
    return Fleet(await start_gateway(_CALM + _DEADLINES, backend), backend)


def is_as_expected(case: Case, answer: Answer) -> bool:
    controls = set(answer.head.replace(b"\r\n", b"")) & set(b"".join(CONTROLS))
    if controls or b"\r\n " in answer.head or answer.all("set-cookie"):
        return False
    if case.body is not None:
        return (answer.status, answer.body, answer.is_whole) == (case.status, case.body, True)
    is_cut = case.may_begin and answer.status == 200 and not answer.is_whole
    return is_cut or (answer.status == 502 and answer.error["code"] == "upstream_unreachable")


async def judge(case: Case, fleet: Fleet, segments: list[bytes]) -> str:
    """Empty, or what went wrong."""
    gateway, backend = fleet
    backend.scripts.clear()
    backend.will(*segments, 0.0, Ending.FIN)
    client = await gateway.connect()
    await client.send(post())
    answer = await client.answer(_WITHIN_S)
    if not is_as_expected(case, answer):
        return f"{answer.status} {answer.body[:80]!r}, whole: {answer.is_whole}, {answer.head!r}"
    if answer.header("connection") != "close" and answer.is_whole:
        await client.send(post())
        if (other := await client.answer(_WITHIN_S)).body != _GOOD:
            return f"the next request on the connection got another answer: {other.status} {other.body!r}"
    client.close()
    if not await settled(lambda: gateway.is_clean, _WITHIN_S):
        return "something is held"
    other = await gateway.ask(post(), _WITHIN_S)
    if other.body != _GOOD:
        return f"a new connection got another answer: {other.status} {other.body!r}"
    return ""


async def judge_all(cases: list[Case], fleet: Fleet, cut: str) -> None:
    wrong = []
    for case in cases:
        sent = case.sent
        sizes = {"whole": [len(sent)], "bytes": [1], "large": [1000, 16_384]}.get(cut)
        if sizes is not None:
            ways = [[sent[at : at + size] for at in range(0, len(sent), size)] for size in sizes]
        else:
            ways = [[sent[:at], sent[at:]] for at in range(1, len(sent))]
        for way in ways:
            try:
                if found := await judge(case, fleet, way):
                    wrong.append(f"{case.id}: {found}"[:400])
            except (AssertionError, TimeoutError, EOFError, KeyError, ValueError) as error:
                wrong.append(f"{case.id}: {error!r}"[:400])
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ANSWER_FAMILIES)
async def test_whole(name, fleet):
    await judge_all(ANSWER_FAMILIES[name], fleet, "whole")


@pytest.mark.parametrize("name", ANSWER_FAMILIES)
async def test_in_pieces(name, fleet):
    short = [case for case in ANSWER_FAMILIES[name] if len(case.sent) < _SHORT_BYTES]
    await judge_all(short, fleet, "bytes")
    await judge_all([case for case in ANSWER_FAMILIES[name] if case not in short], fleet, "large")


@pytest.mark.slow
@pytest.mark.timeout(300)  # thousands of exchanges, one after the other
@pytest.mark.parametrize("name", ANSWER_FAMILIES)
async def test_in_two_at_every_place(name, fleet):
    await judge_all(
        [case for case in ANSWER_FAMILIES[name] if len(case.sent) < _SHORT_BYTES], fleet, "halves"
    )
