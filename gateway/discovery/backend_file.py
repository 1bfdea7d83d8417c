"""A file with a list of backends, read again when it changes.

It is looked at, not watched: a stat a second sees every way to replace a file, also those of Kubernetes'
ConfigMaps and of network file systems, which tell nobody.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Never

from gateway.config.discovered import Discovered
from gateway.config.files import Stamp, stamp_of
from gateway.config.loading import load_backends
from gateway.config.problems import ConfigError
from gateway.discovery.source import Tell

LOOK_EVERY_S = 1.0
# Half a list is a list too: a file that is being written must have been the same for so long.
SETTLE_S = 0.1


class FileSource:
    """One file."""

    def __init__(self, path: Path, look_every_s: float = LOOK_EVERY_S, settle_s: float = SETTLE_S) -> None:
        self._path = path
        self._look_every_s = look_every_s
        self._settle_s = settle_s

    async def follow(self, tell: Tell) -> Never:
        read: Stamp = None
        is_good = False
        while True:
            stamp = stamp_of(self._path)
            if stamp is None:
                tell.failed(f"{self._path} can't be read")
                read = None
            elif stamp != read:
                await asyncio.sleep(self._settle_s)
                if stamp != stamp_of(self._path):
                    continue
                is_good, read = await self._read(tell), stamp
            elif is_good:
                tell.confirmed()
            await asyncio.sleep(self._look_every_s)

    async def _read(self, tell: Tell) -> bool:
        """In a thread: PyYAML reads some 100 KiB/s, and the data plane shares this event loop."""
        try:
            backends = await asyncio.to_thread(load_backends, self._path)
        except ConfigError as error:
            tell.failed(str(error.problems[0]))
            return False
        tell.found(Discovered(backends))
        return True
