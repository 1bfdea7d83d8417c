"""A configuration file, read once into frozen types; or every mistake in it, with its line and a fix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gateway.config.problems import ConfigError, Problem
from gateway.config.rules import TWICE, listed_twice
from gateway.config.schema import BackendConfig, BackendList, Config

# Enough for the longest text that parse() takes; an endless device is not read to its end.
MAX_BYTES = 4 * 2**20


def load(path: str | Path) -> Config:
    """The configuration in a file. Raises ConfigError with all problems found."""
    path = Path(path)
    return parse(_read_text(path), str(path), path.parent)


def parse(
    text: str, source_name: str, base_dir: str | Path, environment: Mapping[str, str] | None = None
) -> Config:
    """The configuration in a text; `base_dir` is what its file paths are relative to. Raises ConfigError."""
    # Here, so that what only carries a Config does not load a YAML parser.
    from msgspec.inspect import type_info

    from gateway.config.document import parse_document
    from gateway.config.reading import Reading
    from gateway.config.scalars import Surroundings

    root = parse_document(text, source_name)
    around = Surroundings(Path(base_dir), os.environ if environment is None else environment)
    reading = Reading(source_name, around)
    config = reading.read(root, type_info(Config), "")
    if reading.problems:
        raise ConfigError(reading.problems)
    assert isinstance(config, Config)
    return config


def load_backends(path: Path) -> tuple[BackendConfig, ...]:
    """The backends in a file of `discovery.file`. Raises ConfigError with all problems found."""
    from msgspec.inspect import type_info

    from gateway.config.document import parse_tree
    from gateway.config.reading import Reading
    from gateway.config.scalars import Surroundings

    # An empty list means what it says. An empty file is one that somebody is about to write.
    root = parse_tree(_read_text(path), str(path), "write [] where there is no backend")
    reading = Reading(str(path), Surroundings(path.parent, os.environ))
    backends = reading.read(root, type_info(BackendList), "")
    for backend in listed_twice(backends) if not reading.problems else ():
        reading.complain(backend, "", *TWICE)
    if reading.problems:
        raise ConfigError(reading.problems)
    assert isinstance(backends, tuple)
    return backends


def _read_text(path: Path) -> str:
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
