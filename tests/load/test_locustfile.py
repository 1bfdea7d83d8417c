"""benchmarks/locustfile.py as people run it: a process of its own, for Locust patches the one it is in."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.proxy.processes import Engine, GatewayProcess, running, start_engine, start_gateway_process, tiers

LOCUSTFILE = Path(__file__).resolve().parents[2] / "benchmarks" / "locustfile.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="the bench extra brings Locust"),
]


class Site(NamedTuple):
    engines: tuple[Engine, ...]
    gateway: GatewayProcess


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Three tiers of two slots; an answer takes about a quarter of a second."""
    engines = tuple(start_engine("--ttft", "100ms", "--tpot", "20ms") for _ in range(3))
    with running(*engines):
        gateway = start_gateway_process(tiers(*engines, limit=2), tmp_path)
        with running(gateway):
            yield Site(engines, gateway)


class Ran(NamedTuple):
    """What Locust says in the end: counts of requests and failures by (type, name)."""

    code: int
    output: str
    requests: dict[tuple[str, str], int]
    failures: dict[tuple[str, str], int]

    def of_type(self, kind: str) -> int:
        return sum(count for (found, _), count in self.requests.items() if found == kind)


def locust(site: Site, folder: Path, *options: str) -> Ran:
    stats = folder / "stats.json"
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += ["-H", site.gateway.url, "--json-file", str(stats.with_suffix("")), *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder, timeout=45)
    entries = json.loads(stats.read_text()) if stats.exists() else []
    requests = {(entry["method"], entry["name"]): entry["num_requests"] for entry in entries}
    failures = {(entry["method"], entry["name"]): entry["num_failures"] for entry in entries}
    return Ran(done.returncode, done.stdout + done.stderr, requests, failures)


def test_a_spike_is_offered_whole_and_refusals_are_no_failures(site: Site, tmp_path: Path):
    record = tmp_path / "record.jsonl"
    spike = ("--shape", "spike", "--base-rps", "3", "--before", "1", "--spike-for", "2", "--after", "1")
    ran = locust(site, tmp_path, *spike, "--record", str(record))
    assert ran.code == 0, ran.output
    lines = [json.loads(line) for line in record.read_text().splitlines()][1:]
    answered, refused, left = (ran.of_type(kind) for kind in ("POST", "429", "LEFT"))
    assert len(lines) == answered + refused + left == len({line["id"] for line in lines})
    assert refused == sum(line["status"] == 429 for line in lines) > 0  # 36 a second on six slots
    assert not any(ran.failures.values())
    assert {line["tier"] for line in lines if line["outcome"] == "ok"} == {"primary", "backup", "spot"}
    assert {line["spill_reason"] for line in lines if line["tier"] == "spot"} == {"full"}
    chats = [line for line in lines if line["kind"] == "chat" and line["outcome"] == "ok"]
    assert ran.requests["TTFT", "chat"] >= len(chats) > 0
    assert ran.requests["GAP", "chat"] >= sum(line["tokens"] - 1 for line in chats) > 0
    assert {"batch", "embeddings", "long-prompt", "impatient"} <= {line["kind"] for line in lines}


def test_cut_streams_are_failures(site: Site, tmp_path: Path):
    for engine in site.engines:
        engine.set_faults({"kind": "cut", "after_tokens": 2})
    record = tmp_path / "record.jsonl"
    users = ("Chat", "-u", "2", "-r", "2", "-t", "3s", "--think", "0.2", "--stop-timeout", "5")
    ran = locust(site, tmp_path, *users, "--record", str(record))
    assert ran.failures["POST", "chat"] == ran.requests["POST", "chat"] > 0
    assert ran.code == 1
    errors = {json.loads(line)["error"] for line in record.read_text().splitlines()}
    assert errors == {"an error event: upstream_unreachable"}


def test_a_client_that_leaves_is_no_failure(site: Site, tmp_path: Path):
    for engine in site.engines:
        engine.set_faults({"kind": "stall", "after_tokens": 2})
    users = ("Impatient", "-u", "2", "-r", "2", "-t", "3s", "--think", "0.2", "--patience", "0.3")
    ran = locust(site, tmp_path, *users, "--stop-timeout", "5")
    assert ran.code == 0, ran.output
    assert ran.of_type("LEFT") > 0 == ran.of_type("POST")
    assert sum(engine.counter("aborted_total") for engine in site.engines) >= ran.of_type("LEFT")


def test_a_trace_is_replayed_row_by_row(site: Site, tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("t_seconds,input_tokens,output_tokens\n0,50,3\n2,60,4\n4,70,5\n")
    record = tmp_path / "record.jsonl"
    ran = locust(site, tmp_path, "--shape=replay", f"--trace={trace}", "--speed-up=4", f"--record={record}")
    assert ran.code == 0, ran.output
    start, *lines = map(json.loads, record.read_text().splitlines())
    due_s = sorted(line["due_s"] - start["start_s"] for line in lines)
    assert due_s == pytest.approx([0, 0.5, 1.0], abs=0.01)  # when they were due, not when they were sent
    assert sorted(line["tokens"] for line in lines) == [3, 4, 5]


def test_a_wrong_trace_is_told_by_file_and_row(site: Site, tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("t_seconds,input_tokens,output_tokens\n0,many,3\n")
    ran = locust(site, tmp_path, "--shape", "replay", "--trace", str(trace))
    assert ran.code != 0
    assert "trace.csv, row 2: input_tokens: 'many'" in ran.output
