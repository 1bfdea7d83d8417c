"""What keeps a configuration true while a process serves: its file, and the backends that are found.

The reloader and discovery each do their part; here they meet. Without a file (a worker's parent tells it
everything) there is no reloader and nothing is looked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import getrandbits

from gateway.admin.ports import Reload
from gateway.admin.reload import config_page
from gateway.config.loading import Loaded
from gateway.config.schema import Config
from gateway.discovery.discovery import Discovery
from gateway.discovery.source import Surroundings
from gateway.ports import Clock, ConfigStatus, DiscoveryStatus
from gateway.reloading.reloader import Reloader, ReloadPorts

# Puts a configuration of this generation in force, or raises ConfigError or OSError and has changed nothing.
Adopt = Callable[[Config, int], Awaitable[None]]


def _nobody() -> tuple[str, ...]:
    return ()


class LiveConfig:
    """`find_backends`, then `start`; `reload_soon` whenever somebody asks; `stop` in the end."""

    def __init__(
        self,
        file: Loaded | None,
        adopt: Adopt,
        clock: Clock,
        wall_clock: Clock,
        behind: Callable[[], tuple[str, ...]] = _nobody,
    ) -> None:
        """`behind` names who does not follow what is in force, and why; `wall_clock` is for people."""
        self._adopt_there = adopt
        self._discovery = Discovery(Surroundings(clock, partial(getrandbits, 64)), self._on_found)
        self._reloader: Reloader | None = None
        if file is not None:
            ports = ReloadPorts(self._adopt, wall_clock, self._discovery.complete, behind)
            self._reloader = Reloader(file, ports)

    @property
    def reload(self) -> Reload | None:
        """None where there is nothing to read again."""
        return self._reloader.reload if self._reloader is not None else None

    def reload_soon(self) -> None:
        if self._reloader is not None:
            self._reloader.reload_soon()

    async def find_backends(self, config: Config) -> None:
        """Waits a moment for the first answers of discovery, and adopts what they tell."""
        if self._reloader is not None:
            self._discovery.follow(config)
            await self._discovery.first_answers()
            await self._reloader.refresh()

    def start(self) -> None:
        """Looks at the file from now on."""
        if self._reloader is not None:
            self._reloader.start()

    async def stop(self) -> None:
        """Ends what is under way. Stopping twice is the same as once."""
        await self._discovery.stop()
        if self._reloader is not None:
            await self._reloader.stop()

    def status(self, generation: int = 1) -> ConfigStatus:
        """`generation` is that in force where somebody else reads the file."""
        return self._reloader.status if self._reloader is not None else ConfigStatus(generation)

    def found(self) -> tuple[DiscoveryStatus, ...]:
        """How discovery stands, by cluster."""
        return self._discovery.statuses()

    def detail(self, status: ConfigStatus) -> dict[str, object]:
        """For the readiness page."""
        return {"config": config_page(status)} | self._discovery.detail()

    async def _adopt(self, config: Config, generation: int) -> None:
        await self._adopt_there(config, generation)
        self._discovery.follow(config)

    def _on_found(self) -> None:
        if self._reloader is not None:
            self._reloader.refresh_soon()
