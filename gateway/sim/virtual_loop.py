"""An asyncio loop on a Timeline: what the live gateway awaits takes virtual time."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from gateway.sim.timeline import Timeline


class VirtualLoop(asyncio.AbstractEventLoop):
    """Callbacks, timers, futures and tasks; no sockets, threads or signals.

    What callbacks raise ends the run: a mistake in a simulation must not look like a result.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, this is the loop that asyncio asks."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(outer)

    # --- what asyncio asks of a loop -----------------------------------------------------------------

    def time(self) -> float:
        return self._timeline.now_s

    def is_running(self) -> bool:
        return True

    def get_debug(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._timeline.at(self._timeline.now_s, _run, handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._timeline.now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timeline.at(when, _run, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it stays on the Timeline, and is passed over

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context.get("exception") or RuntimeError(context["message"])


def _run(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._run()


def finish_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that waits for nothing, without a loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError(f"{coroutine} waits for something")
