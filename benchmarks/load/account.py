"""The report of a run: Markdown for people, JSON with every line, look and number beside it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import REPO, first_version, git_commit
from report import machine, table

from benchmarks.load.books import Asked
from benchmarks.load.timeline import Second, cells, heads
from benchmarks.load.verdicts import Evidence, Verdict, facts_of_looks
from tests.redis_server import binary

CAVEATS = [
    "Clients, gateways, engines and Redis share the machine's cores and its loopback: latencies are upper "
    "bounds, and how late Locust was says how far the clients' view can be trusted.",
    "The engines are mocks with fixed times: they never slow down as they fill, and so fill evenly.",
    "One run with one seed; the arrivals are the same ones in every run with it.",
]


@dataclass(frozen=True)
class Run:
    date: str
    commit: str
    machine: dict[str, Any]
    versions: dict[str, str]
    config: dict[str, Any]
    busy_cores: float
    seconds: Sequence[Second]
    verdicts: Sequence[Verdict]
    facts: dict[str, Any]
    looks: Sequence[Any]

    @classmethod
    def of(
        cls, config: dict[str, Any], evidence: Evidence, seconds: Sequence[Second],
        verdicts: Sequence[Verdict], busy_cores: float,
    ) -> Run:  # fmt: skip
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        versions = {"redis-server": first_version([binary(), "--version"]), "locust": _locust_version()}
        looks = [look._replace(at_s=round(look.at_s - evidence.start_s, 3)) for look in evidence.looks]
        facts = {
            **facts_of_clients(evidence.asked),
            "looks_when_429s_came": facts_of_looks(evidence),
            "failed_exchanges": looks[-1].failed_exchanges - looks[0].failed_exchanges,
        }
        return cls(
            now, git_commit(REPO), machine(), versions, config, busy_cores, seconds, verdicts, facts, looks
        )

    @property
    def missed(self) -> list[str]:
        return [verdict.what for verdict in self.verdicts if not verdict.is_met]


def facts_of_clients(asked: Sequence[Asked]) -> dict[str, Any]:
    """`late_ms`: between when a request was due and when Locust sent it."""
    late_ms = sorted((one.sent_s - one.due_s) * 1000 for one in asked)
    picks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        "requests": len(asked),
        "outcomes": dict(Counter(one.outcome for one in asked)),
        "kinds": dict(Counter(one.kind for one in asked)),
        "late_ms": {
            name: round(late_ms[min(int(len(late_ms) * share), len(late_ms) - 1)], 2)
            for name, share in picks.items()
        },
    }


def _locust_version() -> str:
    return importlib.metadata.version("locust")


def markdown(run: Run, limits: dict[str, int]) -> str:
    spec, late, looks = run.machine, run.facts["late_ms"], run.facts["looks_when_429s_came"]
    counts = ", ".join(f"{name} {count:,}" for name, count in run.facts["outcomes"].items())
    facts = [
        f"Date {run.date}, commit {run.commit}.",
        f"Machine: {spec['cpu']}, {spec['cores']} cores, Linux {spec['kernel']}, CPython {spec['python']}; "
        f"cores in use, everybody's: {run.busy_cores:g}.",
        "Config: " + ", ".join(f"{key} {value}" for key, value in run.config.items()) + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in run.versions.items()) + ".",
        f"Requests by outcome: {counts}.",
        f"Locust sent a request {late['p50']:g} ms after it was due (median; p99 {late['p99']:g}, "
        f"at most {late['max']:g}).",
        f"{looks['looks']} looks at /metrics and /api/v1/fleet. Around those between which 429s came, "
        f"{looks['median_in_flight']} of {looks['slots']} slots were in use (median; least "
        f"{looks['least_in_flight']}).",
        f"Exchanges with Redis that failed meanwhile: {run.facts['failed_exchanges']}. After one a gateway "
        "keeps its share of each limit for a moment, which is not exact.",
        *CAVEATS,
    ]
    verdicts = [[v.what, v.measured, v.goal, "yes" if v.is_met else "NO"] for v in run.verdicts]
    parts = [
        "# A load on the local fleet",
        "\n".join(f"- {fact}" for fact in facts),
        table(["what", "measured", "goal", "met"], verdicts).strip(),
        'Over time. Requests stand in the line in which they were due; "share of new" is where those that\n'
        f"were placed went, {' / '.join(limits)}.",
        table(heads(list(limits)), [cells(second, limits) for second in run.seconds]),
    ]
    return "\n\n".join(parts)


def write(run: Run, text: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"load-{run.date[:10]}-{run.date[11:16].replace(':', '')}-{run.commit.rstrip('+')}"
    (folder / f"{name}.md").write_text(text)
    document = {
        **run.__dict__,
        "seconds": [second._asdict() for second in run.seconds],
        "verdicts": [verdict._asdict() for verdict in run.verdicts],
    }
    # A look is one line: there are hundreds.
    looks = ",\n  ".join(json.dumps(look._asdict()) for look in run.looks)
    head = json.dumps({key: value for key, value in document.items() if key != "looks"}, indent=1)
    (folder / f"{name}.json").write_text(f'{head[:-2]},\n "looks": [\n  {looks}\n ]\n}}\n')
