"""Follows the backends of every cluster that has `discovery`, and keeps what was found last.

A failure takes no backend away: what is known grows old, and says so. Who holds the configuration asks
`complete` for the one to be in force, and tells `follow` which one is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from gateway.config.discovered import Discovered, with_discovered
from gateway.config.refused_hosts import why_refused
from gateway.config.schema import BackendConfig, ClusterConfig, Config
from gateway.config.schema_discovery import MAX_BACKENDS, DiscoveryConfig
from gateway.discovery.source import Pace, Source, Surroundings
from gateway.ports import DiscoveryStatus

log = logging.getLogger(__name__)

# A rolling update of 200 pods is some 400 events: they become a few changes a second.
COALESCE_S = 0.1
# How long a start waits for first answers. An API server that is up answers in milliseconds.
FIRST_ANSWERS_S = 5.0
MAX_REFUSED_NOTES = 3

MakeSource = Callable[[DiscoveryConfig, Surroundings], Source]


class Settings(NamedTuple):
    """What a source was made of: while it stays the same, the source goes on."""

    discovery: DiscoveryConfig
    allowed: tuple[str, ...]


def make_source(discovery: DiscoveryConfig, around: Surroundings) -> Source:
    """Imported here, each where it is used: the idle gateway stays small."""
    if discovery.kubernetes is not None:
        from gateway.discovery.kubernetes import KubernetesSource

        return KubernetesSource(discovery.kubernetes, around)
    if discovery.dns is not None:
        from gateway.discovery.dns_records import DnsSource

        return DnsSource(discovery.dns, around)
    from gateway.discovery.backend_file import FileSource

    assert discovery.file is not None, "rules.py lets no other discovery pass"
    return FileSource(discovery.file)


@dataclass(slots=True)
class _Watch:
    """One cluster: what is known, since when, and what is wrong now."""

    cluster: str
    settings: Settings
    around: Surroundings
    on_change: Callable[[], None]
    known: Discovered | None = None
    confirmed_at_s: float | None = None
    errors: int = 0
    failure: str = ""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def found(self, found: Discovered) -> None:
        self.confirmed()
        self.answered.set()
        found = _cleared(found, self.settings.allowed)
        if found == self.known:
            return
        for note in found.notes if self.known is None else set(found.notes) - set(self.known.notes):
            log.warning("discovery of %s: %s", self.cluster, note)
        self._log_change(found)
        self.known = found
        self.on_change()

    def confirmed(self) -> None:
        if self.failure:
            log.info("discovery of %s works again", self.cluster)
            self.failure = ""
        self.confirmed_at_s = self.around.clock()

    def failed(self, reason: str) -> None:
        self.errors += 1
        if reason != self.failure:
            kept = len(self.known.backends) if self.known is not None else 0
            log.warning("discovery of %s fails, %d backends stay: %s", self.cluster, kept, reason)
        self.failure = reason

    def status(self) -> DiscoveryStatus:
        age_s = None if self.confirmed_at_s is None else self.around.clock() - self.confirmed_at_s
        notes = self.known.notes if self.known is not None else ()
        return DiscoveryStatus(self.cluster, age_s, self.errors, self.failure, notes)

    def _log_change(self, found: Discovered) -> None:
        before = {b.url for b in self.known.backends} if self.known is not None else set()
        now = {b.url for b in found.backends}
        log.info(
            "discovery of %s: %d backends (%d came, %d left)",
            *(self.cluster, len(now), len(now - before), len(before - now)),
        )


class Discovery:
    """`follow` the configuration in force, and each further one; `stop` in the end.

    `on_change` is called, on the event loop, a moment after something else was found.
    """

    def __init__(
        self, around: Surroundings, on_change: Callable[[], None], make: MakeSource = make_source
    ) -> None:
        self._around = around
        self._on_change = on_change
        self._make = make
        self._watches: dict[str, _Watch] = {}
        self._listed: dict[str, tuple[BackendConfig, ...]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def follow(self, config: Config) -> None:
        """From now on the clusters of this configuration. Sources with the same settings go on.

        Where a cluster's settings have changed, or it had listed backends, those stay until the first answer.
        """
        wanted = {
            cluster.name: _settings(cluster.discovery, config.allow_backends_in)
            for cluster in config.clusters
            if cluster.discovery is not None
        }
        before = self._watches
        self._watches = {
            name: before[name]
            if name in before and before[name].settings == settings
            else self._begin(name, settings, before.get(name))
            for name, settings in wanted.items()
        }
        for name, watch in before.items():
            if self._watches.get(name) is not watch:
                self._end(watch)
        self._listed = _listed(config.clusters)

    def complete(self, config: Config) -> Config:
        """What is to be in force for this configuration, with what is known now of its clusters."""
        known = {name: watch.known for name, watch in self._watches.items() if watch.known is not None}
        listed = {name: Discovered(backends) for name, backends in self._listed.items()}
        return with_discovered(config, listed | known)

    async def first_answers(self, within_s: float | None = None) -> None:
        """Waits until every cluster has had one, but no longer than that (None: FIRST_ANSWERS_S)."""
        waiting = [asyncio.ensure_future(watch.answered.wait()) for watch in self._watches.values()]
        if not waiting:
            return
        try:
            await asyncio.wait(waiting, timeout=FIRST_ANSWERS_S if within_s is None else within_s)
        finally:
            for wait in waiting:
                wait.cancel()

    def statuses(self) -> tuple[DiscoveryStatus, ...]:
        return tuple(watch.status() for watch in self._watches.values())

    def detail(self) -> dict[str, object]:
        """For the readiness page: what is not as it should be, by cluster; empty when all is well."""
        troubles = {status.cluster: trouble for status in self.statuses() if (trouble := _trouble(status))}
        return {"discovery": troubles} if troubles else {}

    async def stop(self) -> None:
        """Ends what is under way. Stopping twice is the same as once."""
        for watch in self._watches.values():
            self._end(watch)
        self._watches = {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _begin(self, name: str, settings: Settings, before: _Watch | None) -> _Watch:
        watch = _Watch(name, settings, self._around, self._changed)
        if before is not None:
            watch.known, watch.confirmed_at_s, watch.errors = (
                before.known,
                before.confirmed_at_s,
                before.errors,
            )
        elif name in self._listed:
            watch.known = Discovered(self._listed[name])
        source = self._make(settings.discovery, self._around)
        watch.task = asyncio.get_running_loop().create_task(self._run(watch, source))
        return watch

    def _end(self, watch: _Watch) -> None:
        task = watch.task
        if task is not None and not task.done():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()

    async def _run(self, watch: _Watch, source: Source) -> None:
        """A source tells its failures. One that raises is a defect, which takes no backend away either."""
        pace = Pace(self._around.draw)
        while True:
            try:
                await source.follow(watch)
            except Exception as exc:
                log.exception("discovery of %s has a defect", watch.cluster)
                watch.failed(f"a defect: {type(exc).__name__}")
            await asyncio.sleep(pace.next_pause_s())

    def _changed(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COALESCE_S, self._tell_change)

    def _tell_change(self) -> None:
        self._timer = None
        self._on_change()


def _settings(discovery: DiscoveryConfig, allowed: tuple[str, ...]) -> Settings:
    # What is expected is no business of a source, and in the configuration in force it is what was found.
    return Settings(msgspec.structs.replace(discovery, expected=None), allowed)


def _listed(clusters: Iterable[ClusterConfig]) -> dict[str, tuple[BackendConfig, ...]]:
    return {cluster.name: cluster.backends for cluster in clusters if cluster.discovery is None}


def _cleared(found: Discovered, allowed: tuple[str, ...]) -> Discovered:
    """In order, each place once, without those where no backend may be."""
    places: dict[tuple[str, str], BackendConfig] = {}
    refused: list[str] = []
    for backend in sorted(found.backends, key=lambda b: (b.url.host, b.url.port, b.url.prefix)):
        if (reason := why_refused(backend.url.host, allowed)) is not None:
            refused.append(f"{backend.url.host} is refused: {reason}")
        elif len(places) < MAX_BACKENDS:
            places.setdefault((backend.url.authority, backend.url.prefix), backend)
    left_out = len(found.backends) - len(refused) - len(places)
    notes = (*found.notes, *refused[:MAX_REFUSED_NOTES])
    if left_out > 0 and len(places) == MAX_BACKENDS:
        notes += (f"only {MAX_BACKENDS} backends are used",)
    return Discovered(tuple(places.values()), found.expected, found.server_name, notes)


def _trouble(status: DiscoveryStatus) -> str:
    parts = list(status.notes)
    if status.age_s is None:
        parts.insert(0, f"no answer yet: {status.failure}" if status.failure else "no answer yet")
    elif status.failure:
        parts.insert(0, f"failing, known {status.age_s:.0f} s ago: {status.failure}")
    return "; ".join(parts)
