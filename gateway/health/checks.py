"""All that a gateway asks its backends, and the one place that tells the fleet what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from gateway.core.health import HealthEvent
from gateway.health.client import AskFailed, HealthClient
from gateway.health.engine_metrics import read_metrics
from gateway.health.prober import probe
from gateway.health.rounds import Do, Round, Rounds
from gateway.health.synthetic import SyntheticProber
from gateway.health.targets import Surroundings, Target

log = logging.getLogger(__name__)

# Of each kind: a hung backend holds its place for its whole timeout, so kinds do not wait for each other.
MAX_AT_ONCE = 100


class HealthChecks:
    """`follow` the targets of a configuration, and of each further one; `stop` in the end."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._client: HealthClient | None = None
        self._synthetic: SyntheticProber | None = None
        self._probes = self._rounds(self._probe)
        self._completions = self._rounds(self._complete)
        self._readings = self._rounds(self._read)
        self._targets: dict[str, Target] = {}
        self._trials: set[asyncio.Task[None]] = set()

    def _rounds(self, do: Do) -> Rounds:
        return Rounds(do, self._around.clock, self._around.draw, MAX_AT_ONCE)

    def _client_now(self) -> HealthClient:
        """Made when somebody is asked for the first time."""
        if self._client is None:
            self._client = HealthClient()
            self._synthetic = SyntheticProber(self._client, self._around)
        return self._client

    def prepare(self, targets: Iterable[Target]) -> None:
        """Loads what `follow` needs for these, which then can't fail. Needs the running loop.

        Raises OSError for certificates that can't be loaded.
        """
        for target in targets:
            if target.is_asked:
                self._client_now().context(target.endpoint)

    def follow(self, targets: Iterable[Target]) -> None:
        """Backends that have joined are asked from now on, those that have left no longer.

        Needs the running loop. Raises OSError for certificates that can't be loaded.
        """
        known = {target.backend_id: target for target in targets}
        self.prepare(known.values())
        self._targets = known
        if self._client is not None:
            self._client.forget_all_but([target.endpoint for target in known.values()])
        targets = [target for target in known.values() if target.is_asked]
        self._probes.follow(
            {t.backend_id: Round(t, t.health.interval_s) for t in targets if t.health is not None}
        )
        self._completions.follow(
            {
                t.backend_id: Round(t, t.health.synthetic.interval_s)
                for t in targets
                if t.health is not None and t.health.synthetic is not None
            }
        )
        self._readings.follow(
            {
                t.backend_id: Round(t, t.engine_metrics.interval_s)
                for t in targets
                if t.engine_metrics is not None
            }
        )

    async def stop(self) -> None:
        """Ends what is under way. Stopping twice is the same as once."""
        for rounds in (self._probes, self._completions, self._readings):
            await rounds.stop()
        for trial in self._trials:
            trial.cancel()
        await asyncio.gather(*self._trials, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def try_half_open(self, backend_id: str, generation: int) -> None:
        """The core's SendSyntheticProbe: one completion, if the fleet's one probe permit is to be had."""
        target = self._targets.get(backend_id)
        if target is None:
            return
        self._client_now().context(target.endpoint)
        assert self._synthetic is not None
        trial = asyncio.get_running_loop().create_task(self._synthetic.try_half_open(target, generation))
        self._trials.add(trial)
        trial.add_done_callback(self._trials.discard)

    async def _probe(self, target: Target) -> None:
        assert self._client is not None and target.health is not None
        self._tell(await probe(self._client, target, target.health))

    async def _complete(self, target: Target) -> None:
        assert self._synthetic is not None and target.health is not None
        assert target.health.synthetic is not None
        event = await self._synthetic.probe(target, target.health.synthetic)
        if event is not None:
            self._tell(event)

    async def _read(self, target: Target) -> None:
        """What fails here changes nothing: the last reading grows old by itself."""
        assert self._client is not None and target.engine_metrics is not None
        try:
            event = await read_metrics(self._client, target, target.engine_metrics, self._around.clock)
        except AskFailed as failed:
            log.debug("no engine metrics of %s: %s", target.backend_id, failed.reason)
            return
        if event is not None:
            self._tell(event)

    def _tell(self, event: HealthEvent) -> None:
        state = self._around.view.backends.get(event.backend_id)
        was_open = state is not None and state.health.is_open
        self._around.apply(event)
        if state is not None and state.health.is_open is not was_open:
            verb = "may get work again" if state.health.is_open else "gets no new work"
            log.warning("%s %s: %s", event.backend_id, verb, state.health)
