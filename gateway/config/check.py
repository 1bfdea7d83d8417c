"""`spillway check -c FILE`: every mistake with its line and a fix, or what the file adds up to."""

from __future__ import annotations

import argparse
import sys
from typing import TextIO

from gateway.config.discovered import Discovered, with_discovered
from gateway.config.fleet import clusters_of
from gateway.config.loading import load, load_backends
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.core.model import Cluster

GOOD, BAD_CONFIG = 0, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the configuration file")


def run(args: argparse.Namespace) -> int:
    """Checks the file `args.config`. Returns the exit code: 0 good, 2 on configuration errors."""
    try:
        config = _with_files(load(args.config))
    except ConfigError as exc:
        for problem in exc.problems:
            _write_line(sys.stderr, str(problem))
        return BAD_CONFIG
    clusters = clusters_of(config)
    found = ", ".join(c.name for c in config.clusters if c.discovery is not None and c.discovery.file is None)
    more = f", and those that discovery finds for {found}" if found else ""
    _write_line(sys.stdout, f"ok: {summary_of(clusters)}{more}")
    if sys.stdout.isatty():
        _show_table(config, clusters)
    return GOOD


def _with_files(config: Config) -> Config:
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
