"""What can be wrong with a configuration, said so that it can be put right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class BadValue(ValueError):
    """A value that cannot be read. `fix` says what to write instead; it may be empty."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class Problem(NamedTuple):
    """One mistake. `line` counts from 1; 0 and an empty `path` mean the file as a whole."""

    source: str
    line: int
    path: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        return f"{text}; {self.fix}" if self.fix else text


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds all that was found, in the file's order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(map(str, self.problems)))
