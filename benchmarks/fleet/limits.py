"""Is the limit exact, do requests spill only when nobody has a slot, and when do a dead gateway's come back?

A false spill is a request that went to the backup although the primary was at work on fewer than its limit.
With no more clients than the limit, each with one request at a time, that is every spill: a slot was free.
"""

from __future__ import annotations

import time
from pathlib import Path

from report import spread
from results import Row

from tests.chaos.fleet import Fleet, eventually, running_fleet
from tests.chaos.load import between, loaded
from tests.redis_server import running_redis

FLEETS = (2, 4, 8)


def measure_exact(folder: Path, quick: bool) -> list[Row]:
    """The most the backend ever had at once, in many runs of 4 times as many streams as the limit."""
    limit, runs = 16, 3 if quick else 34
    rows = []
    with running_redis(folder / "redis") as server:
        for gateways in FLEETS:
            with running_fleet(server.url, folder / str(gateways), gateways=gateways, limit=limit) as fleet:
                peaks = [_peak(fleet, 4 * limit) for _ in range(runs)]
            rows.append(
                Row(
                    f"{gateways} gateways, {runs} runs: the backend's own peak at limit {limit}",
                    spread(list(map(float, peaks))),
                    f"{limit} in every run",
                    set(peaks) == {limit},
                    {"gateways": gateways, "limit": limit, "peaks": peaks},
                )
            )
    return rows


def _peak(fleet: Fleet, streams: int) -> int:
    fleet.settle()
    fleet.backend.reset()
    with loaded(fleet.ports, streams, between(0.05, 0.2, is_stream=True)) as load:
        started_s = time.monotonic()
        eventually(lambda: time.monotonic() - started_s > 1.0, 2, "a second")
    assert set(load.statuses) == {200}, f"answers {dict(load.statuses)}"
    return fleet.backend.peak


def measure_spills(folder: Path, quick: bool) -> list[Row]:
    """False spills of clients that ask at a gateway drawn anew for each request."""
    limit, requests = 48, 500 if quick else 10_000
    rows = []
    with running_redis(folder / "redis") as server:
        for gateways in FLEETS:
            with running_fleet(server.url, folder / str(gateways), gateways=gateways, limit=limit) as fleet:
                for use, goal in ((0.9, 0.0), (1.0, 0.005)):
                    false, asked = _false_spills(fleet, int(limit * use), requests)
                    rows.append(
                        Row(
                            f"{gateways} gateways, {use:.0%} use: false spills",
                            f"{false} in {asked:,} ({false / asked:.2%})",
                            "0" if not goal else f"at most {goal:.1%}",
                            false / asked <= goal,
                            {
                                "gateways": gateways,
                                "limit": limit,
                                "use": use,
                                "asked": asked,
                                "false": false,
                            },
                        )
                    )
    return rows


def _false_spills(fleet: Fleet, clients: int, requests: int) -> tuple[int, int]:
    fleet.settle()
    with loaded(fleet.ports) as load:
        load.roam(clients, between(0.03, 0.12, is_stream=True))
        eventually(lambda: len(load.told) >= requests, 600, f"{requests} answers")
    assert set(load.statuses) == {200}, f"answers {dict(load.statuses)}"
    return sum(told.cluster == "backup" for told in load.told), len(load.told)


def measure_kill(folder: Path, quick: bool) -> list[Row]:
    """Seconds from kill -9 until the backend has as many requests again as its limit."""
    limit, slots = 16, 8
    with (
        running_redis(folder / "redis") as server,
        running_fleet(server.url, folder / "fleet", gateways=3, limit=limit) as fleet,
    ):
        took_s = [_free_again_s(fleet, slots) for _ in range(2 if quick else 8)]
    what = f"kill -9 of a gateway with {slots} of {limit} slots: seconds until they are in use again"
    return [Row(what, spread(took_s), "at most 3", max(took_s) <= 3, {"took_s": took_s})]


def _free_again_s(fleet: Fleet, slots: int) -> float:
    fleet.settle()
    fleet.backend.reset()
    with loaded(fleet.ports[:1]) as doomed, loaded(fleet.ports[1:]) as load:
        for _ in range(slots):
            doomed.ask(0, 600.0, is_stream=True)
        eventually(lambda: fleet.backend.in_flight == slots, 5, "it holds its slots")
        load.add(3 * fleet.limit, between(0.03, 0.12))
        eventually(lambda: fleet.backend.peak == fleet.limit, 5, "the primary is full")
        fleet.members[0].kill()
        killed_s = time.monotonic()
        eventually(lambda: fleet.backend.in_flight <= fleet.limit - slots, 2, "its streams are gone")
        eventually(lambda: fleet.backend.in_flight == fleet.limit, 10, "its slots are in use again")
        took_s = time.monotonic() - killed_s
    fleet.replace(fleet.members[0])
    return took_s
