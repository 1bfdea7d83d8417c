"""The configuration changes while several workers serve: all take it, and those that come later."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, clusters, metrics_of, started, total
from system import wait_for

from gateway.config.loading import parse
from gateway.workers.letters import Letters, adopted, framed, read_answer, refused
from tests.proxy.processes import Engine, running, start_engine

pytestmark = [pytest.mark.timeout(90)]
WORKERS = 2


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = start_engine("--ttft", "1ms", "--tpot", "20ms")
    with running(engine):
        yield engine


def start(engine: Engine) -> AbstractContextManager[Fleet]:
    return started(f"workers: {WORKERS}\nwatch: false\n" + clusters(engine.url))


def change(fleet: Fleet, old: str, new: str) -> None:
    file = fleet.folder / "spillway.yaml"
    file.write_text(file.read_text().replace(old, new))


def reload(fleet: Fleet) -> tuple[int, Any]:
    status, body = fleet.admin("POST", "/api/v1/reload")
    return status, json.loads(body)


def limits(fleet: Fleet) -> list[float]:
    """The limit that each worker goes by."""
    pages = [metrics_of(fleet.worker_page(number, "/metrics")) for number in range(1, WORKERS + 1)]
    return [total(page, "limit") for page in pages]


def test_all_workers_take_a_new_file_and_so_does_one_that_comes_later(
    engine: Engine, server_program: str
) -> None:
    with start(engine) as fleet:
        fleet.wait_ready()
        stream = fleet.stream(max_tokens=30)
        change(fleet, "limit: 64", "limit: 32")
        status, page = reload(fleet)
        assert (status, page["outcome"], page["generation"]) == (200, "adopted", 2)
        assert limits(fleet) == [32, 32]
        assert b"[DONE]" in stream.rest()

        change(fleet, "listen: 127.0.0.1:0", "listen: 127.0.0.1:1")
        status, page = reload(fleet)
        assert status == 422
        assert "spillway.yaml:1: listen: changes only with a restart" in page["error"]["message"]
        merged = fleet.metrics()
        assert merged["spillway_config_last_reload_successful"] == 0
        assert fleet.page("/readyz")["config"]["refused"]
        change(fleet, "listen: 127.0.0.1:1", "listen: 127.0.0.1:0")

        change(fleet, "limit: 32", "limit: 16")
        fleet.process.send_signal(signal.SIGHUP)
        assert wait_for(lambda: limits(fleet) == [16, 16])
        killed = fleet.pid_of(1)
        os.kill(killed, signal.SIGKILL)
        assert wait_for(lambda: fleet.is_ready(WORKERS) and fleet.pid_of(1) != killed)
        assert limits(fleet) == [16, 16]
        merged = fleet.metrics()
        assert merged["spillway_config_generation"] == 3
        assert merged["spillway_config_last_reload_successful"] == 1
        assert merged['spillway_config_reloads_total{outcome="adopted"}'] == 2
        assert [one["config"] for one in fleet.page("/readyz")["workers"]] == [{"generation": 3}] * 2
        assert fleet.ask() == 200


@pytest.mark.slow
def test_a_worker_that_does_not_answer_is_named_and_takes_it_when_it_wakes(
    engine: Engine, server_program: str
) -> None:
    with start(engine) as fleet:
        fleet.wait_ready()
        stopped = fleet.pid_of(2)
        os.kill(stopped, signal.SIGSTOP)
        try:
            for limit in (32, 16):
                change(fleet, f"limit: {limit * 2}", f"limit: {limit}")
                status, page = reload(fleet)
                assert status == 502 and "worker 2 does not answer" in page["error"]["message"]
            assert fleet.metrics()["spillway_config_last_reload_successful"] == 0
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert wait_for(lambda: limits(fleet) == [16, 16])
        assert wait_for(lambda: "behind" not in fleet.page("/readyz")["config"])
        assert fleet.metrics()["spillway_config_last_reload_successful"] == 1


def test_letters_come_through_however_the_stream_is_cut() -> None:
    config = parse(clusters("http://127.0.0.1:9"), "g.yaml", ".", {})
    stream = framed((config, 1)) + framed("second")
    for size in (1, 7, len(stream)):
        letters, seen = Letters(), []
        for at in range(0, len(stream), size):
            letters.feed(stream[at : at + size])
            while (letter := letters.next()) is not None:
                seen.append(letter)
        assert seen == [(config, 1), "second"]


def test_an_answer_is_one_line_whatever_the_reason_holds() -> None:
    assert read_answer(adopted(7)) == (7, None)
    line = refused(8, "two\nlines, and é" + "x" * 10_000)
    assert line.count(b"\n") == 1 and len(line) < 5000
    number, reason = read_answer(line)
    assert number == 8 and reason is not None and reason.startswith("two lines, and é")
    with pytest.raises(ValueError, match="no answer"):
        read_answer(b"ready\n")


def test_backends_that_the_parent_finds_are_those_of_all_workers(
    engine: Engine, server_program: str, tmp_path: Path
) -> None:
    file = tmp_path / "backends.yaml"
    file.write_text(f"['{engine.url}']")
    how = f"clusters: [{{name: here, limit: 64, discovery: {{file: '{file}'}}}}]"
    with started(f"workers: {WORKERS}\n{how}") as fleet:
        fleet.wait_ready()
        assert limits(fleet) == [64, 64]
        assert fleet.ask() == 200
        backend = f"here@{engine.url.removeprefix('http://')}"
        assert fleet.admin("POST", f"/api/v1/backends/{backend}/drain")[0] == 200
        file.write_text(f"[{{url: '{engine.url}', limit: 8}}, 'http://127.0.0.1:9']")
        assert wait_for(lambda: limits(fleet) == [72, 72])
        killed = fleet.pid_of(1)
        os.kill(killed, signal.SIGKILL)
        assert wait_for(lambda: fleet.is_ready(WORKERS) and fleet.pid_of(1) != killed)
        assert limits(fleet) == [72, 72]
        (cluster,) = fleet.page("/api/v1/fleet")["tiers"][0]["clusters"]
        assert {one["id"]: one["drained"] for one in cluster["backends"]}[backend], "a drain stays"
        file.write_text("no list")
        assert wait_for(lambda: fleet.metrics()['spillway_discovery_failing{cluster="here"}'] == 1)
        assert "must be a list" in fleet.page("/readyz")["discovery"]["here"]
        assert limits(fleet) == [72, 72]
