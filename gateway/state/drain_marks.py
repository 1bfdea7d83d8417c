"""The drain marks of the whole fleet, as this gateway knows them."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.fleet import FOREVER_S, Drained, Event, Undrained
from gateway.state.wire import FOREVER_MS, LIFTED_MS


class DrainMarks:
    """The drains of the whole fleet, as last heard, and those of ours that nobody has been told yet."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}
        self._untold: dict[str, float | None] = {}
        self._sent: dict[str, float | None] = {}

    def mark(self, name: str, for_s: float | None, now_s: float) -> None:
        """Drained for `for_s` seconds (inf: without an end), or None: not any more."""
        until_s = None if for_s is None else now_s + for_s
        self._untold[name] = until_s
        if until_s is None:
            self._until_s.pop(name, None)
        else:
            self._until_s[name] = until_s

    def assume(self, name: str, for_s: float, now_s: float) -> None:
        """As if heard before: the fleet's next word may end it, a fleet without a memory takes it over."""
        self._until_s[name] = now_s + for_s

    def to_tell(self, now_s: float) -> list[tuple[str, int]]:
        self._sent = dict(self._untold)
        return [(name, _for_ms(until_s, now_s)) for name, until_s in self._sent.items()]

    def known(self, now_s: float) -> list[tuple[str, int]]:
        """For a store that has lost its memory."""
        return [(name, _for_ms(until_s, now_s)) for name, until_s in self._until_s.items()]

    def heard(self, left_ms_of: Mapping[str, int | None], now_s: float) -> list[Event]:
        """What changes here by the fleet's marks, which say how long each lasts (None: without an end)."""
        for name, until_s in self._sent.items():
            if self._untold.get(name, 0.0) == until_s:
                self._untold.pop(name, None)
        self._sent = {}
        told = {
            name: FOREVER_S if left_ms is None else now_s + left_ms / 1000
            for name, left_ms in left_ms_of.items()
            if name not in self._untold
        }
        events: list[Event] = [
            Drained(name, until_s)
            for name, until_s in told.items()
            if not _is_about(self._until_s.get(name), until_s)
        ]
        gone = [name for name in self._until_s if name not in told and name not in self._untold]
        events += [Undrained(name) for name in gone]
        self._until_s = told | {n: u for n, u in self._untold.items() if u is not None}
        return events


def _for_ms(until_s: float | None, now_s: float) -> int:
    if until_s is None:
        return LIFTED_MS
    return FOREVER_MS if until_s == FOREVER_S else max(int((until_s - now_s) * 1000), 1)


def _is_about(known_s: float | None, told_s: float) -> bool:
    """The same end, but for the rounding and the way of a message."""
    return known_s is not None and (known_s == told_s or abs(known_s - told_s) < 1.0)
