"""Reports: pictures that are well formed, a page that asks nobody, and curves of a sweep."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from gateway.cli import main
from gateway.sim import pictures
from gateway.sim.sweep import SweepError, read_sweep
from tests.sim.settings import THREE_TIERS, bursts


@pytest.fixture
def given(tmp_path):
    rows = "".join(f"{a.at_s:.4f},{a.input_tokens},{a.output_tokens}\n" for a in bursts(200, 9.0))
    (tmp_path / "c.yaml").write_text(THREE_TIERS)
    (tmp_path / "wide <b>.yaml").write_text(THREE_TIERS.replace("limit: 4,", "limit: 9,"))
    (tmp_path / "t.csv").write_text("t_seconds,input_tokens,output_tokens\n" + rows)
    return ["simulate", "-c", str(tmp_path / "c.yaml"), "--trace", str(tmp_path / "t.csv")]


def page_of(given, tmp_path, *more: str) -> str:
    assert main([*given, *more, "--html", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 0
    return (tmp_path / "r.html").read_text()


def test_the_page_stands_alone_and_its_pictures_are_well_formed(given, tmp_path):
    page = page_of(given, tmp_path, "--compare", str(tmp_path / "wide <b>.yaml"))
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import", page)
    assert "wide &lt;b&gt;.yaml" in page
    assert "wide <b>" not in page
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == 6
    for picture in drawn:
        assert ElementTree.fromstring(picture).tag == "svg"
    for word in ("Side by side", "cool_down", "Slots in use", "primary"):
        assert word in page


def test_the_page_shows_how_gateways_shared_the_limits(given, tmp_path):
    (tmp_path / "s.yaml").write_text("gateways: 3\nstore: {outages: [{at: 5s, for: 5s}]}")
    page = page_of(given, tmp_path, "--scenario", str(tmp_path / "s.yaml"))
    for word in ("<h2>Gateways</h2><p>3 share", "most in flight", "gateways without the store"):
        assert word in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert ElementTree.fromstring(picture).tag == "svg"
    (study,) = json.loads((tmp_path / "r.json").read_bytes())["configs"]
    course = study["course"]["degraded_gateways"]
    assert sum(course) * study["course"]["bucket_s"] == pytest.approx(
        study["spillway"]["fleet"]["degraded_s"], abs=0.1
    )
    alone = page_of(given, tmp_path)
    assert "<h2>Gateways</h2>" not in alone


def test_compared_configurations_get_the_same_trace(given, tmp_path):
    page_of(given, tmp_path, "--compare", str(tmp_path / "wide <b>.yaml"))
    narrow, wide = json.loads((tmp_path / "r.json").read_bytes())["configs"]
    assert narrow["spillway"]["requests"] == wide["spillway"]["requests"] == 200
    assert narrow["spillway"]["off_preferred"] > wide["spillway"]["off_preferred"]


def test_a_sweep_draws_the_curve(given, tmp_path, capsys):
    page = page_of(given, tmp_path, "--sweep", "clusters.here.limit=2..6:2")
    assert "% off preferred" in page
    points = json.loads((tmp_path / "r.json").read_bytes())["sweep"]["points"]
    assert [point["value"] for point in points] == ["2", "4", "6"]
    shares = [point["off_preferred_share"] for point in points]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[2]
    assert "clusters.here.limit  off preferred" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("clusters.here.limit", "has no values; write clusters.NAME.limit=32..128:16"),
        ("clusters.here.limit=9..3", "has no values; write FROM..TO:STEP"),
        ("clusters.here.limit=a..b", "needs whole numbers"),
        ("clusters.here.limit=1..9999", "more than 200 values; take a larger step"),
        (
            "clusters.nobody.limit=1",
            "clusters.nobody is not in the configuration; there are: here, there, spot",
        ),
        (
            "clusters.here.limit=0,4",
            "c.yaml: clusters[0].limit: with clusters.here.limit = 0: must be at least 1",
        ),
        ("clusters.here.limt=4", "clusters[0].limt: with clusters.here.limt = 4: unknown key"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line_and_exit_2(given, capsys, sweep, said):
    assert main([*given, "--sweep", sweep]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_list_of_values_need_not_be_numbers(given, tmp_path):
    assert read_sweep("retry.budget=0,0.2").values == ("0", "0.2")
    page = page_of(given, tmp_path, "--sweep", "cluster_policy=weight,least_loaded")
    assert "least_loaded" in page
    with pytest.raises(SweepError):
        read_sweep("=1")


def test_a_workload_in_place_of_a_trace(given, tmp_path):
    assert main([*given[:3], "--workload", "steady(rate=2rps)+span(for=1m)"]) == 0


def test_round_numbers_on_the_axes():
    assert pictures.ticks(10.0) == [0, 5, 10]
    assert pictures.ticks(0.37) == [0, 0.1, 0.2, 0.3]
    assert pictures.ticks(3500, 8) == [0, 500, 1000, 1500, 2000, 2500, 3000, 3500]
