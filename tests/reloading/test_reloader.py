"""The file's owner, with an `adopt` that only notes: the order of things, and what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gateway.config.loading import load_whole
from gateway.config.problems import ConfigError, Problem
from gateway.config.schema import Config
from gateway.ports import ReloadOutcome
from gateway.reloading.reloader import Reloader, ReloadPorts
from tests.proxy.dialogue import settled

ADOPTED, UNCHANGED, REFUSED = ReloadOutcome


class Place:
    """Where configurations are adopted, one at a time and slowly if `gate` is closed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "spillway.yaml"
        self.write(1)
        self.adopted: list[int] = []
        self.generations: list[int] = []
        self.failure: Exception | None = None
        self.behind: tuple[str, ...] = ()
        self.added = 0  # what `complete` adds to each limit
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.reloader = Reloader(
            load_whole(self.file, {}),
            ReloadPorts(self.adopt, lambda: 1e9, self.complete, lambda: self.behind),
        )

    def write(self, limit: int) -> None:
        self.file.write_text(f"clusters: [{{name: a, limit: {limit}, backends: ['http://b']}}]")

    def complete(self, config: Config) -> Config:
        (cluster,) = config.clusters
        assert cluster.limit is not None
        more = msgspec.structs.replace(cluster, limit=cluster.limit + self.added)
        return msgspec.structs.replace(config, clusters=(more,))

    async def adopt(self, config: Config, generation: int) -> None:
        self.at_once += 1
        assert self.at_once == 1, "two at a time"
        try:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.at_once -= 1
        assert config.clusters[0].limit is not None
        self.adopted.append(config.clusters[0].limit)
        self.generations.append(generation)


@pytest.fixture
async def place(tmp_path: Path):
    place = Place(tmp_path)
    yield place
    await place.reloader.stop()


async def until(condition: Callable[[], bool]) -> None:
    assert await settled(condition, 5.0)


async def test_a_reading_adopts_what_has_changed_and_nothing_else(place):
    assert (await place.reloader.reload())[0] is UNCHANGED
    place.write(2)
    outcome, status = await place.reloader.reload()
    assert (outcome, status.generation, status.adopted_s) == (ADOPTED, 2, 1e9)
    assert (await place.reloader.reload())[0] is UNCHANGED
    assert (place.adopted, place.generations) == ([2], [2])
    assert place.reloader.status.counts == {UNCHANGED: 2, ADOPTED: 1}


async def test_who_asks_while_one_is_under_way_gets_the_next_one_together(place):
    place.gate.clear()
    place.write(2)
    first = asyncio.ensure_future(place.reloader.reload())
    await until(lambda: place.at_once == 1)
    place.write(3)
    others = [asyncio.ensure_future(place.reloader.reload()) for _ in range(20)]
    await asyncio.sleep(0)
    place.write(4)
    place.gate.set()
    assert (await first)[1].generation == 2
    assert {status.generation for _, status in await asyncio.gather(*others)} == {3}
    assert place.adopted == [2, 4], "the newest of all, and no other on the way"


async def test_who_asks_and_goes_away_leaves_the_reading_to_the_others(place):
    place.gate.clear()
    place.write(2)
    gone = asyncio.ensure_future(place.reloader.reload())
    stays = asyncio.ensure_future(place.reloader.reload())
    await until(lambda: place.at_once == 1)
    gone.cancel()
    place.gate.set()
    assert (await stays)[0] is ADOPTED


@pytest.mark.parametrize(
    "failure", [OSError("no such certificate"), ConfigError([Problem("", 0, "x", "bad")])]
)
async def test_what_cannot_be_adopted_is_refused_and_tried_again(place, failure):
    place.failure = failure
    place.write(2)
    outcome, status = await place.reloader.reload()
    assert (outcome, status.refused, status.refused_s) == (REFUSED, (str(failure),), 1e9)
    assert not status.is_newest and place.reloader.effective.clusters[0].limit == 1
    place.failure = None
    outcome, status = await place.reloader.reload()
    assert (outcome, status.generation, status.refused, status.is_newest) == (ADOPTED, 2, (), True)


async def test_what_is_added_to_the_file_is_adopted_without_a_new_generation(place):
    place.added = 10
    await place.reloader.refresh()
    await place.reloader.refresh()
    assert (place.adopted, place.generations) == ([11], [1])
    place.write(2)
    await place.reloader.reload()
    assert (place.adopted, place.reloader.status.generation) == ([11, 12], 2)
    assert place.reloader.effective.clusters[0].limit == 12


async def test_who_is_behind_is_told_again_though_nothing_has_changed(place):
    place.behind = ("worker 2 does not answer",)
    outcome, status = await place.reloader.reload()
    assert (outcome, status.behind, status.is_newest) == (UNCHANGED, place.behind, False)
    assert place.adopted == [1]


async def test_a_file_with_a_mistake_is_watched_on_and_so_is_what_the_good_one_names(place, monkeypatch):
    monkeypatch.setattr("gateway.reloading.reloader.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("gateway.reloading.reloader.SETTLE_S", 0.005)
    reloader, key = place.reloader, place.file.parent / "key"
    key.write_text("one")
    place.file.write_text(place.file.read_text().replace("limit: 1", "limit: 5, auth: {value_file: key}"))
    assert (await reloader.reload())[0] is ADOPTED
    reloader.start()
    place.file.write_text("clusters: [")
    await until(lambda: reloader.status.refused != ())
    refused = reloader.status.counts[REFUSED]
    await asyncio.sleep(0.1)
    assert reloader.status.counts[REFUSED] == refused == 1, "read again though it has not changed"
    key.write_text("two")
    await until(lambda: reloader.status.counts[REFUSED] == 2)
    await asyncio.sleep(0.1)
    assert reloader.status.counts[REFUSED] == 2, "the mistake hides the key, which is known all the same"
    place.write(7)
    await until(lambda: place.adopted == [5, 7])
    assert reloader.status.refused == ()


async def test_the_end_leaves_nothing_under_way(place):
    place.reloader.start()
    place.gate.clear()
    place.write(2)
    asking = asyncio.ensure_future(place.reloader.reload())
    place.reloader.reload_soon()
    await until(lambda: place.at_once == 1)
    await place.reloader.stop()
    await place.reloader.stop()
    assert place.at_once == 0 and not place.reloader._tasks
    with pytest.raises(asyncio.CancelledError):
        await asking
    place.reloader.reload_soon()
    await place.reloader.reload()
    assert place.adopted == []
