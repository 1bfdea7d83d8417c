"""A dialogue over real sockets: a scripted backend and a raw client that see every byte as it was sent.

A script is a list of steps: bytes are written, a number is a pause in seconds, an asyncio.Event is waited
for, and an Ending ends the connection. The backend reads requests with h11, which accepts no odd framing.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import h11

from gateway.core.model import Plan
from gateway.ports import Lease, StateStore

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m"}'
WITHIN_S = 3.0


class Ending(Enum):
    FIN = auto()
    RST = auto()


HANG = float("inf")
Step = bytes | float | asyncio.Event | Ending
Script = Sequence[Step]


def post(body: bytes = BODY, *lines: str, path: str = CHAT, version: str = "1.1") -> bytes:
    """A well-formed request with its Content-Length."""
    head = [f"POST {path} HTTP/{version}", "Host: gw.local", f"Content-Length: {len(body)}"]
    if not any(line.lower().startswith("content-type") for line in lines):
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: gw.local", *lines, "", ""]).encode()


def reply(body: bytes = b'{"ok":true}', *lines: str, status: str = "200 OK") -> bytes:
    """A whole answer with its Content-Length."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


def event_stream(*lines: str) -> bytes:
    """The head of a chunked SSE answer."""
    head = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
    return "\r\n".join([*head, *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
EVENT = b"data: 1\n\n"
THEIRS = b'{"error":{"message":"theirs"}}'
DEADLINE = "x-spillway-deadline"


class Arrived(NamedTuple):
    """A request as it reached a backend; `raw` is every byte of it."""

    raw: bytes
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)


class ScriptedBackend:
    """Answers each request with the next script, or with `default` when none is left."""

    def __init__(self) -> None:
        self.scripts: deque[Script] = deque()
        self.default: Script | Callable[[Arrived], Script] = [reply()]
        self.requests: list[Arrived] = []
        self.malformed: list[bytes] = []
        self.connections: list[_BackendConnection] = []
        self.received_bytes = 0
        # Sees bytes before they are read as requests; True when they shall not be.
        self.intercept: Callable[[_BackendConnection, bytes], bool] | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.tls: ssl.SSLContext | None = None

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _BackendConnection(self), "127.0.0.1", self.port, ssl=self.tls, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Nobody listens any more; open connections are reset."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for connection in self.open_connections:
                connection.reset()
            await asyncio.sleep(0)

    async def heal(self) -> None:
        """From now on every request gets a good answer."""
        self.scripts.clear()
        self.default = [reply()]
        self.intercept = None
        if self._server is None:
            await self.listen()

    async def stop(self) -> None:
        await self.refuse()
        for task in self.tasks:
            task.cancel()

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> list[_BackendConnection]:
        return [connection for connection in self.connections if not connection.is_lost.is_set()]

    def will(self, *steps: Step) -> None:
        """Adds a script for one more request."""
        self.scripts.append(steps)

    def script_for(self, request: Arrived) -> Script:
        if self.scripts:
            return self.scripts.popleft()
        return self.default(request) if callable(self.default) else self.default


class _BackendConnection(asyncio.Protocol):
    def __init__(self, backend: ScriptedBackend) -> None:
        self._backend = backend
        self._parser = h11.Connection(h11.SERVER)
        self._raw = b""
        self._events: list[Any] = []
        self._turn: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport
        self.is_lost = asyncio.Event()
        self.number = len(backend.connections)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._backend.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self._backend.received_bytes += len(data)
        if self._backend.intercept is not None and self._backend.intercept(self, data):
            return
        self._raw += data
        self._parser.receive_data(data)
        try:
            self._read()
        except h11.RemoteProtocolError:
            self._backend.malformed.append(self._raw)
            self.transport.abort()

    def _read(self) -> None:
        while True:
            event = self._parser.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return
            self._events.append(event)
            if isinstance(event, h11.EndOfMessage):
                self._take()

    def _take(self) -> None:
        head, *parts, _ = self._events
        rest = self._parser.trailing_data[0]
        arrived = Arrived(
            self._raw[: len(self._raw) - len(rest)],
            head.method.decode(),
            head.target.decode(),
            [(name.decode(), value.decode("latin-1")) for name, value in head.headers],
            b"".join(bytes(part.data) for part in parts),
            self.number,
        )
        self._raw, self._events, self._parser = rest, [], h11.Connection(h11.SERVER)
        if rest:
            self._parser.receive_data(rest)
        self._backend.requests.append(arrived)
        self._answer(self._backend.script_for(arrived))

    def _answer(self, script: Script) -> None:
        if all(isinstance(step, bytes) for step in script):
            self.transport.write(b"".join(script))  # type: ignore[arg-type]
            return
        task = asyncio.get_running_loop().create_task(self._play(script))
        self._backend.tasks.add(task)
        task.add_done_callback(self._backend.tasks.discard)

    async def _play(self, script: Script) -> None:
        for step in script:
            if self.is_lost.is_set():
                return
            if isinstance(step, bytes):
                self.transport.write(step)
                await asyncio.sleep(0)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif step == HANG:
                await self.is_lost.wait()
            elif isinstance(step, Ending):
                self.reset() if step is Ending.RST else self.transport.close()
            else:
                await asyncio.sleep(step)

    def reset(self) -> None:
        linger_on(self.transport)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost.set()


def linger_on(transport: asyncio.BaseTransport) -> None:
    """The next close of this socket is a reset."""
    found = transport.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Answer(NamedTuple):
    """An answer as a client saw it. `is_whole` is False when the connection ended inside it."""

    status: int
    reason: str
    head: bytes
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool
    chunks: list[bytes]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape; fails when it has another one."""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]
        return dict(error)


class Client:
    """One raw connection to a gateway, written and read in the test's own words."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> Client:
        name = "localhost" if tls is not None else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name))

    async def send(self, *segments: bytes | float) -> None:
        """Writes each segment alone; the gateway has read one before the next is on its way."""
        for segment in segments:
            if isinstance(segment, bytes):
                self.writer.write(segment)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(segment)

    async def answer(self, within_s: float = WITHIN_S) -> Answer:
        """The next answer, as far as it comes. Raises IncompleteReadError when there is none."""
        async with asyncio.timeout(within_s):
            return await self._answer()

    async def head(self, within_s: float = WITHIN_S) -> bytes:
        async with asyncio.timeout(within_s):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def chunk(self, within_s: float = WITHIN_S) -> bytes:
        """One chunk of a chunked answer whose head has been read."""
        async with asyncio.timeout(within_s):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def _answer(self) -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        version, status, reason = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        fields = dict(headers)
        assert len([name for name, _ in headers if name in ("content-length", "transfer-encoding")]) <= 1
        chunks: list[bytes] = []
        is_whole = True
        if "transfer-encoding" in fields:
            is_whole = await self._chunks(chunks)
            body = b"".join(chunks)
        elif int(status) in (204, 304) or 100 <= int(status) < 200:
            body = b""
        elif "content-length" in fields:
            body, is_whole = await self._exactly(int(fields["content-length"]))
        else:
            body = await self.reader.read()
        return Answer(int(status), reason, head, headers, body, is_whole, chunks)

    async def _exactly(self, size: int) -> tuple[bytes, bool]:
        try:
            return await self.reader.readexactly(size), True
        except asyncio.IncompleteReadError as error:
            return error.partial, False
        except ConnectionError:
            return b"", False

    async def _chunks(self, chunks: list[bytes]) -> bool:
        try:
            while (data := await self.chunk()) != b"":
                chunks.append(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return True

    async def rest(self, within_s: float = WITHIN_S) -> bytes:
        """All that comes until the gateway closes the connection; fails when it does not."""
        async with asyncio.timeout(within_s):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def is_silent(self, for_s: float = 0.05) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), for_s)
        except TimeoutError:
            return True
        return False

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_on(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        linger_on(self.writer.transport)
        self.writer.transport.abort()


class WaitingStore:
    """A store that is asked and does not answer, until `may_answer` is set."""

    def __init__(self, inner: StateStore) -> None:
        self._inner = inner
        self.may_answer = asyncio.Event()
        self.waiting = 0

    def lease_now(self, plan: Plan) -> Lease | None:
        return None

    async def lease(self, plan: Plan) -> Lease | None:
        self.waiting += 1
        try:
            await self.may_answer.wait()
        finally:
            self.waiting -= 1
        return await self._inner.lease(plan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def settled(predicate: Callable[[], bool], within_s: float = 1.0) -> bool:
    """Whether `predicate` comes true in time; for effects that no byte announces."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while not predicate():
        if asyncio.get_running_loop().time() > deadline_s:
            return False
        await asyncio.sleep(0.002)
    return True


StartBackend = Callable[..., Awaitable[ScriptedBackend]]
