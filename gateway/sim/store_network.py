"""The store under several simulated gateways, how far it is, and who cannot reach it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from gateway.sim.scenario import OutageConfig, StoreConfig
from gateway.sim.script_host import ScriptHost
from gateway.sim.timeline import Timeline
from gateway.state.shared import LinkFailed


class StoreNetwork:
    """One store and a link for each gateway."""

    def __init__(self, config: StoreConfig, gateways: int, timeline: Timeline) -> None:
        """Raises NoLua."""
        self.timeline = timeline
        self.there_s = config.rtt_s / 2
        self.exchanges = 0
        self._host = ScriptHost()
        self.links = [SimLink(self) for _ in range(gateways)]
        for outage in config.outages:
            self._schedule(outage)

    def _schedule(self, outage: OutageConfig) -> None:
        hit = [self.links[at - 1] for at in outage.gateways] if outage.gateways else self.links
        if outage.for_s:
            for link in hit:
                self.timeline.at(outage.at_s, link.cut)
                self.timeline.at(outage.at_s + outage.for_s, link.mend)
        if outage.forgets:
            self.timeline.at(outage.at_s + outage.for_s, self._host.flush)

    def run(self, keys: Sequence[str], payload: bytes) -> bytes:
        """The script, at the store; what it publishes is on its way to all."""
        self.exchanges += 1
        now_s = self.timeline.now_s
        answer, published = self._host.run(keys, payload, now_s)
        for message in published:
            for link in self.links:
                self.timeline.at(now_s + self.there_s, link.hear, message)
        return answer


class SimLink:
    """The Link of one gateway. Cut, it carries nothing, and nothing says so: as a network that is silent."""

    def __init__(self, network: StoreNetwork) -> None:
        self._network = network
        self._cuts = 0
        self._inbox: asyncio.Queue[bytes | None] | None = None

    async def exchange(self, keys: Sequence[str], payload: bytes, deadline_s: float) -> bytes:
        """Raises LinkFailed; then it may have been run, or not."""
        network = self._network
        due_s = network.timeline.now_s + deadline_s
        if 2 * network.there_s <= deadline_s:
            await asyncio.sleep(network.there_s)
            if not self._cuts:
                answer = network.run(keys, payload)
                await asyncio.sleep(network.there_s)
                if not self._cuts:
                    return answer
        await asyncio.sleep(max(due_s - network.timeline.now_s, 0.0))
        raise LinkFailed("no answer in time", is_timeout=True)

    async def news(self) -> AsyncGenerator[bytes, None]:
        """What is published, as long as the connection lasts. Raises LinkFailed."""
        if self._cuts:
            raise LinkFailed("no connection")
        self._inbox = inbox = asyncio.Queue[bytes | None]()
        while (message := await inbox.get()) is not None:
            yield message
        raise LinkFailed("the connection is gone")

    async def close(self) -> None:
        pass

    def hear(self, message: bytes) -> None:
        """From the store."""
        if self._inbox is not None and not self._cuts:
            self._inbox.put_nowait(message)

    def cut(self) -> None:
        self._cuts += 1
        if self._inbox is not None:
            self._inbox.put_nowait(None)
            self._inbox = None

    def mend(self) -> None:
        self._cuts -= 1
