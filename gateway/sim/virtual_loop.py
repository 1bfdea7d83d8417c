"""An asyncio loop on a Timeline: what the live gateway awaits takes virtual time."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVarTuple

from gateway.sim.timeline import Timeline

Args = TypeVarTuple("Args")


class _Call(asyncio.TimerHandle):
    """A callback on the Timeline. A cancelled one stays there, and is passed over."""

    __slots__ = ()

    def __init__(
        self,
        when_s: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        # Not that of TimerHandle, which prepares for an order and a debug mode that are not here.
        self._when, self._callback, self._args, self._loop = when_s, callback, args, loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._source_traceback = None

    def cancel(self) -> None:
        self._cancelled = True

    def _run(self) -> None:
        if not self._cancelled:
            self._context.run(self._callback, *self._args)


class VirtualLoop(asyncio.BaseEventLoop):
    """Callbacks, timers, futures and tasks; no sockets, threads or signals.

    What callbacks raise ends the run: a mistake in a simulation must not look like a result.
    """

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, this is the loop that asyncio asks; then it is closed, and all tasks are at their end.

        Raises RuntimeError if one still waits when nothing is left to happen.
        """
        outer = events._get_running_loop()
        events._set_running_loop(self)
        left: set[asyncio.Task[Any]] = set()
        try:
            yield
            left = asyncio.all_tasks(self)
        finally:
            try:
                self._cancel_tasks()
            finally:
                events._set_running_loop(outer)
                self.close()
        if left:
            raise RuntimeError(f"waits for what never comes: {left}")

    def _cancel_tasks(self) -> None:
        """As asyncio.run does at its end, which may be an exception's: nothing else happens any more."""
        self._timeline.forget(lambda action: not isinstance(getattr(action, "__self__", None), _Call))
        for task in asyncio.all_tasks(self):
            task.cancel()
        self._timeline.run()

    # --- what asyncio asks of a loop -----------------------------------------------------------------

    def time(self) -> float:
        return self._timeline.now_s

    def call_soon(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        call = _Call(self._timeline.now_s, callback, args, self, context)
        self._timeline.soon(call._run)
        return call

    def call_at(
        self, when: float, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.TimerHandle:
        call = _Call(when, callback, args, self, context)
        self._timeline.at(when, call._run)
        return call

    def call_later(
        self, delay: float, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._timeline.now_s + delay, callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context.get("exception") or RuntimeError(context["message"])


def finish_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine that waits for nothing, without a loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError(f"{coroutine} waits for something")
