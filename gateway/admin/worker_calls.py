"""Asking a worker through its admin socket: one short exchange, or the reason why there was none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector

from gateway.admin.pages import BEFORE_HEADER, DrainOrder

ANSWER_TIMEOUT_S = 1.0
_ANY = {"Accept": "*/*"}


class NoAnswer(Exception):
    """The worker did not answer in time, or not at all."""


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """Raises NoAnswer for what is no JSON: a worker that says that is broken."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as exc:
            raise NoAnswer("answers no JSON") from exc


async def ask(
    socket_path: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = _ANY
) -> WorkerAnswer:
    """Raises NoAnswer, at the latest after ANSWER_TIMEOUT_S."""
    try:
        async with (
            ClientSession(
                connector=UnixConnector(socket_path), timeout=ClientTimeout(total=ANSWER_TIMEOUT_S)
            ) as session,
            session.request(method, f"http://localhost{path}", data=body, headers=headers) as answer,
        ):
            return WorkerAnswer(answer.status, await answer.read())
    except TimeoutError as exc:
        raise NoAnswer(f"did not answer within {ANSWER_TIMEOUT_S:g} s") from exc
    except (ClientError, OSError) as exc:
        raise NoAnswer("is not reachable") from exc


async def tell(socket_path: str, order: DrainOrder, now_s: float) -> WorkerAnswer:
    """Hands a drain or an undrain on, to be heeded while it is waited for. Raises NoAnswer."""
    verb = "drain" if order.is_drain else "undrain"
    asked = {} if order.for_s is None else {"for": f"{order.for_s:f}s"}
    path = f"/api/v1/{order.kind}/{quote(order.name, safe='@:')}/{verb}"
    before = {BEFORE_HEADER: f"{now_s + ANSWER_TIMEOUT_S:f}"}
    return await ask(socket_path, "POST", path, orjson.dumps(asked), before)


async def answers_of(calls: list[Any]) -> list[WorkerAnswer | NoAnswer]:
    """All at once; each one's answer or why there is none."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, NoAnswer):
            raise one
    return [one for one in found if isinstance(one, WorkerAnswer | NoAnswer)]
