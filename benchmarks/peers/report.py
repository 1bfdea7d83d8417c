"""The report of a run: Markdown tables for people, JSON with every raw number beside them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers import REPO, git_commit

Row = dict[str, Any]

# Above this many foreign CPU seconds per second, somebody else was using the machine; the kernel's own
# threads and the clock's tick of 10 ms stay below it.
QUIET = 0.1


@dataclass
class Run:
    """Everything that a run found out; filled in on the way, so that an interrupted run still reports."""

    config: Row
    machine: Row
    date: str
    commit: str
    round: int = 0
    took_s: float = 0.0
    rows: list[Row] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[Row] = field(default_factory=list)

    @classmethod
    def begin(cls, config: Row) -> Run:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return cls(config, machine(), now, git_commit(REPO))

    def peers(self, figure: str) -> list[str]:
        """Those that have the figure, Spillway first, then in the order of their first visit."""
        names = list(dict.fromkeys(row["peer"] for row in self.rows if row["figure"] == figure))
        return sorted(names, key=lambda name: name != "spillway")

    def values(self, figure: str, peer: str, key: str) -> dict[int, float]:
        """Round number to value."""
        found = [row for row in self.rows if row["figure"] == figure and row["peer"] == peer and key in row]
        return {row["round"]: row[key] for row in found}

    def cell(self, figure: str, peer: str, key: str, scale: float = 1.0) -> str:
        return spread([value * scale for value in self.values(figure, peer, key).values()])

    def ratio(self, figure: str, peer: str, key: str) -> str:
        """This peer's value over Spillway's in the same round, median and range over the rounds."""
        ours, theirs = self.values(figure, "spillway", key), self.values(figure, peer, key)
        return spread([theirs[number] / ours[number] for number in theirs if ours.get(number)])


def machine() -> Row:
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {"cpu": cpu[1] if cpu else "unknown", "cores": os.cpu_count(), "kernel": platform.release(),
            "python": platform.python_version()}  # fmt: skip


def number(value: float) -> str:
    """Three significant digits, or whole numbers."""
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: list[float]) -> str:
    """Median, and the range when there is one: `12.3 (11.9 to 13.0)`."""
    if not values:
        return "-"
    middle, low, high = (number(pick(values)) for pick in (statistics.median, min, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def throughput(run: Run) -> str:
    head = ["a. highest throughput", "requests/s", "÷ Spillway's", "per CPU second", "share of its core",
            "errors"]  # fmt: skip
    rows = [
        [peer, run.cell("a", peer, "requests_per_s"), run.ratio("a", peer, "requests_per_s"),
         run.cell("a", peer, "requests_per_cpu_s"), run.cell("a", peer, "proxy_core_share"),
         run.cell("a", peer, "errors")]
        for peer in run.peers("a")
    ]  # fmt: skip
    return table(head, rows)


def cpu_per_request(run: Run) -> str:
    head = ["b. CPU per request", "µs", "÷ Spillway's", "at requests/s", "errors"]
    rows = [
        [peer, run.cell("b", peer, "cpu_us_per_request"), run.ratio("b", peer, "cpu_us_per_request"),
         run.cell("b", peer, "rate"), run.cell("b", peer, "errors")]
        for peer in run.peers("b")
    ]  # fmt: skip
    return table(head, rows)


def cpu_per_event(run: Run) -> str:
    head = ["c. CPU per SSE event", "µs", "÷ Spillway's", "delivered %", "delay p50 µs", "delay p99 µs",
            "load"]  # fmt: skip
    rows = []
    for peer in run.peers("c"):
        row = next(row for row in run.rows if row["figure"] == "c" and row["peer"] == peer)
        rows.append(
            [peer, run.cell("c", peer, "cpu_us_per_event"), run.ratio("c", peer, "cpu_us_per_event"),
             run.cell("c", peer, "delivered", 100), run.cell("c", peer, "delay_p50_us"),
             run.cell("c", peer, "delay_p99_us"), f"{row['streams']} of {row['events_per_s']}/s"]
        )  # fmt: skip
    return table(head, rows)


def latency(run: Run) -> str:
    head = ["d. added latency", "p50 µs", "p99 µs", "at requests/s", "p50 µs, half load",
            "p99 µs, half load", "at requests/s"]  # fmt: skip
    rows = [
        [peer, *(run.cell("d", peer, f"{load}_{key}") for load in ("common", "half")
                 for key in ("added_p50_us", "added_p99_us", "rate"))]
        for peer in run.peers("d")
    ]  # fmt: skip
    return table(head, rows)


def memory(run: Run) -> str:
    head = ["e. memory", "idle MB", "MB per 1,000 streams", "÷ Spillway's", "streams", "lost", "many",
            "many lost", "many delivered %"]  # fmt: skip
    rows = [
        [peer, run.cell("e", peer, "rss_idle_mb"), run.cell("e", peer, "rss_growth_mb_per_1000"),
         run.ratio("e", peer, "rss_growth_mb_per_1000"), run.cell("e", peer, "open_streams"),
         run.cell("e", peer, "lost"), run.cell("e", peer, "many_streams"), run.cell("e", peer, "many_lost"),
         run.cell("e", peer, "many_delivered", 100)]
        for peer in run.peers("e")
    ]  # fmt: skip
    return table(head, rows)


TABLES = {"a": throughput, "b": cpu_per_request, "c": cpu_per_event, "d": latency, "e": memory}


def facts(run: Run) -> list[str]:
    """What a reader must know to judge the numbers."""
    foreign = [row[key] for row in run.rows for key in row if key.endswith("foreign_cores")]
    disturbed = sum(share > QUIET for share in foreign)
    quiet = "quiet" if not disturbed else "NOT quiet: read the numbers as a rough order"
    spec = run.machine
    return [
        f"Date {run.date}, commit {run.commit}, took {run.took_s:g} s.",
        f"Machine: {spec['cpu']}, {spec['cores']} cores, Linux {spec['kernel']}. Proxy on one core, load "
        "generator and backend on the other.",
        f"Others (host steal included) used more than {QUIET} cores in {disturbed} of {len(foreign)} "
        f"windows, at most {max(foreign, default=0.0):.2f} ({quiet}).",
        "Config: " + ", ".join(f"{key} {value}" for key, value in run.config.items()) + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in run.versions.items()) + ".",
        *(f"Missing: {name}, {reason}." for name, reason in run.missing.items()),
        *(
            f"Failed: {row['peer']}, figure {row['figure']} in round {row['round']}, {row['reason']}."
            for row in run.failures
        ),
    ]


HOW_TO_READ = """Median (range) over the rounds; ratios are taken within each round, peer over Spillway.
What each number means: `benchmarks/peers/README.md`.
"""


def markdown(run: Run) -> str:
    parts = ["# Spillway beside its peers\n", "\n".join(f"- {fact}" for fact in facts(run)) + "\n"]
    parts.append(HOW_TO_READ)
    parts += [TABLES[figure](run) for figure in TABLES if run.peers(figure)]
    return "\n".join(parts)


def write(run: Run, folder: Path) -> str:
    """Writes both files and returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"peers-{run.date[:10]}-{run.date[11:16].replace(':', '')}-{run.commit.rstrip('+')}"
    text = markdown(run)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(json.dumps(asdict(run), indent=1) + "\n")
    return text
