"""A door before a redis-server: TLS, slow answers, or none at all, without the server knowing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from tests.chaos.loop_thread import LoopThread


class Door:
    """Carries connections at 127.0.0.1:`port` to the server's socket; answers come `delay_s` later.

    While it `is_shut` nothing passes and nobody is told: a network that loses everything.
    """

    def __init__(self, path: Path, tls: ssl.SSLContext | None = None) -> None:
        self.delay_s = 0.0
        self.is_shut = False
        self._path = path
        self._thread = LoopThread()
        self._server: asyncio.Server = self._thread.begin(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        ).result(10)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._thread.begin(self._end()).result(10)
        self._thread.close()

    async def _end(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_unix_connection(self._path)
            try:
                answers = self._carry(to_reader, writer, late=True)
                await asyncio.gather(self._carry(reader, to_writer), answers)
            finally:
                to_writer.close()
        except OSError:
            pass  # one side is gone, so the other goes
        finally:
            writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool = False
    ) -> None:
        while data := await reader.read(65536):
            if late and self.delay_s:
                await asyncio.sleep(self.delay_s)
            if not self.is_shut:
                writer.write(data)
        writer.close()
