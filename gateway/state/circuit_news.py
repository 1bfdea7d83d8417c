"""What this gateway has to say of its circuits, until the fleet has been told."""

from __future__ import annotations

from gateway.core.fleet import OpeningShared, ShareClosing, ShareOpening
from gateway.core.model import Reason

Opening = tuple[str, str, int, int]  # backend, reason, ms, streak: as on the wire


class CircuitNews:
    """The newest word on each backend replaces the one before it."""

    def __init__(self) -> None:
        self._untold: dict[str, tuple[ShareOpening, float] | None] = {}
        self._sent: dict[str, tuple[ShareOpening, float] | None] = {}

    def note(self, effect: ShareOpening | ShareClosing, now_s: float) -> None:
        """To be told with the next exchange; an opening until its time is over."""
        opening = (effect, now_s + effect.open_s) if isinstance(effect, ShareOpening) else None
        self._untold[effect.backend_id] = opening

    def to_tell(self, now_s: float) -> tuple[list[Opening], list[str]]:
        """Openings with what is left of them, and closings."""
        self._sent = dict(self._untold)
        openings = [
            (backend_id, str(said[0].reason), max(int((said[1] - now_s) * 1000), 0), said[0].streak)
            for backend_id, said in self._sent.items()
            if said is not None
        ]
        return openings, [backend_id for backend_id, said in self._sent.items() if said is None]

    def told(self) -> None:
        """The fleet has heard what was sent last."""
        for backend_id, said in self._sent.items():
            if self._untold.get(backend_id, said) is said:
                self._untold.pop(backend_id, None)
        self._sent = {}


def opening_heard(gateway_id: str, opening: Opening) -> OpeningShared | None:
    """The event for what another gateway said; None for a reason that this version does not know."""
    backend_id, reason, for_ms, streak = opening
    try:
        return OpeningShared(gateway_id, backend_id, Reason(reason), for_ms / 1000, streak)
    except ValueError:
        return None
