"""Clients that leave at every stage against backends that misbehave: nothing is left of it."""

from __future__ import annotations

import pytest

from tests.chaos.soak import memory_growth, soak


@pytest.mark.timeout(60)
def test_nothing_is_left_after_clients_that_leave_and_backends_that_misbehave(tmp_path):
    found = soak(1_500, tmp_path, seed=7)
    assert [verdict for verdict in found.verdicts if not verdict.is_met] == []
    assert found.ledger.statuses[200] > 300, "most of it is ordinary traffic"
    assert len(found.backend["faults"]) >= 15, "the backends did misbehave, in most of their ways"
    assert len(found.ledger.manners) >= 14, "clients left at all stages"


def test_growth_is_that_of_the_second_half():
    warm_up = [(done, 50_000 + 10 * min(done, 100)) for done in range(0, 1_000, 10)]
    assert memory_growth(warm_up) == 0
    leak = [(done, 50_000 + done) for done in range(0, 1_001, 10)]
    assert memory_growth(leak) == pytest.approx(500 / 50_750)
