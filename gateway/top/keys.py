"""Keys while the screen is live: q ends. The terminal is given back as it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator


@contextlib.contextmanager
def keys(stopped: asyncio.Event) -> Iterator[None]:
    """Sets `stopped` when q or Escape is pressed; does nothing where nobody types."""
    if not sys.stdin or not sys.stdin.isatty():
        yield
        return
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def pressed() -> None:
        typed = os.read(descriptor, 64)
        # One key, not the beginning of an arrow's or a paste's bytes. Nothing: the terminal is gone.
        if not typed or typed in (b"q", b"Q", b"\x1b"):
            stopped.set()

    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, pressed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
