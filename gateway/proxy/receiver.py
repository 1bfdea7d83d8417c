"""Who gets what comes on an upstream connection."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.core.model import Reason
from gateway.proxy.headers import Headers, ResponseHead


class Receiver(Protocol):
    """Who an answer is for. After `on_answer_end` or `on_answer_failed` nothing more is called."""

    def on_answer_head(self, head: ResponseHead) -> None: ...
    def on_answer_body(self, chunk: bytes) -> None: ...
    def on_answer_end(self) -> None: ...
    def on_answer_failed(self, reason: Reason) -> None: ...


class Switcher(Protocol):
    """Who has asked a backend to switch protocols."""

    def read_switch(self, reason: bytes, version: str, headers: Headers) -> ResponseHead:
        """Checks the 101. Raises BadResponse."""

    def on_switched(self, head: ResponseHead, transport: asyncio.Transport, rest: bytes) -> None:
        """The connection is the switcher's now, with the `rest` of what came; nothing more is called."""
