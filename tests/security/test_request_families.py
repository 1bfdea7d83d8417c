"""Each rule in every spelling: refused or passed as it should be, the same however the bytes are cut."""

from __future__ import annotations

import pytest

from tests.security.framing_families import FRAMING_FAMILIES
from tests.security.head_families import HEAD_FAMILIES
from tests.security.judging import Fleet, judge_all

FAMILIES = {**HEAD_FAMILIES, **FRAMING_FAMILIES}
_SHORT_BYTES = 1024


@pytest.mark.parametrize("name", FAMILIES)
async def test_whole(name: str, fleet: Fleet) -> None:
    await judge_all(FAMILIES[name], fleet, "whole")


@pytest.mark.parametrize("name", FAMILIES)
async def test_byte_by_byte(name: str, fleet: Fleet) -> None:
    await judge_all([case for case in FAMILIES[name] if len(case.sent) < _SHORT_BYTES], fleet, "bytes")


@pytest.mark.slow
@pytest.mark.timeout(300)  # thousands of exchanges, one after the other
@pytest.mark.parametrize("name", FAMILIES)
async def test_in_two_at_every_place(name: str, fleet: Fleet) -> None:
    await judge_all([case for case in FAMILIES[name] if len(case.sent) < _SHORT_BYTES], fleet, "halves")
