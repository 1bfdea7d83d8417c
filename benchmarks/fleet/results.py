"""The report of a run: a Markdown table for people, JSON with every raw number beside it."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers import REPO, first_version, git_commit
from processes import machine_busy_s
from report import machine, table

from tests.redis_server import binary


@dataclass
class Row:
    """One line of the table. `value` is compared with the goal by whoever reads; `raw` is all of it."""

    what: str
    value: str
    goal: str
    is_met: bool
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass
class Busy:
    """How many cores the whole machine used while something was measured."""

    cores: float = 0.0


@dataclass
class Run:
    config: dict[str, Any]
    machine: dict[str, Any]
    date: str
    commit: str
    versions: dict[str, str]
    took_s: float = 0.0
    rows: dict[str, list[Row]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    busy_cores: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, config: dict[str, Any]) -> Run:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        versions = {"redis-server": first_version([binary(), "--version"])}
        return cls(config, machine(), now, git_commit(REPO), versions)


@contextmanager
def busy_machine() -> Iterator[Busy]:
    busy, before_s, started_s = Busy(), machine_busy_s(), time.monotonic()
    yield busy
    busy.cores = round((machine_busy_s() - before_s) / (time.monotonic() - started_s), 2)


def markdown(run: Run) -> str:
    spec = run.machine
    config = ", ".join(f"{key} {value}" for key, value in run.config.items())
    facts = [
        f"Date {run.date}, commit {run.commit}, took {run.took_s:g} s.",
        f"Machine: {spec['cpu']}, {spec['cores']} cores, Linux {spec['kernel']}, CPython {spec['python']}.",
        "Cores in use, everybody's: "
        + ", ".join(f"{name} {c:g}" for name, c in run.busy_cores.items())
        + ".",
        f"Config: {config}. Versions: " + ", ".join(f"{n} {v}" for n, v in run.versions.items()) + ".",
        "Gateways, Redis, backend and clients share the cores; in `cost` and `outage` a gateway has one to "
        "itself. Others may use the machine: read latencies as upper bounds.",
        *(f"Failed: {name}, {why}." for name, why in run.failures.items()),
    ]
    rows = [
        [name, row.what, row.value, row.goal, "yes" if row.is_met else "NO"]
        for name, found in run.rows.items()
        for row in found
    ]
    head = ["measure", "what", "measured", "goal", "met"]
    return (
        "# One limit for several gateways\n\n"
        + "\n".join(f"- {f}" for f in facts)
        + "\n\n"
        + table(head, rows)
    )


def write(run: Run, folder: Path) -> str:
    """Writes both files and returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"fleet-{run.date[:10]}-{run.date[11:16].replace(':', '')}-{run.commit.rstrip('+')}"
    text = markdown(run)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps(asdict(run), indent=1) + "\n")
    return text
