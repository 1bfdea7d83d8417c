"""A gateway that works by a file, and the file changes: with real sockets, under load."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.app import Gateway
from gateway.config.loading import load_whole
from tests.proxy.conftest import _OWN_LINES, Running, one_per_tier
from tests.proxy.dialogue import ScriptedBackend, post


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


async def test_a_new_file_is_in_force_after_one_call(start, start_backend):
    old, new = await start_backend(), await start_backend()
    gateway = await start(old)
    assert (await gateway.reload())[1] == {"outcome": "unchanged", "generation": 1}
    gateway.write(new)
    status, page = await gateway.reload()
    assert (status, page["outcome"], page["generation"]) == (200, "adopted", 2)
    assert (await gateway.ask(post())).status == 200
    assert (len(old.requests), len(new.requests)) == (0, 1)
