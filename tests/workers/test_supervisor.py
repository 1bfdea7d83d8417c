"""What the parent hands to its workers, without starting any."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.config.loading import parse
from gateway.config.schema import Config
from gateway.core.fleet import FOREVER_S, Drained, Undrained
from gateway.processes.restarts import StartFailed
from gateway.processes.worker_place import WorkerPlace
from gateway.workers import supervisor as supervisor_module
from gateway.workers.process import WorkerProcess
from gateway.workers.supervisor import Supervisor

TEXT = """
listen: 127.0.0.1:0
admin: {listen: '127.0.0.1:0'}
workers: 2
clusters:
- {name: here, limit: 8, backends: ['http://127.0.0.1:9']}
- {name: there, tier: backup, limit: 8, backends: ['http://127.0.0.1:9']}
"""
Letter = tuple[Config, WorkerPlace]
Letters = Callable[..., Awaitable[dict[int, Letter]]]


@pytest.fixture
async def letters(monkeypatch: pytest.MonkeyPatch, server_program: str) -> AsyncIterator[Letters]:
    """Starts a supervisor whose workers end before they begin; the letter of each, by its number."""
    made: list[Supervisor] = []

    async def of(text: str, before: Callable[[Supervisor], None] = lambda _: None) -> dict[int, Letter]:
        sent: dict[int, Letter] = {}

        async def start(config: Config, place: WorkerPlace) -> WorkerProcess:
            sent[place.number] = (config, place)
            raise StartFailed("is not wanted")

        monkeypatch.setattr(WorkerProcess, "start", start)
        monkeypatch.setattr(supervisor_module, "find_server", lambda: server_program)
        supervisor = Supervisor(parse(text, "g.yaml", ".", {}))
        made.append(supervisor)
        before(supervisor)
        with pytest.raises(StartFailed, match="worker 1 is not wanted"):
            await supervisor.start()
        return sent

    yield of
    for supervisor in made:
        await supervisor.stop()


async def test_all_get_the_private_redis_and_one_port_and_a_socket_of_their_own(letters: Letters) -> None:
    sent = await letters(TEXT + "state: {fleet: prod}\n")
    assert set(sent) == {1, 2}
    (one, at_one), (two, at_two) = sent[1], sent[2]
    assert one == two
    assert one.state.url is not None
    assert one.state.url.reveal() == f"unix://{Path(at_one.admin_socket).parent}/redis.sock"
    assert one.state.fleet == "prod"
    assert (one.listen.host, one.listen.port > 0) == ("127.0.0.1", True)
    assert at_one.admin_socket != at_two.admin_socket


async def test_a_redis_that_is_named_stays_named(letters: Letters) -> None:
    for config, _ in (await letters(TEXT + "state: {url: 'redis://:s3cret@127.0.0.1:1/2'}\n")).values():
        assert config.state.url is not None
        assert config.state.url.reveal() == "redis://:s3cret@127.0.0.1:1/2"


async def test_a_worker_is_born_with_the_drains_in_force(letters: Letters) -> None:
    def drain(supervisor: Supervisor) -> None:
        for event in (
            Drained("here"),
            Drained("there", 0.001),
            Drained("there@127.0.0.1:9"),
            Undrained("here"),
        ):
            supervisor._apply(event)

    for _, place in (await letters(TEXT, drain)).values():
        assert place.drains == {"there@127.0.0.1:9": FOREVER_S}


async def test_elsewhere_than_on_linux_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module.sys, "platform", "darwin")
    with pytest.raises(StartFailed, match="needs Linux"):
        await supervisor_module.run(parse(TEXT, "g.yaml", ".", {}), lambda _: None)
