"""The verdicts of `scripts/bench load`, on runs small enough to see through."""

from __future__ import annotations

import json

import pytest

from benchmarks.load.books import Asked, Occupancy, Served, read_access_log, read_record
from benchmarks.load.shapes import Spike
from benchmarks.load.timeline import Timeline
from benchmarks.load.verdicts import Evidence, Verdict, judge
from benchmarks.load.watching import Look

LIMITS = {"primary": 1, "spot": 1}
SPIKE = Spike(base_rps=1, factor=12, before_s=10, spike_s=10, after_s=10)
START_S = 1_000.0


class Story:
    """A run told request by request; times are seconds since the load began."""

    def __init__(self) -> None:
        self._served: list[Served] = []
        self._asked: list[Asked] = []
        self._peaks = [(0.0, LIMITS)]

    def served(self, at_s: float, tier: str, for_s: float = 1.0, told: str = "completed") -> Story:
        reason = None if tier == "primary" else "full"
        return self._add(at_s, for_s, 200, tier, reason, told)

    def engines_say(self, at_s: float, **peaks: int) -> Story:
        """The most that each engine had at once until then."""
        self._peaks.append((at_s, {**self._peaks[-1][1], **peaks}))
        return self

    def refused(self, at_s: float, for_s: float = 0.01) -> Story:
        return self._add(at_s, for_s, 429, None, None, "shed")

    def failed(self, at_s: float) -> Story:
        self._asked.append(Asked("x", "chat", at_s, at_s, 0.1, "failed", "reset", None, None, None))
        return self

    def _add(
        self, at_s: float, for_s: float, status: int, tier: str | None, reason: str | None, told: str
    ) -> Story:
        name, began_s = f"r{len(self._served)}", START_S + at_s
        code = "no_capacity" if status == 429 else None
        self._served.append(
            Served(name, began_s, began_s, began_s + for_s, status, code, tier, 1, reason, told)
        )
        outcome = "refused" if status == 429 else "ok"
        self._asked.append(Asked(name, "chat", began_s, began_s, for_s, outcome, code, 0.1, tier, reason))
        return self

    def verdicts(self, sheds: int | None = None) -> dict[str, Verdict]:
        refused = sum(one.is_refused for one in self._served)
        counts = ({"": len(self._served)}, {}, refused if sheds is None else sheds, 0)
        looks = [Look(START_S + at_s, {}, LIMITS, *counts, peaks) for at_s, peaks in self._peaks]
        evidence = Evidence(SPIKE, START_S, LIMITS, self._asked, self._served, looks)
        names = ("order", "spills", "429s", "back", "failures", "peaks", "books")
        return dict(zip(names, judge(evidence), strict=True))

    def is_met(self, name: str) -> bool:
        return self.verdicts()[name].is_met


def a_good_spike() -> Story:
    story = Story().served(5.0, "primary").served(10.0, "primary", 10.0)
    return story.served(10.5, "spot", 9.5).refused(11.0).served(20.5, "primary")


def test_a_good_spike_has_good_verdicts():
    assert {name: verdict.is_met for name, verdict in a_good_spike().verdicts().items()} == dict.fromkeys(
        ("order", "spills", "429s", "back", "failures", "peaks", "books"), True
    )


def test_a_spill_past_a_free_slot_is_found():
    assert not Story().served(10.0, "spot").is_met("spills")
    # The slot was given back within the last tenth of a second, or long ago.
    assert Story().served(10.0, "primary", 0.95).served(11.0, "spot").is_met("spills")
    late = Story().served(10.0, "primary", 0.8).served(11.0, "spot").verdicts()["spills"]
    assert not late.is_met
    assert late.measured.startswith("1 of 1 (1 when not full at that very moment")


def test_a_429_with_any_tier_free_is_found():
    assert not Story().served(10.0, "primary").refused(10.5).is_met("429s")
    assert Story().served(10.0, "primary").served(10.1, "spot").refused(10.5).is_met("429s")


def test_a_spike_that_never_fills_everything_proves_nothing():
    verdicts = Story().served(10.0, "primary").served(20.5, "primary").verdicts()
    assert not verdicts["order"].is_met
    assert not verdicts["429s"].is_met


def test_tiers_must_fill_in_their_order():
    story = Story().served(10.0, "spot").served(10.5, "primary").refused(10.7)
    assert not story.is_met("order")


@pytest.mark.parametrize(("last_s", "is_met"), [(20.9, True), (21.1, False)])
def test_new_requests_are_back_within_a_second_of_the_spikes_end(last_s: float, is_met: bool):
    story = a_good_spike().served(20.6, "primary", 2.0).served(last_s, "spot").served(25.0, "primary")
    assert story.is_met("back") is is_met


def test_a_refusal_after_the_spikes_end_counts_as_not_back():
    assert not a_good_spike().refused(22.0).served(25.0, "primary").is_met("back")


def test_a_fleet_that_serves_nobody_after_the_spike_is_not_back():
    assert not Story().served(10.0, "primary").is_met("back")


def test_failures_and_books_that_differ_are_found():
    assert not a_good_spike().failed(3.0).is_met("failures")
    assert not a_good_spike().verdicts(sheds=0)["books"].is_met


def test_an_engine_above_its_limit_is_found():
    assert not a_good_spike().engines_say(12.0).engines_say(12.1, primary=2).is_met("peaks")


def test_an_engine_may_count_a_client_that_has_just_left():
    def left(at_s: float) -> Story:
        story = a_good_spike().served(at_s - 1.0, "primary", 1.0, told="client_left")
        return story.engines_say(12.0).engines_say(12.1, primary=2)

    assert left(12.05).is_met("peaks")
    assert not left(11.5).is_met("peaks")
    assert not left(12.05).engines_say(12.2, primary=3).engines_say(13.0, primary=4).is_met("peaks")


def test_occupancy_counts_from_admission_to_end():
    line = {"request_id": "a", "ts": "1970-01-01T00:00:12.500Z", "duration_ms": 2_000.0, "status": 200,
            "overhead_ms": 100.0, "queue_ms": 400.0, "error_code": None, "tier": "primary", "attempts": 1,
            "spill_reason": None, "reason": "completed"}  # fmt: skip
    other = {**line, "request_id": "b", "ts": "1970-01-01T00:00:13.000Z"}
    primary = Occupancy.of(read_access_log(map(json.dumps, (line, other))), "primary")
    spans = [(0.0, 10.9), (10.9, 11.0), (11.0, 11.4), (10.0, 11.5), (12.6, 12.7), (13.0, 99.0)]
    assert [primary.most(*span) for span in spans] == [0, 1, 1, 2, 1, 0]
    assert (primary.first_at(2, 0.0), primary.first_at(2, 12.0), primary.first_at(3, 0.0)) == (
        11.5,
        None,
        None,
    )


def test_the_timeline_counts_requests_where_they_were_due():
    ok = {"kind": "chat", "sent_s": 100.0, "took_s": 0.5, "outcome": "ok", "error": None, "ttft_s": 0.2,
          "tier": "primary", "spill_reason": None}  # fmt: skip
    refused = {**ok, "outcome": "refused", "error": "no_capacity", "ttft_s": None, "tier": None}
    spilled = {**ok, "tier": "spot", "spill_reason": "full", "ttft_s": 0.4}
    told = [{"start_s": 100.0}, {**spilled, "id": "b", "due_s": 101.9}, {**ok, "id": "a", "due_s": 100.1},
            {**refused, "id": "c", "due_s": 101.0}, {**ok, "id": "d", "due_s": 102.0}]  # fmt: skip
    start_s, asked = read_record(map(json.dumps, told))
    looks = [Look(101.0 + part, {"primary": part}, {}, {}, {}, 0, 0, {}) for part in (0, 0.5)]
    first, second = Timeline(start_s, 1.0, ["primary", "spot"]).lines(asked, looks, until_s=2.0)
    assert (first.offered_rps, first.placed, first.refused) == (1, {"primary": 1, "spot": 0}, 0)
    assert (second.offered_rps, second.placed, second.refused) == (2, {"primary": 0, "spot": 1}, 1)
    assert (second.spills, second.in_flight, second.ttft_p95_ms) == (
        {"full": 1},
        {"primary": 0.2, "spot": 0},
        400,
    )
