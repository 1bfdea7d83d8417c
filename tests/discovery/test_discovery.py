"""Discovery as a whole: what is kept, what is told, and when, with sources that say what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Never

import pytest

from gateway.config import Config, parse
from gateway.config.addresses import parse_backend_url
from gateway.config.discovered import Discovered
from gateway.config.fleet import clusters_of, endpoints_of
from gateway.config.schema import BackendConfig
from gateway.config.schema_discovery import MAX_BACKENDS, DiscoveryConfig
from gateway.discovery.discovery import Discovery
from gateway.discovery.source import Surroundings, Tell
from tests.discovery.telling import until


def config_of(*clusters: str, more: str = "") -> Config:
    return parse("\n".join([more, "clusters:", *clusters]), "g.yaml", ".", {})


def found_by_dns(cluster: str, name: str = "vllm.internal", more: str = "", limit: int = 8) -> str:
    how = f"discovery: {{dns: {{name: {name}, port: 80}}{more}}}"
    return f"- {{name: {cluster}, limit: {limit}, {how}}}"


def backends_at(*urls: str) -> tuple[BackendConfig, ...]:
    listed = ", ".join(f"'{url}'" for url in urls)
    return config_of(f"- {{name: x, limit: 1, backends: [{listed}]}}").clusters[0].backends


class Scripted:
    """A source in the hands of the test."""

    def __init__(self, discovery: DiscoveryConfig) -> None:
        self.discovery = discovery
        self.tell: Tell
        self.is_ended = False
        self.lives = 0
        self.defect: asyncio.Future[Never] = asyncio.get_running_loop().create_future()

    async def follow(self, tell: Tell) -> Never:
        self.tell = tell
        self.lives += 1
        try:
            await asyncio.shield(self.defect)
        finally:
            self.is_ended = True

    def finds(self, *urls: str, expected: int | None = None, server_name: str | None = None) -> None:
        self.tell.found(Discovered(backends_at(*urls) if urls else (), expected, server_name))


class World:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.changes = 0
        self.sources: list[Scripted] = []
        self.discovery = Discovery(Surroundings(lambda: self.now_s, lambda: 0), self._changed, self._make)

    def _changed(self) -> None:
        self.changes += 1

    def _make(self, discovery: DiscoveryConfig, around: Surroundings) -> Scripted:
        self.sources.append(Scripted(discovery))
        return self.sources[-1]

    async def follow(self, config: Config) -> None:
        self.discovery.follow(config)
        await asyncio.sleep(0)

    def urls(self, config: Config) -> dict[str, list[str]]:
        done = self.discovery.complete(config)
        return {cluster.name: [str(b.url) for b in cluster.backends] for cluster in done.clusters}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.discovery.stop()
    assert all(source.is_ended for source in made.sources)


async def test_what_is_found_is_as_if_it_had_been_listed(world: World) -> None:
    config = config_of(found_by_dns("a"), "- {name: b, limit: 1, backends: ['http://b']}")
    await world.follow(config)
    assert world.urls(config) == {"a": [], "b": ["http://b"]}
    world.sources[0].finds("http://10.0.0.2", "http://10.0.0.1:81", expected=4)
    done = world.discovery.complete(config)
    assert world.urls(config)["a"] == ["http://10.0.0.1:81", "http://10.0.0.2"]
    assert set(endpoints_of(done)) == {"a@10.0.0.1:81", "a@10.0.0.2:80", "b@b:80"}
    first, second = clusters_of(done)
    assert (first.expected_limit, first.expected_backends) == (32, 4)
    assert (second.expected_limit, second.expected_backends) == (None, None)
    world.sources[0].finds()
    assert world.urls(config)["a"] == [], "an empty answer is an answer"


@pytest.mark.parametrize(("told", "expected"), [(None, 10), (4, 10), (12, 12)])
async def test_expected_is_the_most_that_anybody_knows_of(world: World, told: int, expected: int) -> None:
    config = config_of(found_by_dns("a", more=", expected: 10"))
    await world.follow(config)
    world.sources[0].finds("http://10.0.0.1", expected=told)
    (cluster,) = clusters_of(world.discovery.complete(config))
    assert (cluster.expected_limit, cluster.expected_backends) == (8 * expected, expected)


async def test_a_server_name_is_taken_over_unless_the_configuration_has_one(world: World) -> None:
    how = "tls: {server_name: mine}, discovery: {dns: {name: x, port: 1, scheme: https}}"
    given = f"- {{name: b, limit: 1, {how}}}"
    config = config_of(found_by_dns("a"), given)
    await world.follow(config)
    for source in world.sources:
        source.finds("https://10.0.0.1", server_name="theirs")
    endpoints = endpoints_of(world.discovery.complete(config)).values()
    names = {e.backend_id: e.tls and e.tls.server_name for e in endpoints}
    assert names == {"a@10.0.0.1:443": "theirs", "b@10.0.0.1:443": "mine"}


async def test_a_failure_takes_nothing_away_and_shows(world: World) -> None:
    config = config_of(found_by_dns("a"))
    await world.follow(config)
    (source,) = world.sources
    assert world.discovery.detail() == {"discovery": {"a": "no answer yet"}}
    source.tell.failed("no route")
    assert world.discovery.detail() == {"discovery": {"a": "no answer yet: no route"}}
    source.finds("http://10.0.0.1")
    assert world.discovery.detail() == {}
    world.now_s += 60
    source.tell.failed("no route")
    assert world.urls(config) == {"a": ["http://10.0.0.1"]}
    assert world.discovery.detail() == {"discovery": {"a": "failing, known 60 s ago: no route"}}
    (status,) = world.discovery.statuses()
    assert (status.age_s, status.errors) == (60, 2)
    source.tell.confirmed()
    assert (world.discovery.detail(), world.discovery.statuses()[0].age_s) == ({}, 0)


async def test_a_crowd_of_changes_is_told_once(world: World) -> None:
    config = config_of(found_by_dns("a"), found_by_dns("b", name="other"))
    await world.follow(config)
    for number in range(1, 50):
        for source in world.sources:
            source.finds(*(f"http://10.0.0.{n}" for n in range(1, number + 1)))
    assert world.changes == 0
    await until(lambda: world.changes == 1)
    world.sources[0].finds(*(f"http://10.0.0.{n}" for n in range(49, 0, -1)))
    await asyncio.sleep(0.15)
    assert world.changes == 1, "the same in another order is no change"


async def test_sources_whose_settings_stay_go_on(world: World) -> None:
    await world.follow(config_of(found_by_dns("a"), found_by_dns("b", name="old")))
    kept, replaced = world.sources
    kept.finds("http://10.0.0.1")
    replaced.finds("http://10.0.0.2")
    config = config_of(found_by_dns("a", limit=9), found_by_dns("b", name="new"), more="drain_timeout: 1s")
    await world.follow(world.discovery.complete(config))
    await until(lambda: replaced.is_ended)
    assert (kept.is_ended, len(world.sources)) == (False, 3)
    assert world.urls(config) == {"a": ["http://10.0.0.1"], "b": ["http://10.0.0.2"]}, "until an answer comes"
    world.sources[2].finds("http://10.0.0.3")
    assert world.urls(config)["b"] == ["http://10.0.0.3"]
    await world.follow(config_of(found_by_dns("b", name="new")))
    await until(lambda: kept.is_ended)
    await world.follow(config_of(found_by_dns("b", name="new", more=", expected: 3")))
    assert len(world.sources) == 3, "what is expected is no business of the source"


async def test_listed_backends_stay_until_discovery_has_an_answer(world: World) -> None:
    await world.follow(config_of("- {name: a, limit: 1, backends: ['http://10.0.0.1']}"))
    config = config_of(found_by_dns("a"))
    assert world.urls(config) == {"a": ["http://10.0.0.1"]}
    await world.follow(world.discovery.complete(config))
    assert world.urls(config) == {"a": ["http://10.0.0.1"]}
    world.sources[0].finds("http://10.0.0.2")
    assert world.urls(config) == {"a": ["http://10.0.0.2"]}


async def test_first_answers_are_waited_for_and_not_for_ever(world: World) -> None:
    await world.discovery.first_answers(60)  # nobody to wait for
    await world.follow(config_of(found_by_dns("a"), found_by_dns("b", name="other")))
    world.sources[0].finds("http://10.0.0.1")
    await world.discovery.first_answers(0.05)
    waiting = asyncio.ensure_future(world.discovery.first_answers(60))
    await asyncio.sleep(0)
    world.sources[1].finds()
    await asyncio.wait_for(waiting, 1)


async def test_where_no_backend_may_be_none_is(world: World) -> None:
    bad = ("169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "0.0.0.0", "224.0.0.1", "[::ffff:169.254.0.1]")
    config = config_of(found_by_dns("a"), more="allow_backends_in: [224.0.0.0/24]")
    await world.follow(config)
    addresses = [BackendConfig(url=b.url) for b in _unchecked(*bad, "10.0.0.1")]
    world.sources[0].tell.found(Discovered(tuple(addresses)))
    assert world.urls(config) == {"a": ["http://10.0.0.1", "http://224.0.0.1"]}
    assert "169.254.169.254 is refused: a link-local address" in str(world.discovery.detail())


async def test_a_flood_is_cut(world: World) -> None:
    config = config_of(found_by_dns("a"))
    await world.follow(config)
    hosts = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(MAX_BACKENDS + 5))
    world.sources[0].tell.found(Discovered(tuple(_unchecked(*hosts))))
    assert len(world.urls(config)["a"]) == MAX_BACKENDS
    assert "only 10000 backends are used" in str(world.discovery.detail())


async def test_a_source_with_a_defect_begins_anew(world: World) -> None:
    config = config_of(found_by_dns("a"))
    await world.follow(config)
    (source,) = world.sources
    source.finds("http://10.0.0.1")
    broken, source.defect = source.defect, asyncio.get_running_loop().create_future()
    broken.set_exception(RuntimeError("a defect"))
    await until(lambda: source.lives == 2)
    assert world.urls(config) == {"a": ["http://10.0.0.1"]}
    assert "a defect: RuntimeError" in str(world.discovery.detail())
    source.is_ended = False


def _unchecked(*hosts: str) -> list[BackendConfig]:
    return [BackendConfig(url=parse_backend_url(f"http://{host}")) for host in hosts]
