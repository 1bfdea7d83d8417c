"""The build context: what of the checkout a container engine would send, after .dockerignore."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path


class Context:
    """Files below `folder`; the last pattern of .dockerignore to match one, or a folder above, decides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = (folder / ".dockerignore").read_text().splitlines()
        self._patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    def files(self, source: str) -> Iterator[Path]:
        """Relative paths of the file `source`, or of all files below the folder `source`."""
        place = self.folder / source
        found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
        for path in found:
            relative = path.relative_to(self.folder)
            if not self.is_ignored(relative):
                yield relative

    def is_ignored(self, relative: Path) -> bool:
        names = [str(relative), *(str(parent) for parent in relative.parents if parent != Path("."))]
        ignored = False
        for pattern in self._patterns:
            if any(_matcher(pattern.removeprefix("!")).fullmatch(name) for name in names):
                ignored = not pattern.startswith("!")
        return ignored


@cache
def _matcher(pattern: str) -> re.Pattern[str]:
    """`*` is within one name, `**/` any number of folders."""
    parts = [re.escape(part).replace(r"\*", "[^/]*") for part in pattern.strip("/").split("**/")]
    return re.compile("(?:.*/)?".join(parts))
