"""Hostile framing, whole and in pieces: refused, or passed once and well formed; never a hang.

A parser that is right on a whole request may be wrong on the same bytes in two segments, so each vector
is cut at every byte that is not part of the good request's first lines.
"""

from __future__ import annotations

import pytest

from tests.security.cases import CASES, HOST, LINE, TYPE, Case
from tests.security.judging import Fleet, judge

_SHORT_BYTES = 1024


def by_id(case: Case) -> str:
    return case.id


@pytest.mark.parametrize("case", CASES, ids=by_id)
async def test_whole(case: Case, fleet: Fleet) -> None:
    await judge(case, fleet, [[case.sent]])


SHORT = [case for case in CASES if len(case.sent) <= _SHORT_BYTES]
LONG = [case for case in CASES if len(case.sent) > _SHORT_BYTES]


@pytest.mark.parametrize("case", SHORT, ids=by_id)
async def test_in_two_pieces(case: Case, fleet: Fleet) -> None:
    sent = case.sent
    usual = next((p for p in (LINE + HOST + TYPE, LINE + HOST, LINE) if sent.startswith(p)), b"")
    await judge(case, fleet, [[sent[:at], sent[at:]] for at in range(max(len(usual) - 2, 1), len(sent))])


@pytest.mark.parametrize("case", SHORT, ids=by_id)
async def test_byte_by_byte(case: Case, fleet: Fleet) -> None:
    await judge(case, fleet, [[bytes((byte,)) for byte in case.sent]])


@pytest.mark.parametrize("case", LONG, ids=by_id)
async def test_long_ones_in_pieces(case: Case, fleet: Fleet) -> None:
    sent = case.sent
    await judge(
        case,
        fleet,
        [[sent[at : at + size] for at in range(0, len(sent), size)] for size in (1000, 4096, 16_384, 65_536)],
    )
