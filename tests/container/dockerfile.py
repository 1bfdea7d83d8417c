"""Reads a Dockerfile: the instructions that ours uses, and no others. Nothing is passed over unseen."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Word by word what each does is in steps.py. The flags are those that are understood there.
FLAGS: dict[str, frozenset[str]] = {
    "ARG": frozenset(),
    "FROM": frozenset(),
    "ENV": frozenset(),
    "WORKDIR": frozenset(),
    "COPY": frozenset({"from"}),
    "RUN": frozenset(),
    "USER": frozenset(),
    "EXPOSE": frozenset(),
    "STOPSIGNAL": frozenset(),
    "LABEL": frozenset(),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "retries"}),
    "ENTRYPOINT": frozenset(),
    "CMD": frozenset(),
}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class NotUnderstood(ValueError):
    """The Dockerfile has something that this reader does not know."""


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    value: str
    line: int
    flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_exec_form(self) -> bool:
        return self.value.removeprefix("CMD").lstrip().startswith("[")

    @property
    def arguments(self) -> list[str]:
        """The words of an instruction in exec form; HEALTHCHECK's come after its CMD."""
        words = json.loads(self.value.removeprefix("CMD").lstrip())
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise NotUnderstood(f"line {self.line}: {self.word} must be a list of strings")
        return words

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """`KEY=VALUE KEY="VALUE"` of ENV, LABEL and ARG, with variables filled in."""
        parts = [word.partition("=") for word in shlex.split(self.value)]
        return {key: fill_in(value, variables) for key, _, value in parts}


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[Instruction]:
        return [one for one in self.instructions if one.word == word]

    def last(self, word: str) -> Instruction:
        """The one that counts. Raises IndexError when there is none."""
        return self.all(word)[-1]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`arguments` are the ARGs before the first FROM."""

    arguments: Mapping[str, str]
    stages: tuple[Stage, ...]

    @property
    def final(self) -> Stage:
        return self.stages[-1]


def fill_in(text: str, variables: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}`; one that is not set is a mistake here, and empty for a container engine."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables:
            raise NotUnderstood(f"${name} is not set")
        return variables[name]

    return _VARIABLE.sub(value, text)


def parse(text: str) -> Dockerfile:
    arguments: dict[str, str] = {}
    stages: list[tuple[str, str, list[Instruction]]] = []
    for one in _instructions(text):
        if one.word == "FROM":
            base, _, name = one.value.partition(" AS ")
            stages.append((name.strip(), fill_in(base.strip(), arguments), []))
        elif stages:
            stages[-1][2].append(one)
        elif one.word == "ARG":
            arguments |= one.pairs(arguments)
        else:
            raise NotUnderstood(f"line {one.line}: {one.word} before the first FROM")
    return Dockerfile(arguments, tuple(Stage(name, base, tuple(rest)) for name, base, rest in stages))


def read(path: Path) -> Dockerfile:
    return parse(path.read_text())


def _instructions(text: str) -> Iterator[Instruction]:
    for number, line in _joined(text):
        word, _, rest = line.partition(" ")
        word = word.upper()
        if word not in FLAGS:
            raise NotUnderstood(f"line {number}: the instruction {word}")
        flags, rest = {}, rest.strip()
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            name, _, value = flag.removeprefix("--").partition("=")
            if name not in FLAGS[word]:
                raise NotUnderstood(f"line {number}: {word} --{name}")
            flags[name], rest = value, rest.lstrip()
        yield Instruction(word, rest, number, flags)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, without comments, which may stand inside a continuation."""
    parts: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            if re.match(r"#\s*(syntax|escape)\s*=", line):
                raise NotUnderstood(f"line {number}: a parser directive")
            continue
        start = start if parts else number
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        yield start, "".join([*parts, line]).strip()
        parts = []
    if parts:
        raise NotUnderstood(f"line {start}: ends with a backslash")
