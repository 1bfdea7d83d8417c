"""A file of vectors, and whether what came of one is what it expects.

One JSON object per line: `id`, `side` (request: bytes of a client; response: bytes of a backend),
`segments_b64` (base64 of each segment; a number is a pause in seconds), `expect` (outcomes between `|`).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Segments = list[bytes | float]
SEGMENTATIONS = ("as given", "in two", "byte by byte")


@dataclass(frozen=True)
class Vector:
    id: str
    side: str
    expect: str
    given: Segments

    def segments(self, how: str) -> Segments:
        """Pauses stay where they were, except byte by byte, where every byte waits for the one before."""
        whole = b"".join(part for part in self.given if isinstance(part, bytes))
        if how == "in two" and len(self.given) == 1 and len(whole) > 1:
            return [whole[: len(whole) // 2], 0.01, whole[len(whole) // 2 :]]
        if how == "byte by byte" and len(whole) < 4096:
            return [bytes((byte,)) for byte in whole]
        return self.given


@dataclass(frozen=True)
class Heard:
    """`statuses` and `bodies` of the answers, in order; `passed`: requests that reached a backend."""

    statuses: list[int]
    bodies: list[bytes]
    heads: list[bytes]
    is_closed: bool
    is_whole: bool
    is_hung: bool
    passed: int


def read(path: Path) -> list[Vector]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [
        Vector(
            row["id"],
            row["side"],
            row["expect"],
            [
                base64.b64decode(part) if isinstance(part, str) else float(part)
                for part in row["segments_b64"]
            ],
        )
        for row in rows
    ]


def is_as_expected(vector: Vector, heard: Heard) -> bool:
    if heard.is_hung:
        return False
    return (
        _is_good_answer(vector, heard)
        if vector.side == "response"
        else _is_good_request(vector.expect, heard)
    )


def _is_good_request(expect: str, heard: Heard) -> bool:
    words = [word.strip().partition("(")[0] for word in expect.replace("+", "|").split("|")]
    refusals = {int(word) for word in words if word.isdigit()}
    statuses = heard.statuses
    if not statuses:
        return heard.is_closed and heard.passed == 0 and ("close" in words or 400 in refusals)
    if expect.startswith("PASS2"):
        return heard.passed == 2 or len(statuses) == 2 or ("PASS1" in words and heard.passed == 1)
    if heard.passed == 0:
        near = statuses[0] in (404, 411, 413, 414, 431, 501, 505) and 400 in refusals
        return statuses[0] in refusals or near
    if "PASS1+400" in expect:
        return heard.passed == 1 and statuses == [200, 400] and heard.is_closed
    return heard.passed == 1 and "PASS1" in words and statuses[0] == 200


def _is_good_answer(vector: Vector, heard: Heard) -> bool:
    expect, statuses = vector.expect, heard.statuses
    if not statuses:
        return "abort" in expect and heard.is_closed
    if "502" in expect and statuses[0] in (502, 504):
        return True
    if expect.startswith("policy"):
        return b"set-cookie" not in heard.heads[0].lower()
    if expect.startswith("204"):
        return statuses[0] == 204 and not heard.bodies[0]
    if "abort" in expect and (not heard.is_whole or statuses[0] in (502, 504)):
        return True
    if "retry" in expect and statuses[0] == 200 and heard.passed == 2:
        return heard.is_whole
    return ("PASS" in expect or "TE wins" in expect) and heard.is_whole and 200 <= statuses[0] < 400
