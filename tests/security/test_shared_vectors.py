"""The vectors that lie beside a checkout in some workplaces, as far as they speak of requests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import Running
from tests.proxy.dialogue import Answer, Client, ScriptedBackend, settled

_FILE = Path(__file__).parents[2].parent / "shared" / "vectors" / "vectors.jsonl"
# Where the clock is to end a request, it does so soon. Else only bytes decide: a slow machine is no verdict.
_SOON = "timeouts: {request_head: 300ms, request_body: 300ms}\n"
_NEVER = "timeouts: {request_head: 60s, request_body: 60s}\n"
_WITHIN_S = 20.0
_SILENCE_S = 0.1


def _vectors() -> list[Any]:
    if not _FILE.exists():
        return [pytest.param(None, marks=pytest.mark.skip("no shared vectors here"))]
    rows = [json.loads(line) for line in _FILE.read_text().splitlines()]
    return [pytest.param(row, id=row["id"]) for row in rows if row["side"] == "request"]


def _segments(row: dict[str, Any]) -> list[bytes | float]:
    return [base64.b64decode(part) if isinstance(part, str) else part for part in row["segments_b64"]]


async def _hear(client: Client, expected: str) -> tuple[list[Answer], bool]:
    """Every answer until the gateway closes, or has been silent for a while behind those `expected`."""
    answers: list[Answer] = []
    ends = "PASS1+400" in expected
    count = 2 if expected.startswith("PASS2") else 1
    try:
        while True:
            is_owed = ends or len(answers) < count
            answers.append(await client.answer(_WITHIN_S if is_owed else _SILENCE_S))
    except TimeoutError:
        return answers, False
    except (asyncio.IncompleteReadError, ConnectionError):
        return answers, True


def _is_allowed(expected: str, answers: list[Answer], passed: int, is_closed: bool) -> bool:
    """`expected` lists outcomes between `|`, some with a remark in parentheses."""
    if not answers:
        return is_closed and any(word in expected for word in ("close", "400"))
    refusals = {int(word) for word in expected.replace("+", "|").split("|") if word[:3].isdigit()}
    statuses = [answer.status for answer in answers]
    if passed == 0 and expected.startswith("PASS2"):
        return len(answers) == 2  # each judged for itself: neither a tunnel nor one swallowed by the other
    if passed == 0:
        return statuses[0] in refusals or (statuses[0] in (404, 411) and 400 in refusals)
    if expected.startswith("PASS2"):
        return passed == 2 or (passed == 1 and "PASS1" in expected)
    if "PASS1+400" in expected:
        return passed == 1 and statuses == [200, 400] and is_closed
    return passed == 1 and "PASS1" in expected and statuses[0] == 200


@pytest.mark.parametrize("row", _vectors())
@pytest.mark.parametrize("is_in_bytes", [False, True], ids=["as-is", "byte-by-byte"])
async def test_vector(
    row: dict[str, Any],
    is_in_bytes: bool,
    start_backend: Callable[..., Awaitable[ScriptedBackend]],
    start_gateway: Callable[..., Awaitable[Running]],
) -> None:
    backend = await start_backend()
    running = await start_gateway(_SOON if "408" in row["expect"] else _NEVER, backend)
    segments = _segments(row)
    if is_in_bytes and sum(len(part) for part in segments if isinstance(part, bytes)) < 2000:
        whole = b"".join(part for part in segments if isinstance(part, bytes))
        segments = [bytes((byte,)) for byte in whole]
    client = await running.connect()
    await client.send(*segments)
    answers, is_closed = await _hear(client, row["expect"])
    await settled(lambda: running.is_clean, _WITHIN_S)
    passed = len(backend.requests)
    heard = [(answer.status, answer.body[:120]) for answer in answers]
    assert _is_allowed(row["expect"], answers, passed, is_closed), (row["expect"], heard, passed)
    assert not backend.malformed
    if passed == 0:
        assert backend.received_bytes == 0
        assert all(answer.error for answer in answers if answer.status >= 400)
