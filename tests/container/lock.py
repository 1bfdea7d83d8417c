"""Reads a lock as `pip install --require-hashes -r` does, and refuses whatever else could stand in one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.]+)(?: ; (?P<marker>[^\\]+?))?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pin:
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]
    # Who asked for it: `spillway (pyproject.toml)` for what the project itself names.
    via: tuple[str, ...]

    def holds(self, environment: Mapping[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(dict(environment))


def pins(path: Path) -> dict[str, Pin]:
    """By canonical name. Raises ValueError for a line that is no pin with hashes."""
    found: dict[str, Pin] = {}
    for entry in re.split(r"^(?=[^\s#])", path.read_text(), flags=re.MULTILINE)[1:]:
        lines = [line.strip() for line in entry.splitlines()]
        comments = [line.lstrip("# ").removeprefix("via").strip() for line in lines if line.startswith("#")]
        head, *hashes = [line.removesuffix("\\").strip() for line in lines if not line.startswith("#")]
        match = _PIN.fullmatch(head)
        if match is None or not hashes or not all(_HASH.fullmatch(one) for one in hashes):
            raise ValueError(f"{path.name}: not a pin with hashes: {lines[0]}")
        marker = Marker(match["marker"]) if match["marker"] else None
        name = canonicalize_name(match["name"])
        found[name] = Pin(match["version"], marker, tuple(hashes), tuple(filter(None, comments)))
    return found
