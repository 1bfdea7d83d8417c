"""Tenants and residencies in a trace: the same keys, the same walls, as at the live data port."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from gateway.cli import main
from gateway.core.model import ShedReason
from gateway.sim.arrivals import Arrival
from gateway.sim.baselines import BASELINES
from gateway.sim.bound import bound_of
from gateway.sim.figures import figures_of
from gateway.sim.gateway import SimGateway
from gateway.sim.ledger import Fate, Ledger
from gateway.sim.scenario import Scenario
from gateway.sim.world import Setting, run_baseline, run_gateway
from tests.sim.live_run import SAME_ENGINE, key_of, run_live
from tests.sim.settings import bursts, scenario_of, setting

TWO_REGIONS = """
clusters:
  - {name: eu, limit: 4, backends: [http://eu.example:1], residency: [eu], models: [m]}
  - {name: us, limit: 50, backends: [http://us.example:1], residency: [us], models: [m], tier: backup}
  - {name: us-only, limit: 50, backends: [http://more.example:1], residency: [us], models: [n], tier: backup}
"""
KEYS = (
    """
keys:
  - {name: bank, sha256: DIGEST1, residency: [eu], models: [m]}
  - {name: shop, sha256: DIGEST2, rate: 2/s}
  - {name: lab, sha256: DIGEST3, max_in_flight: 1}
""".replace("DIGEST1", "1" * 64)
    .replace("DIGEST2", "2" * 64)
    .replace("DIGEST3", "3" * 64)
)


def at(seconds: float, model: str = "m", tenant: str | None = None, residency: str | None = None) -> Arrival:
    return Arrival(seconds, 100, 50, model, tenant, residency)


def told(ledger: Ledger) -> list[str]:
    """The cluster of each request, or why it was refused."""
    return [row.endpoint.place.cluster if row.endpoint is not None else str(row.why) for row in ledger.rows]


def runs(arrivals: list[Arrival], config: str) -> list[Ledger]:
    """The gateway's, and those of the policies beside it."""
    given = setting(arrivals, config)
    return [run_gateway(given), *(run_baseline(given, make()) for make in BASELINES)]


def test_what_has_to_stay_in_a_region_never_leaves_it_however_full_that_is():
    arrivals = [a._replace(model="m", residency=("eu", "us", None)[n % 3]) for n, a in enumerate(busy())]
    for ledger in runs(arrivals, TWO_REGIONS):
        for row in ledger.rows:
            if row.fate is Fate.SERVED and row.arrival.residency is not None:
                assert row.endpoint.place.cluster == row.arrival.residency
        # The region is full at times: who may leave it does.
        by_asked = figures_of(ledger, Scenario())["by_residency"]
        assert by_asked["eu"]["clusters"].keys() == {"eu"}
        assert by_asked["eu"]["shed"] > 0
        assert by_asked[""]["clusters"].keys() == {"eu", "us"}
        assert by_asked["us"]["shed"] == 0


def busy() -> list[Arrival]:
    return bursts(300, 12.0)


def test_a_residency_where_nobody_serves_the_model_is_refused_with_that_reason():
    arrivals = [at(0), at(1, "n", residency="eu"), at(2, residency="mars"), at(3, "none", residency="eu")]
    for ledger in runs(arrivals, TWO_REGIONS):
        assert told(ledger)[1:] == [
            ShedReason.RESIDENCY_UNAVAILABLE,
            ShedReason.RESIDENCY_UNAVAILABLE,
            ShedReason.MODEL_NOT_FOUND,
        ]
        asked = figures_of(ledger, Scenario())["by_residency"]
        assert asked["eu"]["sheds"] == {"model_not_found": 1, "residency_unavailable": 1}
        assert asked["mars"]["sheds"] == {"residency_unavailable": 1}


def test_a_key_keeps_its_tenant_to_its_models_and_residencies_and_the_trace_cannot_widen_them():
    arrivals = [
        at(0, tenant="bank"),
        at(1, "n", tenant="bank"),  # not for this key
        at(2, tenant="bank", residency="us"),  # narrower than nothing
        at(3, tenant="bank", residency="eu,us"),
        at(4, tenant="nobody"),
        at(5, residency="us"),  # no tenant is told: no key is asked for
    ]
    for ledger in runs(arrivals, KEYS + TWO_REGIONS):
        assert told(ledger) == [
            "eu",
            "model_not_found",
            "residency_unavailable",
            "eu",
            "unauthorized",
            "us",
        ]


def test_the_rate_and_the_requests_in_flight_of_a_key_are_its_tenants_alone():
    arrivals = [at(n / 10, tenant="shop") for n in range(4)] + [at(0.4, tenant="lab"), at(0.5, tenant="lab")]
    arrivals += [at(30.0, tenant="lab")]
    for ledger in runs(arrivals, KEYS + TWO_REGIONS):
        refused = [row.number for row in ledger.rows if row.why == "rate_limited"]
        assert refused == [2, 3, 5]  # two at once, then one every half second; one of the lab's at a time
        tenants = figures_of(ledger, Scenario())["by_tenant"]
        assert {name: t["sheds"] for name, t in tenants.items()} == {
            "lab": {"rate_limited": 1},
            "shop": {"rate_limited": 2},
        }


def test_the_bound_keeps_the_walls_too():
    """Two for Europe at once and one slot there: one of them is lost, whatever room there is elsewhere."""
    config = TWO_REGIONS.replace("limit: 4", "limit: 1")
    ledger = run_baseline(
        setting([at(0, residency="eu"), at(0.1, residency="eu"), at(0.2, residency="us")], config),
        BASELINES[2](),
    )
    assert bound_of(ledger.rows, ledger.site) == 1


def test_a_trace_without_these_columns_has_no_groups():
    figures = figures_of(run_gateway(setting(bursts(20, 5.0))), Scenario())
    assert figures["by_tenant"] == figures["by_residency"] == {}


LIVE = """
hold: {{max_wait: 250ms}}
clusters:
  - {{name: eu, limit: 2, backends: ['{0}'], residency: [eu], models: [m]}}
  - {{name: us, limit: 2, backends: ['{1}'], residency: [us], models: [m], tier: backup}}
"""


def test_live_and_simulated_let_in_and_send_the_same(tmp_path, monkeypatch):
    """With keys of two tenants and the header of a residency, at real sockets."""
    tenants = ("bank", "shop", "lab", "nobody")
    places = ("eu", "us", "eu,us", "mars", None)
    arrivals = [
        a._replace(
            at_s=round(a.at_s * 2**20) / 2**20,
            model=("m", "m", "n")[n % 3],
            tenant=tenants[n % 4],
            residency=places[n % 5],
        )
        for n, a in enumerate(bursts(120, 9.0, seed=3, output_tokens=9))
    ]
    keys = KEYS.replace("{", "{{").replace("}", "}}")
    for number, name in enumerate(("bank", "shop", "lab"), 1):
        keys = keys.replace(str(number) * 64, sha256(key_of(name).encode()).hexdigest())
    run = run_live(keys + LIVE, arrivals)
    draws = iter(run.draws)

    class SameDraws(SimGateway):
        """A draw is the gateway's own, so it is told which ones the live one had."""

        is_arriving = False

        def arrive(self, number, arrival) -> None:
            self.is_arriving = True
            super().arrive(number, arrival)
            self.is_arriving = False

        def draw(self) -> int:
            return next(draws) if self.is_arriving else super().draw()

    monkeypatch.setattr("gateway.sim.world.SimGateway", SameDraws)
    ledger = run_gateway(Setting(run.config, scenario_of(SAME_ENGINE, tmp_path), arrivals))
    live = [r.backend if r.status == 200 else r.error_code for r in run.records]
    simulated = [row.endpoint.id if row.fate is Fate.SERVED else row.why for row in ledger.rows]
    assert simulated == live
    assert set(live) >= {
        "unauthorized",
        "rate_limited",
        "residency_unavailable",
        "model_not_found",
        run.records[0].backend,
    }


@pytest.fixture
def given(tmp_path) -> list[str]:
    (tmp_path / "c.yaml").write_text(KEYS + TWO_REGIONS)
    rows = [f"{n},100,50,m,{'bank' if n % 2 else 'shop'},{'eu' if n % 3 else ''}" for n in range(12)]
    rows += ["12,100,50,m,bank,us"] + [f'{13 + n},1,1,m,t{n},"us, eu"' for n in range(25)]
    header = "t_seconds,input_tokens,output_tokens,model,tenant,residency\n"
    (tmp_path / "t.csv").write_text(header + "\n".join(rows) + "\n")
    return ["simulate", "-c", str(tmp_path / "c.yaml"), "--trace", str(tmp_path / "t.csv")]


def test_the_reports_tell_who_was_served_where_and_who_was_refused_why(given, tmp_path, capsys):
    assert main([*given, "--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]) == 0
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("bank "))
    assert line.split() == ["bank", "7", "1", "1", "0", "eu", "6", "residency_unavailable", "1"]
    assert "7 more are in the JSON report" in text  # of 27 tenants
    figures = json.loads((tmp_path / "r.json").read_text())["configs"][0]["spillway"]
    assert figures["by_residency"]["us"]["sheds"] == {"residency_unavailable": 1}
    assert figures["by_residency"]["eu, us"]["sheds"] == {"unauthorized": 25}
    assert len(figures["by_tenant"]) == 27
    page = (tmp_path / "r.html").read_text()
    assert "<h2>Tenants</h2>" in page
    assert "<h2>Residencies</h2>" in page


def test_each_of_several_gateways_admits_its_part_of_a_key() -> None:
    """Of four requests of the shop at once one gateway lets in two; of two gateways each lets in one."""
    arrivals = [at(0.01 * n, tenant="shop") for n in range(4)]
    for gateways in (1, 2):
        scenario = Scenario(gateways=gateways, spread="round_robin")
        ledger = run_gateway(setting(arrivals, KEYS + TWO_REGIONS, scenario))
        assert [row.why == "rate_limited" for row in ledger.rows] == [False, False, True, True]
