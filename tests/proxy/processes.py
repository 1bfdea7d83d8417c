"""Real processes for stories that need them: the gateway's command and mock engines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_S = 15.0
_OWN_LINES = "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\n"


class Process:
    """A child that said on which ports it listens."""

    def __init__(self, child: subprocess.Popen[str], ports: tuple[int, ...]) -> None:
        self.child = child
        self.port, *self.other_ports = ports

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """kill -9: no goodbye to anybody."""
        self.child.kill()
        self.child.wait(READY_S)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.child.poll() is None:
            self.child.terminate()
        try:
            return self.child.wait(READY_S)
        finally:
            for pipe in (self.child.stdout, self.child.stderr):
                if pipe is not None:
                    pipe.close()


class Engine(Process):
    """A mock engine; its own counters are the truth."""

    def counter(self, name: str) -> int:
        """The value of `mock_engine_<name>`."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            match = re.search(rf"^mock_engine_{name} (\d+)", answer.read().decode(), re.MULTILINE)
        assert match is not None, name
        return int(match[1])

    def set_faults(self, *faults: dict[str, Any]) -> None:
        self._tell("faults", {"faults": faults})

    def set_health(self, **answer: Any) -> None:
        """What /health answers from now on: `status`, `body`, or `hang`; nothing named is 200."""
        self._tell("health", answer)

    def _tell(self, what: str, settings: dict[str, Any]) -> None:
        body = json.dumps(settings).encode()
        request = urllib.request.Request(f"{self.url}/mock/{what}", body, method="POST")
        urllib.request.urlopen(request, timeout=5).close()


class GatewayProcess(Process):
    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.other_ports[0]}"

    def fleet(self) -> Any:
        with urllib.request.urlopen(f"{self.admin_url}/api/v1/fleet", timeout=5) as answer:
            return json.load(answer)


def start_engine(*arguments: str, port: int = 0) -> Engine:
    child = subprocess.Popen(
        [sys.executable, "-m", "gateway.mock_engine", "--port", str(port), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    match = re.search(r":(\d+)\s*$", child.stdout.readline())
    assert match is not None, f"the engine did not start: exit {child.poll()}"
    return Engine(child, (int(match[1]),))


def start_gateway_process(text: str, folder: Path, access_log: str = "off") -> GatewayProcess:
    path = folder / "spillway.yaml"
    path.write_text(f"{_OWN_LINES}access_log: '{access_log}'\n{text}")
    return serve(path)


def serve(path: Path) -> GatewayProcess:
    """`spillway serve` on a file that says all, ports included."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "serve", "-c", str(path)], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    line = child.stderr.readline()
    match = re.search(r"ready on port (\d+), admin on port (\d+)", line)
    assert match is not None, line + child.stderr.read()
    return GatewayProcess(child, (int(match[1]), int(match[2])))


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Stops them all in the end."""
    try:
        yield
    finally:
        for process in processes:
            process.stop()


def tiers(*engines: Engine, limit: int, **more: str) -> str:
    """One cluster per tier, named like it; `more` are top-level lines."""
    names = ("primary", "backup", "spot")
    lines = [f"{key}: {value}" for key, value in more.items()] + ["clusters:"]
    lines += [
        f"- {{name: {name}, tier: {name}, limit: {limit}, backends: ['{engine.url}']}}"
        for name, engine in zip(names, engines, strict=False)
    ]
    return "\n".join(lines) + "\n"
