"""What a gateway and the fleet say to each other about slots: values, before they are put on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.core.model import Candidate


class Ask:
    """A request that found no slot here: it wants one at the first of `candidates` of a tier with room."""

    __slots__ = ("candidates",)

    def __init__(self, candidates: tuple[Candidate, ...]) -> None:
        self.candidates = candidates


def permit_of(backend_id: str) -> str:
    """The probe permit of a backend: arbitrated like a backend with one slot."""
    return f"{backend_id}#probe"


class Wanting(NamedTuple):
    """So many requests are `waiting` for a slot of any of `backend_ids`, the first of them for `age_s`."""

    backend_ids: tuple[str, ...]
    waiting: int
    age_s: float


class Message(NamedTuple):
    """What goes out in one exchange. `reports` and `backend_ids` go together; see lua/exchange.lua.

    `born_ms` is the birth of the fleet's memory as last heard of: another one means that it was lost since.
    """

    seq: int
    sent_s: float
    is_full: bool
    known_gateways: int
    born_ms: int
    backend_ids: tuple[str, ...]
    reports: tuple[tuple[int, int, int, int, int, int], ...]
    asks: tuple[Ask, ...]
    wants: tuple[Wanting, ...] = ()

    @property
    def want_indexes(self) -> list[tuple[int, int, list[int]]]:
        """Each want as on the wire, by reports counted from 1."""
        index_of = {backend_id: at for at, backend_id in enumerate(self.backend_ids, 1)}
        return [
            (
                want.waiting,
                int(want.age_s * 1000),
                [index_of[id_] for id_ in want.backend_ids if id_ in index_of],
            )
            for want in self.wants
        ]

    @property
    def ask_indexes(self) -> list[list[int | list[int]]]:
        """For each ask the reports of its candidates, counted from 1; one that left meanwhile has none."""
        index_of = {backend_id: at for at, backend_id in enumerate(self.backend_ids, 1)}
        return [
            [
                [index_of[c.backend.id], index_of[permit_of(c.backend.id)]]
                if c.is_probe
                else index_of[c.backend.id]
                for c in ask.candidates
                if c.backend.id in index_of
            ]
            for ask in self.asks
        ]


class Result(NamedTuple):
    """What the fleet says of one backend: slots granted to us, granted to nobody, idle at other gateways.

    `free` below zero: more is in use than may be, so what ends makes room for nobody yet. `share` is what a
    gateway that is cut off may use.
    """

    granted: int
    free: int
    idle_elsewhere: int
    share: int


class Answer(NamedTuple):
    """The answer to a Message. `given` holds for each ask the index (from 1) of the report served, or 0."""

    status: str
    gateways: int = 1
    born_ms: int = 0
    results: Sequence[Result] = ()
    given: Sequence[int] = ()


class Served(NamedTuple):
    """What became of an ask: the candidate whose slot is taken for it, or None.

    `is_idle_elsewhere`: another gateway has been asked to give back what it does not use; ask again soon.
    """

    ask: Ask
    candidate: Candidate | None
    is_idle_elsewhere: bool
