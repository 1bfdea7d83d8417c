"""A configuration file, read once into frozen types; or every mistake in it, with its line and a fix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.config.files import Stamps, stamp_of
from gateway.config.problems import ConfigError, Problem
from gateway.config.rules import TWICE, listed_twice
from gateway.config.scalars import Surroundings
from gateway.config.schema import BackendConfig, BackendList, Config
from gateway.config.sections import Section

if TYPE_CHECKING:
    from gateway.config.reading import Reading

AnySection = TypeVar("AnySection", bound=Section)

# Enough for the longest text that parse() takes; an endless device is not read to its end.
MAX_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, the line of each setting that stands in it, and the files it was made of."""

    config: Config
    source: str
    lines: Mapping[str, int]
    files: Stamps

    def problem(self, setting: str, message: str, fix: str = "") -> Problem:
        """One of a setting such as `admin.listen`, with the line that it has or its section has."""
        line = self.lines.get(setting) or self.lines.get(setting.rpartition(".")[0], 0)
        return Problem(self.source, line, setting, message, fix)


def load(path: str | Path) -> Config:
    """The configuration in a file. Raises ConfigError with all problems found."""
    return load_whole(path, {}).config


def load_whole(path: str | Path, files: Stamps) -> Loaded:
    """As `load`; `files` gets this file and those that it names, also when it raises."""
    path = Path(path)
    files[path.absolute()] = stamp_of(path)
    return _parse(read_text(path), str(path), Surroundings(path.parent, os.environ, files))


def parse(
    text: str, source_name: str, base_dir: str | Path, environment: Mapping[str, str] | None = None
) -> Config:
    """The configuration in a text; `base_dir` is what its file paths are relative to. Raises ConfigError."""
    return parse_whole(text, source_name, base_dir, environment).config


def parse_whole(
    text: str, source_name: str, base_dir: str | Path, environment: Mapping[str, str] | None = None
) -> Loaded:
    """As `parse`, with the lines."""
    known = os.environ if environment is None else environment
    return _parse(text, source_name, Surroundings(Path(base_dir), known))


def _parse(text: str, source_name: str, around: Surroundings) -> Loaded:
    config, reading = parse_as(Config, text, source_name, around)
    return Loaded(config, source_name, reading.lines(), around.files)


def parse_as(
    kind: type[AnySection], text: str, source_name: str, around: Surroundings
) -> tuple[AnySection, Reading]:
    """A text read as a section of this kind, and the reading, which knows the lines. Raises ConfigError."""
    # Here, so that what only carries a Config does not load a YAML parser.
    from msgspec.inspect import type_info

    from gateway.config.document import parse_document
    from gateway.config.reading import Reading

    root = parse_document(text, source_name)
    reading = Reading(source_name, around)
    section = reading.read(root, type_info(kind), "")
    if reading.problems:
        raise ConfigError(reading.problems)
    assert isinstance(section, kind)
    return section, reading


def load_backends(path: Path) -> tuple[BackendConfig, ...]:
    """The backends in a file of `discovery.file`. Raises ConfigError with all problems found."""
    from msgspec.inspect import type_info

    from gateway.config.document import parse_tree
    from gateway.config.reading import Reading
    from gateway.config.scalars import Surroundings

    # An empty list means what it says. An empty file is one that somebody is about to write.
    root = parse_tree(read_text(path), str(path), "write [] where there is no backend")
    reading = Reading(str(path), Surroundings(path.parent, os.environ))
    backends = reading.read(root, type_info(BackendList), "")
    for backend in listed_twice(backends) if not reading.problems else ():
        reading.complain(backend, "", *TWICE)
    if reading.problems:
        raise ConfigError(reading.problems)
    assert isinstance(backends, tuple)
    return backends


def read_text(path: Path) -> str:
    """What stands in a file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise _unreadable(path, 0, "does not exist") from None
    except IsADirectoryError:
        raise _unreadable(path, 0, "is a directory", "name the file in it") from None
    except (OSError, ValueError) as exc:
        raise _unreadable(path, 0, f"cannot be read: {getattr(exc, 'strerror', None) or exc}") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise _unreadable(path, line, "is not valid UTF-8", "save the file as UTF-8") from None


def _unreadable(path: Path, line: int, message: str, fix: str = "") -> ConfigError:
    return ConfigError([Problem(str(path), line, "", message, fix)])
