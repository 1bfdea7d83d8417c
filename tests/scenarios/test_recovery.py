"""Backends that come back, for good or again and again: traffic changes tiers once per hold-down at most."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.scenarios.world import World

HOLD_DOWN_S = 10  # BreakerSettings.hold_down_s
RATE = 60


class Story:
    """Second by second: what each backend was asked, and whether every request was served."""

    def __init__(self) -> None:
        self.world = World()
        self.world.run("fleet primary=a/20,b/20,c/20 backup=d/60")
        self.attempts: list[dict[str, int]] = []
        self.unserved: list[int] = []
        self.returns_s: list[float] = []  # when the primary's cluster ceased to count as down

    def second(self, *dead: str) -> None:
        answers = [f"{id_} connect_failed 0.001" if id_ in dead else f"{id_} ok 0.2" for id_ in "abcd"]
        *_, attempts, requests = self.world.run(f"traffic {RATE}/s for 1: " + ", ".join(answers))
        self.attempts.append({k: int(v) for k, v in (w.split("=") for w in attempts.split()[1:])})
        done = {k: int(v) for k, v in (w.split("=") for w in requests.split()[1:])}
        self.unserved.append(sum(done.values()) - done["served"])
        returned_s = self.world.gateways["A"].fleet.view.clusters["primary"].returned_at_s
        if returned_s > max(self.returns_s, default=0.0):
            self.returns_s.append(returned_s)

    def tier_changes_at_s(self) -> list[int]:
        """The seconds in which most of the traffic began to go to the other tier."""
        is_backup = [one["d"] > sum(one.values()) / 2 for one in self.attempts]
        return [second for second, (was, now) in enumerate(pairwise(is_backup), 1) if was is not now]


def test_a_tier_that_comes_back_is_full_again_in_slow_start_time_without_errors():
    story = Story()
    for second in range(75):
        story.second(*("abc" if 5 <= second < 20 else ""))
    assert len(story.tier_changes_at_s()) == 2, "there and back"
    away_s, back_s = story.tier_changes_at_s()
    assert away_s in (5, 6) and back_s > 20
    assert sum(story.unserved) == 0
    for id_ in "abc":
        share = sum(one[id_] for one in story.attempts[-5:]) / (5 * RATE)
        assert 0.2 < share < 0.47, "a full third"
    assert not any(one["d"] for one in story.attempts[-5:])


@pytest.mark.parametrize("seconds_up, seconds_down", [(1, 1), (2, 1), (2, 7), (3, 1), (5, 3), (8, 3), (8, 7)])
def test_a_tier_that_flaps_is_returned_to_once_per_hold_down(seconds_up, seconds_down):
    story = Story()
    for second in range(90):
        story.second(*("abc" if second % (seconds_up + seconds_down) >= seconds_up else ""))
    assert len(story.returns_s) >= 2, "it did flap"
    assert all(later - earlier >= HOLD_DOWN_S for earlier, later in pairwise(story.returns_s))
    assert sum(story.unserved) == 0
