"""The verb: one snapshot for scripts, a live screen on a terminal, snapshots one after another elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gateway.admin.address import DEFAULT_ADMIN, TokenUnreadable, admin_url, read_token
from gateway.config.problems import BadValue
from gateway.config.units import parse_duration
from gateway.top.drawing import page, plain_console
from gateway.top.following import Follower, session
from gateway.top.keys import keys
from gateway.top.rows import Picture, picture_of

# Long enough for a p95 that does not jump, short enough to see what happens.
WINDOW_S = 10.0
FRAME_S = 0.25
MIN_INTERVAL_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--admin",
        dest="admins",
        metavar="URL",
        type=admin_url,
        action="append",
        help=f"admin port, once for each gateway (default {DEFAULT_ADMIN})",
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="file with the admin token")
    parser.add_argument(
        "--interval",
        metavar="DURATION",
        type=_interval_s,
        default=1.0,
        help="how often the gateways are asked, such as 500ms (default 1s)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="print one snapshot as plain text: what happened within one interval; exits 1 when a gateway "
        "did not answer",
    )


def _interval_s(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except BadValue as exc:
        raise argparse.ArgumentTypeError("; ".join(filter(None, (exc.message, exc.fix)))) from exc
    if seconds < MIN_INTERVAL_S:
        raise argparse.ArgumentTypeError(f"must be at least {MIN_INTERVAL_S * 1000:.0f}ms")
    return seconds


def run(args: argparse.Namespace) -> int:
    """0 at the end, 1 for --once with a gateway away or when the token can't be read."""
    try:
        token = read_token(args.token_file)
        return asyncio.run(_top(args, token))
    except TokenUnreadable as failure:
        sys.stderr.write(f"spillway top: {failure}\n")
        return 1
    except BrokenPipeError:  # `spillway top | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def _top(args: argparse.Namespace, token: str | None) -> int:
    clock = asyncio.get_running_loop().time
    urls = list(dict.fromkeys(args.admins or [DEFAULT_ADMIN]))
    followers = [Follower(url, WINDOW_S, clock) for url in urls]
    with _told_to_stop() as stopped:
        async with session(token) as asking:
            if args.once:
                return await _once(followers, asking, args.interval, stopped)
            asks = [
                asyncio.get_running_loop().create_task(follower.follow(asking, args.interval))
                for follower in followers
            ]
            try:
                await _show(followers, asks, args.interval, stopped)
            finally:
                for task in asks:
                    task.cancel()
                await asyncio.gather(*asks, return_exceptions=True)
    return 0


@contextlib.contextmanager
def _told_to_stop() -> Iterator[asyncio.Event]:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _once(
    followers: Sequence[Follower], asking: aiohttp.ClientSession, interval_s: float, stopped: asyncio.Event
) -> int:
    """Two looks: rates are what happened between them."""
    await asyncio.gather(*(follower.look(asking) for follower in followers))
    await _wait(stopped, interval_s)
    await asyncio.gather(*(follower.look(asking) for follower in followers))
    _print(plain_console(Console()), followers)
    return 1 if any(follower.now.problem for follower in followers) else 0


async def _show(
    followers: Sequence[Follower],
    asks: Sequence[asyncio.Task[None]],
    interval_s: float,
    stopped: asyncio.Event,
) -> None:
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        plain = plain_console(console)
        while not stopped.is_set():
            await _wait(stopped, interval_s)
            _check(asks)
            _print(plain, followers)
        return
    with keys(stopped), Live(console=console, screen=True, auto_refresh=False) as live:
        while not stopped.is_set():
            _check(asks)
            picture = picture_of([follower.now for follower in followers])
            live.update(_screen(picture, console), refresh=True)
            await _wait(stopped, FRAME_S)


def _screen(picture: Picture, console: Console) -> RenderableType:
    hint = Text("\nq or Ctrl-C ends", style="dim")
    return Group(page(picture, console.width, console.height - 2), hint)


def _check(asks: Sequence[asyncio.Task[None]]) -> None:
    """They never end by themselves: whoever did has failed, and says why here."""
    for task in asks:
        if task.done():
            task.result()


def _print(console: Console, followers: Sequence[Follower]) -> None:
    """Not by rich itself: it calls a reader who has seen enough a failure."""
    with console.capture() as captured:
        console.print(page(picture_of([follower.now for follower in followers]), console.width, None))
    sys.stdout.write(captured.get())
    sys.stdout.flush()


async def _wait(stopped: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopped.wait(), seconds)
