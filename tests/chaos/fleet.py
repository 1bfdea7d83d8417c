"""A fleet of real processes: gateways, a counting backend, and whatever Redis they are told of."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.proxy.processes import READY_S, GatewayProcess, Process

HOST = "127.0.0.1"


def eventually(is_so: Callable[[], Any], within_s: float, what: str) -> float:
    """Waits until it is so and returns the seconds it took; fails when it is not so in time."""
    started_s = time.monotonic()
    while not is_so():
        assert time.monotonic() - started_s < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - started_s


class CountingBackend(Process):
    """See counting_backend.py. Port 0 is the primary's, port 1 the backup's."""

    @classmethod
    def start(cls, ports: int = 2) -> CountingBackend:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.counting_backend", str(ports)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        line = child.stdout.readline()
        found = tuple(map(int, re.findall(r"\d+", line)))
        assert len(found) == ports, f"the backend did not start: {line!r}, exit {child.poll()}"
        return cls(child, found)

    def counts(self, place: int = 0, path: str = "/counts") -> dict[str, int]:
        url = f"http://{HOST}:{(self.port, *self.other_ports)[place]}{path}"
        data = b"" if path == "/reset" else None
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=5) as answer:
            return json.load(answer)

    def reset(self, place: int = 0) -> None:
        self.counts(place, "/reset")

    @property
    def in_flight(self) -> int:
        return self.counts()["in_flight"]

    @property
    def peak(self) -> int:
        return self.counts()["peak"]


class Member(GatewayProcess):
    """One gateway of the fleet; what it logs is kept in a file."""

    def __init__(self, child: subprocess.Popen[str], ports: tuple[int, ...], log: Path) -> None:
        super().__init__(child, ports)
        self._log = log

    def log_lines(self, about: str = "store:") -> list[str]:
        return [line for line in self._log.read_text().splitlines() if about in line]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.admin_url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total, found = 0.0, False
        for line in self.get("/metrics")[1].splitlines():
            if re.match(rf"{name}(\{{|\s)", line) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total, found = total + float(line.rpartition(" ")[2]), True
        assert found, f"no metric {name} {labels}"
        return total

    @property
    def is_degraded(self) -> bool:
        return self.metric("spillway_store_degraded") == 1

    def post(self, path: str) -> None:
        request = urllib.request.Request(self.admin_url + path, method="POST")
        urllib.request.urlopen(request, timeout=5).close()

    def drained(self, cluster: str) -> bool:
        """Whether this gateway takes the cluster for drained."""
        clusters = [one for tier in self.fleet()["tiers"] for one in tier["clusters"]]
        return any(one["drained"] for one in clusters if one["name"] == cluster)

    def pause(self) -> None:
        self.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.child.send_signal(signal.SIGCONT)


class Launching:
    """A gateway on its way up: several of them start at the same time."""

    def __init__(self, text: str, folder: Path, access_log: str = "off") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        own = f"listen: {HOST}:0\nadmin: {{listen: '{HOST}:0'}}\naccess_log: '{access_log}'\n"
        (folder / "spillway.yaml").write_text(own + text)
        self._log = folder / "gateway.log"
        with self._log.open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "serve", "-c", str(folder / "spillway.yaml")],
                stderr=log,
                text=True,
            )

    def ready(self) -> Member:
        def match() -> re.Match[str] | None:
            assert self._child.poll() is None, self._log.read_text()
            return re.search(r"ready on port (\d+), admin on port (\d+)", self._log.read_text())

        eventually(match, READY_S, "the gateway is ready")
        found = match()
        assert found is not None
        return Member(self._child, (int(found[1]), int(found[2])), self._log)

    def stop(self) -> None:
        """Also when it never became ready."""
        Process(self._child, (0,)).stop()


class Fleet:
    """Gateways that share `limit` slots of a primary, with a backup that has room for everybody."""

    def __init__(self, backend: CountingBackend, url: str, limit: int, folder: Path) -> None:
        self.backend = backend
        self.limit = limit
        self._folder = folder
        self._made = 0
        urls = [f"http://{HOST}:{port}" for port in (backend.port, *backend.other_ports)]
        self._url = url
        self._clusters = (
            "timeouts: {total: 20m}\n"  # longer than the longest story
            # Nobody waits: so whatever is slow here is the store's doing.
            "hold: {max_wait: 0s}\n"
            "clusters:\n"
            f"- {{name: primary, limit: {limit}, backends: ['{urls[0]}']}}\n"
            f"- {{name: backup, tier: backup, limit: 10000, backends: ['{urls[1]}']}}\n"
        )
        self.members: list[Member] = []

    def launch(self, url: str | None = None) -> Launching:
        self._made += 1
        text = f"state: {{url: '{url or self._url}'}}\n{self._clusters}"
        return Launching(text, self._folder / f"gateway-{self._made}")

    def grow_to(self, gateways: int, url: str | None = None) -> None:
        """Starts those that are missing, all at once; they may reach Redis at another URL."""
        launched = [self.launch(url) for _ in range(gateways - len(self.members))]
        self.members += [one.ready() for one in launched]

    def replace(self, member: Member) -> Member:
        """Another gateway in place of one that was killed."""
        place = self.members.index(member)
        self.members[place] = self.launch().ready()
        return self.members[place]

    @property
    def ports(self) -> list[int]:
        return [member.port for member in self.members]

    def held(self, cluster: str = "primary") -> int:
        """Slots in use, as the gateways count them."""
        return int(sum(member.metric("spillway_leases_held", cluster=cluster) for member in self.members))

    def settle(self, within_s: float = 10.0) -> None:
        """Waits until nothing is in flight, nobody is degraded, and everybody knows of everybody."""
        eventually(lambda: not any(m.is_degraded for m in self.members), within_s, "the store is back")
        eventually(lambda: self.backend.in_flight == 0 == self.held(), within_s, "nothing is in flight")

    def stop(self) -> None:
        for member in self.members:
            member.resume()
            member.child.terminate()
        for member in self.members:
            member.stop()


@contextmanager
def running_fleet(url: str, folder: Path, *, gateways: int, limit: int) -> Iterator[Fleet]:
    """A fleet and its backend."""
    backend = CountingBackend.start()
    fleet = Fleet(backend, url, limit, folder)
    try:
        fleet.grow_to(gateways)
        yield fleet
    finally:
        fleet.stop()
        backend.stop()
