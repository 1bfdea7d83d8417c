"""Names of backends that lead where no backend may be: said once, and again only when it changes."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

# A name that leads to another refused address each time is not worth a line each time.
MAX_TOLD = 8


class RefusedNames:
    """What has been said of each backend since its name last led to a good address."""

    def __init__(self) -> None:
        self._told: dict[str, set[str]] = {}

    def refused(self, backend_id: str, where: str) -> None:
        """`where` its name leads, and why nothing may be sent there."""
        told = self._told.setdefault(backend_id, set())
        if where not in told and len(told) < MAX_TOLD:
            told.add(where)
            log.warning("%s: its name leads to %s; nothing is sent there", backend_id, where)

    def good(self, backend_id: str) -> None:
        if self._told.pop(backend_id, None) is not None:
            log.warning("%s: its name leads to where a backend may be again", backend_id)

    def forget_all_but(self, backend_ids: set[str]) -> None:
        """The others have left."""
        self._told = {known: told for known, told in self._told.items() if known in backend_ids}
