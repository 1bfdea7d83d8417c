"""Looking at the gateways ten times a second: /api/v1/fleet and /metrics of each, on a thread."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

PERIOD_S = 0.1
_SAMPLE = re.compile(
    r"^spillway_(?P<name>requests|spills|sheds|store_exchange)(_total|_seconds_count)"
    r"\{(?P<labels>.*)\} (?P<value>\S+)$",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Look(NamedTuple):
    """All gateways together at one moment (Unix seconds; they are asked within a few milliseconds).

    `requests` counts by tier ("" for none), `spills` by reason; these, `sheds` and `failed_exchanges` (with
    Redis) are totals since the start. `engine_peaks` is the most that each tier's engine ever had at once.
    """

    at_s: float
    in_flight: dict[str, int]
    limit: dict[str, int]
    requests: dict[str, int]
    spills: dict[str, int]
    sheds: int
    failed_exchanges: int
    engine_peaks: dict[str, int]


class Watcher:
    """`looks` grows while it runs; `missed` counts the times when a gateway did not answer."""

    def __init__(self, admin_ports: Sequence[int], engine_ports: dict[str, int]) -> None:
        self._gateways = [_connection(port) for port in admin_ports]
        self._engines = {tier: _connection(port) for tier, port in engine_ports.items()}
        self.looks: list[Look] = []
        self.missed = 0

    def look(self) -> Look:
        """Raises OSError, http.client.HTTPException, ValueError."""
        at_s = time.time()
        peaks = {tier: _peak(_get(connection, "/metrics")) for tier, connection in self._engines.items()}
        in_flight: Counter[str] = Counter()
        limit: dict[str, int] = {}
        requests: Counter[str] = Counter()
        spills: Counter[str] = Counter()
        sheds = failed_exchanges = 0
        for connection in self._gateways:
            for tier in json.loads(_get(connection, "/api/v1/fleet"))["tiers"]:
                in_flight[tier["name"]] += tier["in_flight"]  # each gateway tells its own part
                limit[tier["name"]] = max(limit.get(tier["name"], 0), tier["limit"])
        for connection in self._gateways:
            for found in _SAMPLE.finditer(_get(connection, "/metrics")):
                labels, value = dict(_LABEL.findall(found["labels"])), int(float(found["value"]))
                if found["name"] == "requests":
                    requests[labels["tier"]] += value
                elif found["name"] == "spills":
                    spills[labels["reason"]] += value
                elif found["name"] == "sheds":
                    sheds += value
                elif labels["result"] == "failed":
                    failed_exchanges += value
        return Look(
            at_s, dict(in_flight), limit, dict(requests), dict(spills), sheds, failed_exchanges, peaks
        )

    def run(self, stopped: threading.Event) -> None:
        due_s = time.monotonic()
        while not stopped.wait(max(due_s - time.monotonic(), 0)):
            due_s += PERIOD_S
            try:
                self.looks.append(self.look())
            except (OSError, http.client.HTTPException, ValueError):
                self.missed += 1
                self.close()  # a closed connection connects again by itself

    def close(self) -> None:
        for connection in (*self._gateways, *self._engines.values()):
            connection.close()


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=2)


def _peak(page: str) -> int:
    found = re.search(r"^mock_engine_peak_in_flight (\d+)", page, re.MULTILINE)
    if found is None:
        raise ValueError("an engine does not tell its peak")
    return int(found[1])


def _get(connection: http.client.HTTPConnection, path: str) -> str:
    connection.request("GET", path)
    return connection.getresponse().read().decode()


@contextmanager
def watching(admin_ports: Sequence[int], engine_ports: dict[str, int]) -> Iterator[Watcher]:
    """A watcher that looks until the block ends."""
    watcher, stopped = Watcher(admin_ports, engine_ports), threading.Event()
    thread = threading.Thread(target=watcher.run, args=(stopped,), name="watcher")
    thread.start()
    try:
        yield watcher
    finally:
        stopped.set()
        thread.join()
        watcher.close()
