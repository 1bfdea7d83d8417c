"""The story of the demo, from the first process to the last word."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.demo.children import ChildFailed
from gateway.demo.client import BadAnswer
from gateway.demo.fleet import CLUSTERS, HOST, SLOTS, USUAL_ADMIN_PORT, DemoFleet, PortTaken, running
from gateway.demo.load import PERIOD_S, Load
from gateway.demo.screen import Frame, Screen, open_screen
from gateway.demo.watch import Picture, Watcher

LOOK_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=_seconds, metavar="N", help="end by itself after N seconds (default: Ctrl-C ends)"
    )
    parser.add_argument("--no-load", action="store_true", help="only serve: send requests yourself")
    parser.add_argument(
        "--port", type=_port, metavar="PORT", help="data port (default: 8080, or any if that is taken)"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 at the end or after Ctrl-C, 1 when a process of the demo fails."""
    try:
        asyncio.run(_demo(args))
    except (ChildFailed, PortTaken) as failure:
        sys.stderr.write(f"spillway demo: {failure}\n")
        return 1
    except BrokenPipeError:  # `spillway demo | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _demo(args: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    with TemporaryDirectory(prefix="spillway-demo-") as directory:
        _say("Starting three mock engines and the gateway ...")
        async with running(Path(directory), args.port) as fleet:
            _say(greeting(fleet))
            picture = await _play(fleet, args, stopped)
        if picture is not None:
            _say(f"\n{summary(picture)}")


async def _play(fleet: DemoFleet, args: argparse.Namespace, stopped: asyncio.Event) -> Picture | None:
    """Until told to stop. Raises ChildFailed."""
    watcher = Watcher(fleet.admin_port)
    screen = open_screen()
    try:
        async with _load(fleet, args) as load:
            await _watch(fleet, watcher, _Show(screen, load), stopped, args.seconds)
    finally:
        screen.close()
    return await _look(fleet, watcher)


@contextlib.asynccontextmanager
async def _load(fleet: DemoFleet, args: argparse.Namespace) -> AsyncIterator[Load | None]:
    if args.no_load:
        yield None
        return
    load = Load(fleet.port, min(PERIOD_S, args.seconds or PERIOD_S))
    try:
        yield load
    finally:
        await load.stop()


class _Show:
    """Puts what was seen on the screen."""

    def __init__(self, screen: Screen, load: Load | None) -> None:
        self._screen = screen
        self._load = load
        self._started_s = asyncio.get_running_loop().time()

    @property
    def at_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started_s

    def show(self, picture: Picture) -> None:
        load = self._load
        ttfts_s = {tier.name: load.ttft_s(tier.name) for tier in picture.tiers} if load is not None else {}
        self._screen.show(Frame(self.at_s, picture, ttfts_s, load.clients if load is not None else None))


async def _watch(
    fleet: DemoFleet, watcher: Watcher, show: _Show, stopped: asyncio.Event, seconds: float | None
) -> None:
    while not stopped.is_set() and (seconds is None or show.at_s < seconds):
        picture = await _look(fleet, watcher)
        if picture is not None:
            show.show(picture)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), LOOK_S)


async def _look(fleet: DemoFleet, watcher: Watcher) -> Picture | None:
    """None when the gateway did not answer, though it runs. Raises ChildFailed."""
    fleet.check()
    try:
        return await watcher.look()
    except (OSError, BadAnswer):
        await asyncio.sleep(0.05)  # its end, if it is one, is known to the system a moment later
        fleet.check()
        return None


def greeting(fleet: DemoFleet) -> str:
    command = _command()
    admin = "" if fleet.admin_port == USUAL_ADMIN_PORT else f" --admin http://{HOST}:{fleet.admin_port}"
    return f"""
Spillway: one gateway before three clusters of {SLOTS} slots each. Each request goes to the
first tier with a free slot, and back to the primary as soon as it has room again.

In another terminal, be a client, or take the primary away:

  curl -i {HOST}:{fleet.port}/v1/chat/completions -H content-type:application/json \\
    -d '{{"model": "demo", "messages": [{{"role": "user", "content": "Hello"}}]}}'
  {command} drain {CLUSTERS[0].name} --for 10s{admin}

Numbers: http://{HOST}:{fleet.admin_port}/metrics and /api/v1/fleet. Ctrl-C ends all.
"""


def _command() -> str:
    """How this very command is called from here: `spillway` itself need not be on the path."""
    called = Path(sys.argv[0])
    if called.name != "spillway":
        return "spillway"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)


def summary(picture: Picture) -> str:
    """The last word: how many were served where, and how many were not."""
    served = ", ".join(f"{tier.name} {tier.served}" for tier in picture.tiers)
    return f"Served {picture.served} requests ({served}), shed {picture.shed}."


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return seconds


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return port
