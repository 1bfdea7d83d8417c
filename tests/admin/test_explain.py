"""`/api/v1/explain` and `spillway explain`: a running gateway, a file, a given state, a log line."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fake_gateway import ONE, SPOT, TWO, FakeGateway, Serve

from gateway.admin import explain_command
from gateway.admin.explain_page import explain_page, is_like
from gateway.admin.explain_query import ExplainQuery
from gateway.admin.fleet_page import fleet_page
from gateway.admin.given_state import read_state
from gateway.config.fleet import fleet_of
from gateway.config.loading import load
from gateway.core.admission import KeyRules
from gateway.core.fleet import AttemptFinished, AttemptStarted, Drained, Fleet
from gateway.core.health import ProbeReported
from gateway.core.model import Outcome, Reason
from gateway.core.restoring import restored

CONFIG = """\
clusters:
  - name: here
    limit: 4
    weight: 2
    models: ["llama-*"]
    health: {rise: 1, fall: 1}
    backends: [http://10.0.0.1:8000, http://10.0.0.2:8000, http://10.0.0.3:8000]
  - {name: there, limit: 4, backends: [http://10.0.1.1:8000], tier: backup}
  - {name: other, limit: 4, backends: [http://10.0.2.1:8000], tier: spot, models: [qwen]}
"""
HERE = [f"here@10.0.0.{n}:8000" for n in (1, 2, 3)]
THERE, OTHER = "there@10.0.1.1:8000", "other@10.0.2.1:8000"
LINE = {"request_id": "r1", "status": 200, "outcome": "success", "reason": "completed", "attempts": 1}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "spillway.yaml"
    path.write_text(CONFIG)
    return path


def run_now(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="spillway")
    explain_command.add_arguments(parser)
    return explain_command.run(parser.parse_args(words))


def page_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run_now(*words, "--json") == 0
    page: dict[str, Any] = json.loads(capsys.readouterr().out)
    return page


def places(page: dict[str, Any]) -> list[str]:
    return [row["backend"] for row in page["plan"]]


# --- the admin port ----------------------------------------------------------------------------------------


async def test_the_page_names_every_backend_with_place_and_reason(serve: Serve) -> None:
    gateway = await serve()
    gateway.apply(Drained("here"))
    answer = await gateway.ask("GET", "/api/v1/explain?model=m&header=X-Session-Id:+7")
    assert answer.status == 200
    page = answer.json
    assert (page["verdict"], page["taken"], page["spill_reason"]) == ("goes_on", SPOT, "drained")
    assert page["passed_over"] == "primary: 2 drained"
    assert page["headers"] == [{"name": "X-Session-Id", "effect": "changes nothing in the plan"}]
    (row,) = page["plan"]
    assert (row["backend"], row["place"], row["chance"], row["limit"]) == (SPOT, 1, 1.0, 8)
    assert [(row["backend"], row["reason"]) for row in page["left_out"]] == [
        (ONE, "drained"),
        (TWO, "drained"),
    ]
    gateway.apply(Drained("cheap"))
    refused = (await gateway.ask("GET", "/api/v1/explain?model=m")).json
    assert (refused["verdict"], refused["plan"]) == ("no_backend", [])
    assert refused["passed_over"] == "primary: 2 drained; spot: 1 drained"


async def test_a_draw_is_taken_as_it_is(serve: Serve) -> None:
    gateway = await serve()
    gateway.apply(AttemptStarted(ONE))  # twice the weight, twice the work: now the draw decides
    taken = {(await gateway.ask("GET", f"/api/v1/explain?draw={draw}")).json["taken"] for draw in (0, 1)}
    assert taken == {ONE, TWO}


@pytest.mark.parametrize(
    "query", ["modle=m", "header=x", "header=:x", "draw=-1", f"draw={2**64}", "draw=%D9%A3"]
)
async def test_a_bad_query_is_named(serve: Serve, query: str) -> None:
    answer = await (await serve()).ask("GET", f"/api/v1/explain?{query}")
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert answer.json["error"]["param"] == query.partition("=")[0]


async def test_the_command_asks_a_running_gateway(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = await serve()
    for _ in range(4):
        gateway.apply(AttemptStarted(ONE))
        gateway.apply(AttemptStarted(TWO))
    words = ("--admin", f"http://127.0.0.1:{gateway.port}", "--model", "a model/?&")
    assert await asyncio.to_thread(run_now, *words) == 0
    shown = capsys.readouterr().out
    assert f"A request for a model/?& goes to {SPOT}." in shown
    assert "Not to the preferred tier primary (full)." in shown
    assert "primary: 2 full" in shown and "4/4 full" in shown


def test_nobody_there_is_a_failure(capsys: pytest.CaptureFixture[str], unused_tcp_port: int) -> None:
    assert run_now("--admin", f"http://127.0.0.1:{unused_tcp_port}") == 1
    assert "no admin port answers" in capsys.readouterr().err


# --- a file and a state ------------------------------------------------------------------------------------


def test_a_file_alone_is_an_idle_fleet(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(capsys, "-c", str(config), "--model", "llama-3")
    assert (page["route_model"], page["spill_reason"]) == ("llama-*", None)
    assert sorted(places(page)[:3]) == HERE and places(page)[3:] == [THERE]
    assert [row["backend"] for row in page["left_out"]] == [OTHER]
    named = page_of(capsys, "-c", str(config), "--header", "X-Spillway-Model: qwen")
    assert (named["model"], places(named)) == ("qwen", [THERE, OTHER])


def test_the_short_form_says_what_is_so(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state.yaml"
    state.write_text(f"here: full\n{HERE[1]}: ejected\n{HERE[2]}: {{healthy: false, in_flight: 2}}\n")
    page = page_of(capsys, "-c", str(config), "--state", str(state), "--model", "llama-3")
    assert (page["taken"], page["spill_reason"]) == (THERE, "unhealthy")
    assert page["passed_over"] == "primary: 1 down, 1 ejected, 1 unhealthy"
    outs = {row["backend"]: row["reason"] for row in page["left_out"]}
    assert outs == {HERE[1]: "ejected", HERE[2]: "unhealthy", OTHER: "model"}
    state.write_text(f"{{there: half_open, {HERE[0]}: drained}}")
    page = page_of(capsys, "-c", str(config), "--state", str(state), "--model", "llama-3")
    assert [(row["backend"], row["reason"]) for row in page["plan"]][-1] == (THERE, "probe")
    state.write_text("here: {down: true, latency_ms: 20}")
    page = page_of(capsys, "-c", str(config), "--state", str(state), "--model", "llama-3")
    assert (page["taken"], [row["cluster_down"] for row in page["plan"]]) == (
        THERE,
        [False, True, True, True],
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("here: ful", "here: must be one of full, drained,"),
        ("heer: full", "'heer' is no cluster or backend of the configuration; did you mean here?"),
        ("here: {inflight: 2}", "unknown field `inflight`"),
        ("here: {in_flight: -2}", ">= 0"),
        ("[1]", "must be what /api/v1/fleet printed"),
        ("here: [", "is neither JSON nor YAML"),
        ('{"tiers": [{"clusters": [{}]}]}', "is no whole page of /api/v1/fleet"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_bad_state_is_one_line_and_exit_2(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    state = tmp_path / "state"
    if content is not None:
        state.write_text(content)
    assert run_now("-c", str(config), "--state", str(state)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and str(state) in error


def lived(config: Path) -> Fleet:
    """A fleet that something has happened to."""
    fleet = Fleet()
    fleet.apply(fleet_of(load(config)), 0.0)
    for _ in range(5):
        generation = fleet.view.backends[HERE[0]].breaker.generation
        fleet.apply(AttemptStarted(HERE[0], generation, 10), 1.0)
        fleet.apply(AttemptFinished(HERE[0], Outcome.of(Reason.RESET), None, 0.1, generation), 1.0)
    fleet.apply(ProbeReported(HERE[1], False, "status_500"), 1.0)
    fleet.apply(Drained(OTHER), 1.0)
    for _ in range(4):
        fleet.apply(AttemptStarted(THERE), 1.0)
    return fleet


@pytest.mark.parametrize("model", ["llama-3", "qwen", "mistral", None])
def test_what_a_gateway_printed_gives_its_own_answer_back(
    config: Path, tmp_path: Path, model: str | None
) -> None:
    fleet = lived(config)
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(fleet_page(fleet.view, 1.5)))
    configured = fleet_of(load(config))
    again = restored(configured, *read_state(path, configured.clusters), now_s=0.0)
    asked = ExplainQuery(model)
    live, given = explain_page(fleet.view, asked, 1.5), explain_page(again.view, asked, 0.0)
    assert is_like(live, given)
    assert (given["taken"], given["spill_reason"]) == (live["taken"], live["spill_reason"])
    assert [r["words"] for r in given["plan"]] == [r["words"] for r in live["plan"]]


def test_a_page_brings_along_the_backends_that_discovery_had_found(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "fleet.json"
    page.write_text(json.dumps(fleet_page(lived(config).view, 1.5)))
    fixed = "backends: [http://10.0.0.1:8000, http://10.0.0.2:8000, http://10.0.0.3:8000]"
    config.write_text(CONFIG.replace(fixed, "discovery: {file: found.yaml}"))
    (tmp_path / "found.yaml").write_text("[http://10.0.0.3:8000]")
    assert places(page_of(capsys, "-c", str(config), "--model", "llama-3")) == [HERE[2], THERE]
    config.write_text(CONFIG.replace(fixed, "discovery: {dns: {name: e.example, port: 8000}}"))
    idle = page_of(capsys, "-c", str(config), "--model", "llama-3")
    assert (idle["taken"], idle["left_out"][0]["reason"]) == (THERE, "empty")
    told = page_of(capsys, "-c", str(config), "--model", "llama-3", "--state", str(page))
    assert {row["backend"]: row["reason"] for row in told["left_out"]}.keys() >= {HERE[0], HERE[1]}
    assert HERE[2] in places(told)


# --- under a key's rules -----------------------------------------------------------------------------------

KEYS = f"""\
keys:
  - {{name: team-a, sha256: {"1" * 64}, models: ["llama-*"], rate: 50/s, max_in_flight: 7}}
  - {{name: team-b, sha256: {"2" * 64}, residency: [eu, ch]}}
"""


@pytest.fixture
def keyed(config: Path) -> Path:
    at_home = CONFIG.replace("name: there,", "name: there, residency: [eu],")
    at_home = at_home.replace("name: other,", "name: other, residency: [ch],")
    config.write_text(KEYS + at_home)
    return config


def test_a_model_that_a_key_may_not_ask_for_is_served_by_nobody(
    keyed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_team_a = ("-c", str(keyed), "--key", "team-a", "--model")
    may = page_of(capsys, *as_team_a, "llama-3")
    assert sorted(places(may)) == sorted([*HERE, THERE])
    limits = {"rate": "50 in 1 s", "max_in_flight": 7}
    assert may["key"] == {"name": "team-a", "models": ["llama-*"], "residency": None, **limits}
    may_not = page_of(capsys, *as_team_a, "qwen")
    assert (may_not["verdict"], may_not["taken"], places(may_not)) == ("model_not_found", None, [])
    assert run_now(*as_team_a, "qwen") == 0
    shown = capsys.readouterr().out
    assert "is refused (model_not_found): its key may not ask for this model." in shown
    assert "Key team-a: models llama-*; any residency; at most 50 in 1 s; at most 7 in flight." in shown


@pytest.mark.parametrize(
    ("header", "expected"), [(None, [THERE]), ("eu", [THERE]), ("ch", []), ("us", []), ("us, eu", [THERE])]
)
def test_a_key_s_residency_is_narrowed_and_never_widened(
    keyed: Path, capsys: pytest.CaptureFixture[str], header: str | None, expected: list[str]
) -> None:
    lines = () if header is None else ("--header", f"x-spillway-residency: {header}")
    page = page_of(capsys, "-c", str(keyed), "--key", "team-b", "--model", "llama-3", *lines)
    assert places(page) == expected
    assert (page["verdict"] == "goes_on") is bool(expected)
    assert {row["reason"] for row in page["left_out"]} >= {"residency"}


def test_a_key_that_nobody_has_is_named(keyed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_now("-c", str(keyed), "--key", "team-z") == 2
    assert "no client key is named 'team-z'" in capsys.readouterr().err


async def test_a_running_gateway_knows_its_keys_by_name(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await serve()
    gateway.keys["team-a"] = KeyRules("team-a", {"m": None})
    words = ("--admin", f"http://127.0.0.1:{gateway.port}", "--key", "team-a", "--model")
    assert (await asyncio.to_thread(page_of, capsys, *words, "m"))["verdict"] == "goes_on"
    assert (await asyncio.to_thread(page_of, capsys, *words, "n"))["verdict"] == "model_not_found"
    answer = await gateway.ask("GET", "/api/v1/explain?key=team-b")
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (404, "key_not_found", "key")


def test_what_does_not_go_together_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_now("--state", "x") == 2
    assert run_now("-c", str(config), "--admin", "http://127.0.0.1:1") == 2
    config.write_text("clusters: []")
    assert run_now("-c", str(config)) == 2
    assert "must have at least 1 entry" in capsys.readouterr().err


# --- log lines ---------------------------------------------------------------------------------------------


def test_lines_of_the_access_log_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_now("--log-line", json.dumps(LINE)) == 0
    assert "Outcome success: completed." in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{json.dumps(LINE)}\n\n{json.dumps(LINE)}\n"))
    assert run_now("--log-line", "-") == 0
    assert capsys.readouterr().out.count("r1: ") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{json.dumps(LINE)}\nx\n"))
    assert run_now("--log-line", "-", "--json") == 2
    assert "line 2: is not JSON" in capsys.readouterr().err


def test_the_fake_has_the_fleet_that_the_tests_name() -> None:
    assert set(FakeGateway().fleet.view.backends) == {ONE, TWO, SPOT}
