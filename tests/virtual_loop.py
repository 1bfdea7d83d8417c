"""An event loop whose clock jumps to the next timer instead of waiting: for timing without sockets."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps

TICKS_PER_S = 2**30  # finer than the clock resolution that loops allow for


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: the time that a wait would have taken has passed."""

    def __init__(self, quiet_s: float) -> None:
        super().__init__()
        self.now_s = 0.0
        self._quiet_s = quiet_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(min(timeout, self._quiet_s))
        if not self._quiet_s:
            self.now_s += timeout
        elif not ready:
            self.now_s = round((self.now_s + timeout) * TICKS_PER_S) / TICKS_PER_S
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual seconds, from zero.

    With `quiet_s`, for sockets whose both ends are in this loop: time jumps only when nothing has come over
    any of them for so long (real seconds), so what they carry takes no time at all. Time is then a multiple
    of 2**-30 s, so that differences of times that are such multiples have no rounding errors.
    """

    def __init__(self, quiet_s: float = 0.0) -> None:
        self._jumping = _JumpingSelector(quiet_s)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def in_virtual_time(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Makes a test of a coroutine function that runs in a virtual loop of its own."""

    @wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test())

    return run
