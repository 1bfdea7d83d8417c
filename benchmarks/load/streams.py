"""Reading a stream of server-sent events with the eyes of a client: when tokens came, and how it ended."""

from __future__ import annotations

import json
from typing import Any


class StreamReading:
    """One answer. Feed it the lines as they come, with the time of each; any clock, in seconds.

    `ttft_s` is until the first text, not until the head or the event that only opens the answer.
    """

    def __init__(self, sent_s: float) -> None:
        self._sent_s = sent_s
        self._latest_s = sent_s
        self.ttft_s: float | None = None
        self.gaps_s: list[float] = []
        self.is_done = False
        self.error: str | None = None

    @property
    def tokens(self) -> int:
        """Events with text."""
        return 0 if self.ttft_s is None else 1 + len(self.gaps_s)

    @property
    def failure(self) -> str | None:
        """Why the answer, which has ended, is not a good one."""
        if self.error is not None:
            return self.error
        return None if self.is_done else "the stream ended without [DONE]"

    def line(self, line: bytes, at_s: float) -> None:
        """What is not data (comments, event names, blank lines) says nothing here."""
        if not line.startswith(b"data:") or self.error is not None:
            return
        data = line[5:].strip()
        if self.is_done:
            self.error = "an event after [DONE]"
        elif data == b"[DONE]":
            self.is_done = True
        else:
            self._event(data, at_s)

    def _event(self, data: bytes, at_s: float) -> None:
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            self.error = "an event that is not a JSON object"
        elif document.get("error"):
            error = document["error"]
            code = error.get("code") if isinstance(error, dict) else None
            self.error = f"an error event: {code or 'without a code'}"
        elif _has_text(document):
            if self.ttft_s is None:
                self.ttft_s = at_s - self._sent_s
            else:
                self.gaps_s.append(at_s - self._latest_s)
            self._latest_s = at_s


def _has_text(document: dict[str, Any]) -> bool:
    """Whether it carries text, a part of a tool call, or thoughts: all but the role and the ends."""
    choices = document.get("choices")
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if choice.get("text") or (
            isinstance(delta, dict) and any(v for k, v in delta.items() if k != "role")
        ):
            return True
    return False
