"""What every section of the schema is made of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

DAY_S = 86_400.0
# A probe takes its turn on the event loop of the data plane.
MIN_INTERVAL_S = 0.01
MIB = 2**20

Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=100,
        extra={"must": "be of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"},
    ),
]
Limit = Annotated[
    int, Meta(ge=1, le=1_000_000, description="Requests in flight that a backend takes at most.")
]
Weight = Annotated[float, Meta(gt=0, le=1e6, extra={"kind": "number"})]


def kind(reader: str, description: str) -> Meta:
    """A value that this `reader` of scalars.py turns from text into what it means."""
    return Meta(description=description, extra={"kind": reader})


def duration(description: str, ge: float = 0.001) -> Meta:
    return Meta(ge=ge, le=7 * DAY_S, description=description, extra={"kind": "duration"})


def size(description: str) -> Meta:
    return Meta(ge=1, le=2**40, description=description, extra={"kind": "size"})


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping in the file. An unknown key in it is an error: a typo never becomes a default."""
