"""`--sweep clusters.NAME.limit=32..128:16`: the same trace with one setting at several values."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gateway.config.loading import parse_whole, read_text
from gateway.config.problems import ConfigError, Problem
from gateway.config.schema import Config
from gateway.sim.figures import Figures
from gateway.sim.stand_ins import with_stand_ins
from gateway.sim.study import Study, study
from gateway.sim.world import Progress, Setting

MAX_POINTS = 200


class SweepError(Exception):
    """The sweep cannot be done: one line with what is wrong and a fix."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The setting, as the keys on the way to it, and its values as they would stand in the file."""

    path: str
    values: tuple[str, ...]


def read_sweep(text: str) -> Sweep:
    """`PATH=FROM..TO:STEP` or `PATH=VALUE,VALUE,...`. Raises SweepError."""
    path, equals, values = text.partition("=")
    if not equals or not path or not values:
        raise SweepError(f"the sweep {text!r} has no values; write clusters.NAME.limit=32..128:16")
    return Sweep(path.strip(), tuple(_values(values.strip(), text)))


def _values(text: str, whole: str) -> Iterator[str]:
    if ".." not in text:
        yield from (value.strip() for value in text.split(","))
        return
    ends, _, step_text = text.partition(":")
    try:
        first, last = (int(end) for end in ends.split("..", 1))
        step = int(step_text or "1")
    except ValueError:
        raise SweepError(
            f"the sweep {whole!r} needs whole numbers; write FROM..TO:STEP, as 32..128:16"
        ) from None
    if step < 1 or last < first:
        raise SweepError(f"the sweep {whole!r} has no values; write FROM..TO:STEP with FROM below TO")
    if (last - first) // step + 1 > MAX_POINTS:
        raise SweepError(f"the sweep {whole!r} has more than {MAX_POINTS} values; take a larger step")
    yield from map(str, range(first, last + 1, step))


def configs_of(path: Path, sweep: Sweep) -> list[Config]:
    """The configuration at each value, checked as a whole. Raises ConfigError or SweepError."""
    source = read_text(path)
    configs = []
    for value in sweep.values:
        document = yaml.safe_load(source)
        _put(document, sweep.path, value)
        try:
            loaded = parse_whole(yaml.safe_dump(document), str(path), path.parent, os.environ)
            configs.append(with_stand_ins(loaded))
        except ConfigError as error:
            # The lines are those of a text that nobody has seen.
            shown = f"with {sweep.path} = {value}: "
            raise ConfigError(
                Problem(p.source, 0, p.path, shown + p.message, p.fix) for p in error.problems
            ) from None
    return configs


def _put(document: Any, path: str, value: str) -> None:
    """Sets the value at a path of keys; a list's members go by their `name` or their index."""
    at = document
    keys = path.split(".")
    for done, key in enumerate(keys[:-1]):
        at = _member(at, key, ".".join(keys[: done + 1]))
    if not isinstance(at, dict):
        raise SweepError(f"the sweep's {path} leads to no setting; write clusters.NAME.limit, for example")
    at[keys[-1]] = yaml.safe_load(value)


def _member(at: Any, key: str, path: str) -> Any:
    if isinstance(at, list):
        named = [member for member in at if isinstance(member, dict) and member.get("name") == key]
        if named:
            return named[0]
        if key.isdigit() and int(key) < len(at):
            return at[int(key)]
        names = ", ".join(str(m["name"]) for m in at if isinstance(m, dict) and "name" in m)
        raise SweepError(f"the sweep's {path} is not in the configuration; there are: {names}")
    if isinstance(at, dict):
        return at.setdefault(key, {})
    raise SweepError(
        f"the sweep's {path} is not in the configuration; write clusters.NAME.limit, for example"
    )


def run_sweep(
    sweep: Sweep, configs: Sequence[Config], setting: Setting, tell: Progress | None = None
) -> list[Study]:
    """A study for each value, named after it."""
    return [
        study(value, replace(setting, config=config), tell)
        for value, config in zip(sweep.values, configs, strict=True)
    ]


def points_of(sweep: Sweep, studies: Sequence[Study]) -> Figures:
    """The curve: for each value what matters of its study."""
    return {
        "path": sweep.path,
        "points": [
            {
                "value": each.name,
                "off_preferred_share": each.figures["off_preferred_share"],
                "bound_share": each.bound["off_preferred_share"],
                "greedy_share": each.baselines["greedy"]["off_preferred_share"],
                "shed": each.figures["shed"],
                "failed": each.figures["failed"],
                "flaps": each.figures["flaps"],
                "ttft_p99_s": each.figures["ttft_s"]["p99"],
                "cost": each.figures["cost"],
            }
            for each in studies
        ],
    }
