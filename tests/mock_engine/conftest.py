"""A mock engine per test, and a client that speaks raw bytes to it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from gateway.mock_engine.faults import parse_faults
from gateway.mock_engine.server import MockEngine
from gateway.mock_engine.settings import Settings

CHAT = "/v1/chat/completions"


@dataclass
class Answer:
    """One parsed answer; `head` is its status line and header lines."""

    status: int
    head: str
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        match = re.search(rf"^{name}: (.*)\r$", self.head, re.MULTILINE | re.IGNORECASE)
        return match[1] if match else None

    @property
    def events(self) -> list[str]:
        return [event.removeprefix("data: ") for event in self.body.decode().split("\n\n") if event]


class Wire:
    """One TCP connection, written and read in the test's own words."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def post(self, path: str = CHAT, headers: str = "", **fields: Any) -> None:
        body = json.dumps({"model": "mock-model", "messages": [], "prompt": "", "input": "", **fields})
        head = f"POST {path} HTTP/1.1\r\nHost: mock\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.writer.write((head + body).encode())

    def get(self, path: str, headers: str = "") -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: mock\r\n{headers}\r\n".encode())

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def answer(self) -> Answer:
        head = await self.head()
        length = re.search(r"content-length: (\d+)", head)
        body = await self.reader.readexactly(int(length[1])) if length else await self.chunks()
        return Answer(int(head.split()[1]), head, body)

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def chunks(self) -> bytes:
        body = b""
        while chunk := await self.chunk():
            body += chunk
        return body

    async def is_silent(self, for_s: float = 0.05) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), for_s)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.writer.close()


StartEngine = Callable[..., Awaitable[MockEngine]]
Dial = Callable[[MockEngine], Awaitable[Wire]]


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts mock engines; without other settings they answer at once."""
    async with AsyncExitStack() as stack:

        async def start(*faults: dict[str, Any], **settings: Any) -> MockEngine:
            parsed = parse_faults({"faults": list(faults)})
            values = {"ttft_s": 0.0, "tpot_s": 0.0, "faults": parsed, **settings}
            return await stack.enter_async_context(MockEngine(Settings(**values)))

        yield start


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens raw connections to an engine."""
    wires: list[Wire] = []

    async def connect(engine: MockEngine) -> Wire:
        wires.append(Wire(*await asyncio.open_connection("127.0.0.1", engine.port)))
        return wires[-1]

    yield connect
    for wire in wires:
        wire.close()
    await asyncio.sleep(0)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The loop that the command runs on."""
    return {"uvloop": uvloop.new_event_loop}


async def settled(predicate: Callable[[], bool], within_s: float = 1.0) -> bool:
    """Whether `predicate` comes true in time; for effects that no byte announces."""
    async with asyncio.timeout(within_s):
        while not predicate():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return True


@pytest.fixture(name="settled")
def settled_fixture() -> Callable[..., Awaitable[bool]]:
    return settled
