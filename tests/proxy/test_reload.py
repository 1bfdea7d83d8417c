"""A gateway that works by a file, and the file changes: with real sockets, under load."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientSession

from gateway.app import Gateway
from gateway.config.loading import load_whole
from gateway.core.breaker import Circuit
from gateway.core.fleet import FOREVER_S, Drained
from gateway.reloading import reloader as reloader_module
from tests.proxy.conftest import _OWN_LINES, Running, one_per_tier
from tests.proxy.dialogue import LAST_CHUNK, ScriptedBackend, chunk, event_stream, post, settled
from tests.proxy.telling import trip


class Filed(Running):
    """A gateway with a file, and its admin port."""

    def __init__(self, gateway: Gateway, file: Path) -> None:
        super().__init__(gateway, post())
        self.file = file

    def write(self, *parts: str | ScriptedBackend) -> None:
        self.file.write_text(text_of(*parts))

    async def admin(self, method: str, path: str, **headers: str) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.gateway.admin_port}{path}"
        async with ClientSession() as session, session.request(method, url, headers=headers) as answer:
            return answer.status, await answer.json()

    async def reload(self) -> tuple[int, Any]:
        return await self.admin("POST", "/api/v1/reload")

    async def config(self) -> Any:
        return (await self.admin("GET", "/readyz"))[1]["config"]

    async def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self.gateway.admin_port}/metrics"
        async with ClientSession() as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines)
            if name[:1] != "#"
        }


def text_of(*parts: str | ScriptedBackend) -> str:
    text = "\n".join(textwrap.dedent(part) for part in parts if isinstance(part, str))
    fleet = [part for part in parts if isinstance(part, ScriptedBackend)]
    return _OWN_LINES + text + ("\n" + one_per_tier(*fleet) if fleet else "")


Start = Callable[..., Awaitable[Filed]]


@pytest.fixture
async def start(tmp_path: Path, backends: list[ScriptedBackend]) -> AsyncIterator[Start]:
    started: list[Filed] = []

    async def begin(*parts: str | ScriptedBackend) -> Filed:
        file = tmp_path / "spillway.yaml"
        file.write_text(text_of(*parts))
        loaded = load_whole(file, {})
        running = Filed(Gateway(loaded.config, file=loaded), file)
        await running.gateway.start()
        started.append(running)
        return running

    yield begin
    try:
        for running in started:
            await running.check_clean()
    finally:
        for running in started:
            await running.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at all the time."""
    monkeypatch.setattr(reloader_module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(reloader_module, "SETTLE_S", 0.01)


def id_of(backend: ScriptedBackend, cluster: str = "primary") -> str:
    return f"{cluster}@127.0.0.1:{backend.port}"


def pair_of(*backends: ScriptedBackend) -> str:
    """All in one cluster."""
    urls = ", ".join(f"'{backend.url}'" for backend in backends)
    return f"clusters: [{{name: primary, limit: 8, backends: [{urls}]}}]"


# --- what is swapped ------------------------------------------------------------------------------------


async def test_a_new_file_is_in_force_after_one_call(start, start_backend):
    old, new = await start_backend(), await start_backend()
    gateway = await start(old)
    assert (await gateway.reload())[1] == {"outcome": "unchanged", "generation": 1}
    gateway.write(new)
    status, page = await gateway.reload()
    assert (status, page["outcome"], page["generation"]) == (200, "adopted", 2)
    assert (await gateway.ask(post())).status == 200
    assert (len(old.requests), len(new.requests)) == (0, 1)
    assert not gateway.plane.pools[id_of(new)]._is_retired


async def test_backends_come_and_go_under_load_and_no_request_fails(start, start_backend):
    stays, comes = await start_backend(), await start_backend()
    gateway = await start(pair_of(stays, comes))
    is_over = False
    statuses: list[int] = []

    async def ask_on() -> None:
        client = await gateway.connect()
        while not is_over:
            await client.send(post())
            statuses.append((await client.answer()).status)

    asking = [asyncio.ensure_future(ask_on()) for _ in range(4)]
    for count in range(20):
        gateway.write(pair_of(stays) if count % 2 == 0 else pair_of(stays, comes))
        assert (await gateway.reload())[0] == 200
    is_over = True
    await asyncio.gather(*asking)
    assert set(statuses) == {200} and len(statuses) > 100
    assert comes.requests and stays.requests
    assert (await gateway.config())["generation"] == 21


async def test_a_stream_on_a_backend_that_leaves_ends_whole_and_then_its_connection(start, start_backend):
    leaves, stays = await start_backend(), await start_backend()
    gateway = await start(leaves)
    leaves.will(event_stream(), chunk(b"data: 1\n\n"), 0.2, chunk(b"data: [DONE]\n\n"), LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post(b'{"model":"m","stream":true}'))
    await client.head()
    gateway.write(stays)
    assert (await gateway.reload())[0] == 200
    assert id_of(leaves) not in gateway.plane.view.backends
    assert (await gateway.ask(post())).status == 200 and len(stays.requests) == 1
    assert [await client.chunk() for _ in range(3)] == [b"data: 1\n\n", b"data: [DONE]\n\n", b""]
    assert await settled(lambda: not leaves.open_connections), "kept idle, though nobody will use it again"
    assert gateway.records[-1].outcome.verdict.value == "success"


async def test_a_kept_backend_keeps_all_that_is_known_of_it(start, start_backend):
    busy, broken, drained, new = [await start_backend() for _ in range(4)]
    gateway = await start(pair_of(busy, broken, drained))
    view = gateway.plane.view
    trip(gateway, id_of(broken))
    gateway.gateway.apply(Drained(id_of(drained)))
    done = asyncio.Event()
    busy.will(event_stream(), chunk(b"data: 1\n\n"), done, LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post())
    await client.head()
    before = {id_: view.backends[id_] for id_ in map(id_of, (busy, broken, drained))}
    gateway.write(pair_of(busy, broken, drained, new))
    await gateway.reload()
    assert {id_: view.backends[id_] for id_ in before} == before, "the very states, not new ones"
    assert view.backends[id_of(busy)].in_flight == 1
    assert view.backends[id_of(broken)].circuit is not Circuit.CLOSED
    assert view.backends[id_of(drained)].drained_until_s is not None
    assert view.backends[id_of(new)].circuit is Circuit.CLOSED
    done.set()
    assert (await client.chunk(), await client.chunk()) == (b"data: 1\n\n", b"")
    reused = len(busy.connections)
    assert (await gateway.ask(post())).status == 200
    assert len(busy.connections) == reused or new.requests, "its idle connection is still good"


async def test_a_backend_comes_back_while_work_from_before_still_runs_on_it(start, start_backend):
    leaves, stays = await start_backend(), await start_backend()
    gateway = await start(leaves)
    done = asyncio.Event()
    leaves.will(event_stream(), chunk(b"data: 1\n\n"), done, LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post())
    await client.head()
    for fleet in (stays, leaves):
        gateway.write(fleet)
        await gateway.reload()
    assert gateway.plane.view.backends[id_of(leaves)].in_flight == 1
    assert gateway.leases == 1
    done.set()
    assert (await client.chunk(), await client.chunk()) == (b"data: 1\n\n", b"")


async def test_a_request_keeps_the_settings_that_it_began_with(start, start_backend):
    backend = await start_backend()
    gateway = await start("timeouts: {stall: 10s}", backend)
    backend.will(event_stream(), chunk(b"data: 1\n\n"), 0.35, chunk(b"data: 2\n\n"), LAST_CHUNK)
    client = await gateway.connect()
    await client.send(post())
    await client.head()
    gateway.write("timeouts: {stall: 50ms}\nmax_body: 20", backend)
    await gateway.reload()
    assert [await client.chunk() for _ in range(3)] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert (await gateway.ask(post(b'{"model":"much longer than that"}'))).status == 413


async def test_a_path_that_is_taken_back_is_closed_on_open_connections_too(start, start_backend):
    backend = await start_backend()
    gateway = await start("paths: [/my/way]", backend)
    client = await gateway.connect()
    for _ in range(3):  # from the second on the head is known by heart
        await client.send(post(path="/my/way"))
        assert (await client.answer()).status == 200
    gateway.write(backend)
    await gateway.reload()
    await client.send(post(path="/my/way"))
    assert (await client.answer()).status == 404


async def test_a_drain_holds_for_a_backend_that_leaves_and_comes_back(start, start_backend):
    drained, stays = await start_backend(), await start_backend()
    gateway = await start(pair_of(drained, stays))
    name = id_of(drained)
    assert (await gateway.admin("POST", f"/api/v1/backends/{name}/drain"))[0] == 200
    for fleet in ([stays], [drained, stays]):
        gateway.write(pair_of(*fleet))
        await gateway.reload()
    for _ in range(8):
        assert (await gateway.ask(post())).status == 200
    assert not drained.requests
    assert (await gateway.admin("POST", f"/api/v1/backends/{name}/undrain"))[0] == 200
    for fleet in ([stays], [drained, stays]):
        gateway.write(pair_of(*fleet))
        await gateway.reload()
    assert gateway.plane.view.backends[name].drained_until_s is None


async def test_a_drain_told_by_the_fleet_holds_for_a_backend_that_comes_later(start, start_backend):
    late, early = await start_backend(), await start_backend()
    gateway = await start(pair_of(early))
    gateway.gateway._apply_heard(Drained(id_of(late)))
    gateway.write(pair_of(early, late))
    await gateway.reload()
    assert gateway.plane.view.backends[id_of(late)].drained_until_s == FOREVER_S


# --- what is refused ------------------------------------------------------------------------------------


async def test_a_bad_file_is_refused_and_the_old_one_serves_until_it_is_mended(start, start_backend):
    backend, other = await start_backend(), await start_backend()
    gateway = await start(backend)
    good = gateway.file.read_text()
    gateway.file.write_text(good + "\nlimt: 3\nmax_body: 0\n")
    status, page = await gateway.reload()
    line = good.count("\n") + 2
    assert (status, page["error"]["code"], page["error"]["type"]) == (
        422,
        "config_refused",
        "invalid_request_error",
    )
    first, second = page["error"]["message"].split("\n")
    assert first.startswith(f"{gateway.file}:{line}: limt: unknown key")
    assert second.startswith(f"{gateway.file}:{line + 1}: max_body: must be at least 1")
    shown = await gateway.config()
    assert (shown["generation"], shown["refused"]) == (1, [first, second])
    assert shown["refused_at"].endswith("Z")
    metrics = await gateway.metrics()
    assert metrics["spillway_config_last_reload_successful"] == 0
    assert metrics['spillway_config_reloads_total{outcome="refused"}'] == 1
    assert (await gateway.ask(post())).status == 200 and len(backend.requests) == 1
    gateway.write(other)
    assert (await gateway.reload())[0] == 200
    metrics = await gateway.metrics()
    assert metrics["spillway_config_last_reload_successful"] == 1
    assert metrics["spillway_config_generation"] == 2
    assert set(await gateway.config()) == {"generation", "adopted_at"}


async def test_taking_a_mistake_back_is_no_change_and_heals_too(start, start_backend):
    gateway = await start(await start_backend())
    good = gateway.file.read_text()
    gateway.file.write_text("clusters: [")
    assert (await gateway.reload())[0] == 422
    gateway.file.write_text(good)
    assert (await gateway.reload())[1] == {"outcome": "unchanged", "generation": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("listen: 127.0.0.1:0", "listen: 127.0.0.1:1"), "1: listen"),
        (("{listen: '127.0.0.1:0'}", "{listen: '127.0.0.1:1'}"), "2: admin.listen"),
        (("access_log: 'off'", "access_log: '-'"), "3: access_log"),
        (("access_log: 'off'", "access_log: 'off'\nworkers: 2"), "4: workers"),
        (("access_log: 'off'", "access_log: 'off'\nstate: {fleet: other}"), "4: state.fleet"),
    ],
)
async def test_what_needs_a_restart_is_refused_by_its_name_and_line(change, named, start, start_backend):
    backend, other = await start_backend(), await start_backend()
    gateway = await start(backend)
    gateway.file.write_text(text_of(other).replace(*change))
    status, page = await gateway.reload()
    assert status == 422
    assert page["error"]["message"] == (
        f"{gateway.file}:{named}: changes only with a restart; restart, or take the change back"
    )
    assert (await gateway.ask(post())).status == 200 and not other.requests, "not half of it either"


async def test_what_fails_while_it_is_adopted_changes_nothing(start, start_backend, tmp_path):
    backend, other = await start_backend(), await start_backend()
    gateway = await start(backend)
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca_file)
    gateway.write(
        "clusters:\n- {name: new, limit: 1, backends: ['https://127.0.0.1:1'], tls: {ca_file: ca.pem}}"
    )
    wanted = load_whole(gateway.file, {}).config
    ca_file.unlink()
    pools = gateway.plane.pools
    with pytest.raises(FileNotFoundError):
        gateway.gateway.adopt(wanted)
    assert gateway.plane.pools is pools and set(gateway.plane.view.clusters) == {"primary"}
    assert (await gateway.ask(post())).status == 200
    gateway.write(other)
    assert (await gateway.reload())[0] == 200


# --- who asks for it ------------------------------------------------------------------------------------


async def test_the_call_needs_the_token_and_a_new_token_holds_at_once(start, start_backend, tmp_path):
    backend = await start_backend()
    token = tmp_path / "token"
    token.write_text("first\n")
    own = "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0', token_file: token}\naccess_log: 'off'\n"
    file = tmp_path / "spillway.yaml"
    file.write_text(own + one_per_tier(backend))
    loaded = load_whole(file, {})
    gateway = Filed(Gateway(loaded.config, file=loaded), file)
    await gateway.gateway.start()
    try:
        assert (await gateway.reload())[0] == 401
        assert (await gateway.admin("POST", "/api/v1/reload", Authorization="Bearer first"))[0] == 200
        token.write_text("second\n")
        status, page = await gateway.admin("POST", "/api/v1/reload", Authorization="Bearer first")
        assert (status, page["outcome"]) == (200, "adopted")
        assert (await gateway.admin("POST", "/api/v1/reload", Authorization="Bearer first"))[0] == 401
        assert (await gateway.admin("POST", "/api/v1/reload", Authorization="Bearer second"))[0] == 200
    finally:
        await gateway.stop()


async def test_without_a_file_there_is_nothing_to_read_again(start_gateway, start_backend):
    gateway = await start_gateway(await start_backend())
    url = f"http://127.0.0.1:{gateway.gateway.admin_port}/api/v1/reload"
    async with ClientSession() as session, session.post(url) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (409, "no_config_file")


async def test_sighup_reads_the_file_again(start, start_backend):
    old, new = await start_backend(), await start_backend()
    gateway = await start("watch: false", old)
    gateway.gateway.heed_signals()
    gateway.write("watch: false", new)
    os.kill(os.getpid(), signal.SIGHUP)
    assert await settled(lambda: id_of(new) in gateway.plane.view.backends)


async def test_a_file_that_is_written_is_taken_over(quick, start, start_backend):
    backends = [await start_backend() for _ in range(3)]
    gateway = await start(backends[0])
    gateway.write(backends[1])
    assert await settled(lambda: id_of(backends[1]) in gateway.plane.view.backends)
    # As editors do it: a new file in the place of the old one, which is gone for a moment.
    text = text_of(backends[2])
    gateway.file.unlink()
    await asyncio.sleep(0.06)
    (gateway.file.parent / "new").write_text(text)
    (gateway.file.parent / "new").rename(gateway.file)
    assert await settled(lambda: id_of(backends[2]) in gateway.plane.view.backends)
    assert (await gateway.config())["generation"] == 3
    counts = gateway.gateway.config_status().counts
    assert counts == {"adopted": 2}, "neither refused while it was away, nor read again and again"


async def test_the_swap_of_a_config_map_is_seen(quick, start_backend, tmp_path):
    """kubelet puts a new directory beside the old one and turns `..data`, a symbolic link, over to it."""
    old, new = await start_backend(), await start_backend()
    mount = tmp_path / "mount"
    for name, backend in (("..1", old), ("..2", new)):
        (mount / name).mkdir(parents=True)
        (mount / name / "spillway.yaml").write_text(text_of(backend))
    (mount / "..data").symlink_to("..1")
    (mount / "spillway.yaml").symlink_to("..data/spillway.yaml")
    file = mount / "spillway.yaml"
    loaded = load_whole(file, {})
    gateway = Filed(Gateway(loaded.config, file=loaded), file)
    await gateway.gateway.start()
    try:
        (mount / "..data_tmp").symlink_to("..2")
        (mount / "..data_tmp").rename(mount / "..data")
        shutil.rmtree(mount / "..1")
        assert await settled(lambda: id_of(new) in gateway.plane.view.backends)
    finally:
        await gateway.stop()


async def test_a_secret_that_is_renewed_is_sent_from_then_on(quick, start, start_backend, tmp_path):
    backend = await start_backend()
    (tmp_path / "key").write_text("Bearer one")
    gateway = await start(
        f"clusters: [{{name: primary, limit: 8, backends: ['{backend.url}'], auth: {{value_file: key}}}}]"
    )
    await gateway.ask(post())
    (tmp_path / "key").write_text("Bearer two")
    assert await settled(lambda: gateway.gateway.config_status().generation == 2)
    await gateway.ask(post())
    assert [request.header("authorization") for request in backend.requests] == ["Bearer one", "Bearer two"]


async def test_a_certificate_that_is_renewed_is_shown_from_then_on(quick, start, start_backend, tmp_path):
    backend = await start_backend()
    first, second = trustme.CA(), trustme.CA()

    def issue(ca: trustme.CA) -> None:
        issued = ca.issue_cert("localhost")
        issued.private_key_pem.write_to_path(tmp_path / "key.pem")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")

    def trusting(ca: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        ca.configure_trust(context)
        return context

    issue(first)
    gateway = await start("tls: {cert_file: cert.pem, key_file: key.pem}", backend)
    old = await gateway.connect(trusting(first))
    issue(second)
    assert await settled(lambda: gateway.gateway.config_status().generation == 2)
    new = await gateway.connect(trusting(second))
    with pytest.raises(ssl.SSLCertVerificationError):
        await gateway.connect(trusting(first))
    for client in (old, new):
        await client.send(post())
        assert (await client.answer()).status == 200
