"""What comes back for one request: read to its end, and told as a record."""

from __future__ import annotations

import json
import time
from typing import Any

from benchmarks.load.streams import StreamReading


class Left(Exception):
    """The client's patience ended."""


class Refused(Exception):
    """429; the text is the error code."""


class Failed(Exception):
    """Not the answer that was asked for."""


class Reply:
    """What came back for one request, as far as it came."""

    def __init__(self, sent_s: float, began_s: float) -> None:
        self.sent_s = sent_s
        self.began_s = began_s
        self.head_s: float | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.length = 0
        self.stream: StreamReading | None = None

    def read(self, response: Any, is_streamed: bool) -> None:
        """To the end. Raises Refused, Failed, Left, OSError and HTTPParseError; the connection is let go."""
        try:
            self.head_s = time.perf_counter() - self.began_s
            self.status = response.status_code
            self.headers = {name.lower(): value for name, value in response.items()}
            if self.status != 200:
                self._refuse(response.read())
            if not is_streamed:
                self.length = len(response.read())
                return
            self.stream = stream = StreamReading(self.began_s)
            while line := response.readline(b"\n") or response.read():
                self.length += len(line)
                stream.line(line, time.perf_counter())
            if stream.failure is not None:
                raise Failed(stream.failure)
        finally:
            response.release()

    def _refuse(self, body: bytes) -> None:
        try:
            code = json.loads(body)["error"]["code"] or "without a code"
        except (ValueError, KeyError, TypeError):
            code = "not an OpenAI error"
        raise Refused(code) if self.status == 429 else Failed(f"{self.status} {code}")

    def told(self) -> dict[str, object]:
        stream = self.stream
        return {
            "status": self.status,
            "head_s": self.head_s and round(self.head_s, 6),
            "ttft_s": stream and stream.ttft_s and round(stream.ttft_s, 6),
            "tokens": stream and stream.tokens,
            "tier": self.headers.get("x-spillway-tier"),
            "spill_reason": self.headers.get("x-spillway-spill-reason"),
        }
