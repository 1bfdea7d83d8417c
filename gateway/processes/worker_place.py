"""Where a gateway stands that is one of several on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """What such a gateway is told beside its configuration; its data port is shared with the others.

    `admin_socket` is the unix socket of its own admin port. `drains` are those in force: names with the
    moment they end (monotonic seconds, which all processes of a machine share), so that no request slips
    through while it starts. `generation` is that of the configuration in force.
    """

    number: int
    admin_socket: str
    drains: Mapping[str, float]
    generation: int = 1
