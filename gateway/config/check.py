"""`spillway check -c FILE`: every mistake with its line and a fix, or what the file adds up to, and lints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from gateway.config.discovered import Discovered, with_discovered
from gateway.config.fleet import clusters_of
from gateway.config.lints import Finding, Level, findings_of
from gateway.config.loading import Loaded, load_backends, load_whole
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.core.model import Cluster

GOOD, WARNED, BAD_CONFIG = 0, 1, 2

# Finds more than the configuration alone can show; it may raise ConfigError.
MoreLints = Callable[[Config], Sequence[Finding]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the configuration file")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when there are warnings")


def run(args: argparse.Namespace, more: MoreLints = lambda config: ()) -> int:
    """Checks the file `args.config`. Returns the exit code: 0 good, 1 warned and strict, 2 on errors."""
    try:
        loaded = load_whole(args.config, {})
        config = with_files(loaded.config)
        findings = [*findings_of(config), *more(config)]
    except ConfigError as exc:
        for problem in exc.problems:
            _write_line(sys.stderr, str(problem))
        return BAD_CONFIG
    clusters = clusters_of(config)
    found = ", ".join(c.name for c in config.clusters if c.discovery is not None and c.discovery.file is None)
    later = f", and those that discovery finds for {found}" if found else ""
    _write_line(sys.stdout, f"ok: {summary_of(clusters)}{later}")
    if sys.stdout.isatty():
        _show_table(config, clusters)
    _tell(findings, loaded)
    return WARNED if args.strict and any(f.level is Level.WARNING for f in findings) else GOOD


def _tell(findings: Sequence[Finding], loaded: Loaded) -> None:
    """In the file's order, each with its name: docs/how-to/check-a-configuration.md tells more of it."""
    told = [(loaded.problem(f.setting, f.message, f.fix), f) for f in findings]
    for problem, finding in sorted(told, key=lambda pair: pair[0].line):
        _write_line(sys.stderr, f"{finding.level}: {problem} [{finding.lint}]")


def with_files(config: Config) -> Config:
    """With the backends in files of `discovery`. Raises ConfigError."""
    files = {c.name: c.discovery.file for c in config.clusters if c.discovery is not None}
    found = {name: Discovered(load_backends(path)) for name, path in files.items() if path is not None}
    return with_discovered(config, found)


def summary_of(clusters: tuple[Cluster, ...]) -> str:
    """`3 clusters in 3 tiers, 3 backends, 24 slots`: slots are the sum of the backends' limits."""
    tiers = len({cluster.tier for cluster in clusters})
    backends = sum(len(cluster.backends) for cluster in clusters)
    slots = sum(_slots(cluster) for cluster in clusters)
    places = f"{_count(len(clusters), 'cluster')} in {_count(tiers, 'tier')}"
    return f"{places}, {_count(backends, 'backend')}, {_count(slots, 'slot')}"


def _show_table(config: Config, clusters: tuple[Cluster, ...]) -> None:
    """The clusters as routing sees them: by tier, in the order of preference."""
    from rich.console import Console  # Only here: the server must not carry it in memory.
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("tier", "cluster", "models"):
        table.add_column(heading)
    for heading in ("backends", "slots"):
        table.add_column(heading, justify="right")
    for cluster in sorted(clusters, key=lambda cluster: config.tiers.index(cluster.tier)):
        models = ", ".join(cluster.models) or "any"
        cells = (cluster.tier, cluster.name, models, str(len(cluster.backends)), str(_slots(cluster)))
        table.add_row(*map(Text, cells))
    Console().print(table)


def _slots(cluster: Cluster) -> int:
    return sum(backend.limit for backend in cluster.backends)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _write_line(stream: TextIO, text: str) -> None:
    """Writes a line, whatever characters the file holds and the terminal lacks."""
    encoding = stream.encoding or "ascii"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
