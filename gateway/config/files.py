"""Files that a configuration names: which of them were read, and what stood in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# More than any bundle of certificates has; an endless device is not read to its end.
MAX_FILE_BYTES = 4 * 2**20

# What changes when a file does, behind whatever symbolic links: device, inode, size, time of change (ns).
# None: there is no such file.
Stamp = tuple[int, int, int, int] | None
Stamps = dict[Path, Stamp]


def stamp_of(path: Path) -> Stamp:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def stamps_of(paths: Iterable[Path]) -> Stamps:
    return {path: stamp_of(path) for path in paths}


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file's absolute path and the digest of its content when it was read; it can be opened like a path.

    Two are equal only while the content is: so a certificate that is renewed in its place is a change of
    the configuration that names it.
    """

    path: Path
    digest: bytes

    def __fspath__(self) -> str:
        return str(self.path)


def content_of(path: Path, content: bytes) -> FileContent:
    return FileContent(path, hashlib.sha256(content).digest())
