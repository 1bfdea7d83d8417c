"""From two looks at a gateway to what stands on the screen."""

from __future__ import annotations

import math

import pytest
from rich.console import Console

from gateway.core.fleet import AttemptFinished, AttemptStarted, Drained
from gateway.core.model import Outcome, Reason
from gateway.top.drawing import page, plain_console
from gateway.top.rates import NO_RATES, quantile
from gateway.top.rows import GatewayNow, Picture, Row, fitted, picture_of
from gateway.top.samples import NotSpillway, read_sample
from tests.top.gateway_pages import ONE, SPOT, TWO, Pages


def rows(picture: Picture) -> dict[str, Row]:
    (fleet,) = picture.fleets
    return {row.name: row for row in fleet.rows}


def drawn(picture: Picture, width: int = 140) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(page(picture, width, None))
    console.file.close()
    return console.export_text()


def test_rates_are_what_happened_between_two_looks():
    gateway = Pages()
    gateway.finished(100)
    gateway.look()
    gateway.now_s += 2.0
    gateway.finished(20)
    gateway.finished(2, status=502, outcome=Outcome.of(Reason.SERVER_ERROR), ttft_s=None)
    gateway.finished(6, cluster="cheap", tier="spot", spill_reason="full", ttft_s=0.7)
    gateway.finished(4, cluster="", tier="", error_code="no_capacity", status=429, ttft_s=None)
    gateway.look()
    picture = picture_of([gateway.now])
    here, cheap = rows(picture)["here"], rows(picture)["cheap"]
    assert (here.finished_per_s, here.failed_per_s, cheap.finished_per_s) == (11.0, 1.0, 3.0)
    # 20 answers in the bucket from 0.2 to 0.5 s.
    assert here.ttft_p50_s == pytest.approx(0.35)
    assert here.ttft_p95_s == pytest.approx(0.485)
    assert picture.fleets[0].spills_per_s == {("primary", "spot", "full"): 3.0}
    assert picture.fleets[0].sheds_per_s == {"no_capacity": 2.0}
    assert picture.gateways[0].finished_per_s == 16.0


def test_one_look_tells_no_rates():
    gateway = Pages()
    gateway.finished(5)
    gateway.look()
    assert rows(picture_of([gateway.now]))["here"].finished_per_s == 0.0


def test_a_gateway_that_was_started_again_counts_from_zero():
    before, after = Pages(), Pages()
    before.finished(1000)
    before.look()
    after.finished(6)
    after.now_s += 2.0
    before._history.add(after.look())
    assert before.now.rates.finished == {"here": 3.0}


def test_tiers_stand_in_order_with_their_clusters_and_backends():
    gateway = Pages()
    gateway.apply(AttemptStarted(ONE), AttemptStarted(ONE), AttemptStarted(SPOT))
    gateway.look()
    (fleet,) = picture_of([gateway.now]).fleets
    assert [(row.depth, row.name, row.in_flight, row.limit, row.room) for row in fleet.rows] == [
        (0, "primary", 2, 8, 6),
        (1, "here", 2, 8, 6),
        (2, "10.0.0.1:8000", 2, 4, 2),
        (2, "10.0.0.2:8000", 0, 4, 4),
        (0, "spot", 1, 8, 7),
        (1, "cheap", 1, 8, 7),
        (2, "10.0.1.1:8000", 1, 8, 7),
    ]


def test_what_gets_no_new_work_says_why_and_has_no_room():
    gateway = Pages()
    gateway.apply(AttemptStarted(ONE), Drained(ONE, gateway.now_s + 30), Drained("cheap", math.inf))
    for _ in range(5):
        gateway.apply(AttemptStarted(TWO), AttemptFinished(TWO, Outcome.of(Reason.RESET), None, 0.1))
    gateway.look()
    shown = rows(picture_of([gateway.now]))
    one, two, cheap = shown["10.0.0.1:8000"], shown["10.0.0.2:8000"], shown["cheap"]
    assert (one.state, one.note, one.room) == ("draining", "30 s left", 0)
    assert (two.state, two.note, two.room) == ("ejected", "reset for 0 s", 0)
    assert (cheap.state, cheap.room) == ("drained", 0)
    assert shown["here"].state == "down"


def test_gateways_of_one_fleet_are_added_and_others_stand_apart():
    one, two = Pages("http://a", gateways=2), Pages("http://b")
    for gateway in (one, two):
        gateway.apply(AttemptStarted(ONE))
        gateway.look()
        gateway.now_s += 1.0
        gateway.finished(3)
        gateway.look()
    picture = picture_of([one.now, two.now])
    assert (rows(picture)["here"].in_flight, rows(picture)["here"].finished_per_s) == (2, 6.0)
    assert [gateway.store for gateway in picture.gateways] == ["shared by 2", "ok"]
    renamed = one.now.sample.page | {"tiers": one.now.sample.page["tiers"][:1]}
    sample = one.now.sample._replace(
        page=renamed, fleet=type(one.now.sample.fleet)(0, one.now.sample.fleet.tiers[:1])
    )
    assert len(picture_of([one.now, GatewayNow("http://c", sample, NO_RATES)]).fleets) == 2


def test_a_gateway_that_went_away_is_shown_as_such_and_counts_no_more():
    here, gone = Pages("http://here"), Pages("http://gone")
    for gateway in (here, gone):
        gateway.apply(AttemptStarted(ONE))
        gateway.look()
    picture = picture_of([here.now, gone.now._replace(problem="Connection refused", since_s=61.0)])
    assert rows(picture)["here"].in_flight == 1
    assert [gateway.state for gateway in picture.gateways] == ["ok", "away 61 s"]
    assert "http://gone: Connection refused" in drawn(picture)


def test_nobody_answers_and_still_there_is_a_picture():
    text = drawn(picture_of([GatewayNow("http://gone", None, NO_RATES, "Connection refused", 3.0)]))
    assert "away 3 s" in text


@pytest.mark.parametrize("width", [30, 60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal(width):
    gateway = Pages("http://a-gateway-with-a-long-name.example.internal:9090")
    gateway.look()
    gateway.now_s += 1.0
    gateway.finished(5, cluster="cheap", tier="spot", spill_reason="full")
    gateway.look()
    lines = drawn(picture_of([gateway.now]), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("primary") for line in lines)


def test_backends_that_are_well_leave_a_small_screen_first():
    well = [Row(2, f"b{n}", 0, "ok", 0, 4, 4) for n in range(50)]
    ill = Row(2, "bad", 0, "ejected", 0, 4, 0)
    cluster = Row(1, "here", 0, "50 of 51 ok", 0, 204, 200)
    assert fitted([cluster, *well, ill], 10) == (cluster, ill)
    assert len(fitted([cluster, *well, ill], 60)) == 52


def test_what_comes_from_elsewhere_does_not_steer_the_terminal():
    gateway = Pages("http://a\x1b[2J")
    gateway.look()
    assert "\x1b" not in drawn(picture_of([gateway.now]))


def test_anything_but_a_terminal_gets_no_colour():
    with open("/dev/null", "w") as nowhere:
        assert plain_console(Console(file=nowhere, force_terminal=True)).color_system is None


@pytest.mark.parametrize(
    ("cumulative", "share", "seconds"),
    [
        ({}, 0.5, None),
        ({1.0: 0, math.inf: 0}, 0.5, None),
        ({1.0: 10, 2.0: 10, math.inf: 10}, 0.5, 0.5),
        ({1.0: 0, 2.0: 10, math.inf: 10}, 0.5, 1.5),
        ({1.0: 5, 2.0: 10, math.inf: 10}, 0.95, 1.9),
        ({1.0: 0, 2.0: 0, math.inf: 10}, 0.5, 2.0),  # beyond the last bound: at least that
    ],
)
def test_quantiles_are_linear_inside_a_bucket(cumulative, share, seconds):
    assert quantile(cumulative, share) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("fleet", [b"", b"<html>", b"{}", b'{"tiers": 3, "in_flight": 0}', b"[]", b"\xff"])
def test_another_service_is_told_from_a_gateway(fleet):
    with pytest.raises(NotSpillway):
        read_sample(fleet, b"", 0.0)


def test_metrics_of_another_shape_are_told_from_a_gateways():
    fleet, _ = Pages().bodies()
    with pytest.raises(NotSpillway):
        read_sample(fleet, b'spillway_requests_total{cluster="a"} 1\n', 0.0)


def test_label_values_may_hold_anything():
    gateway = Pages()
    gateway.finished(cluster='a"b\\c}', tier="primary")
    assert gateway.look().counts.finished == {'a"b\\c}': 1}
