"""`spillway serve`: load the configuration, run the gateway on uvloop until a signal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvloop

from gateway.app import Gateway, run as run_gateway
from gateway.config.loading import load
from gateway.config.problems import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="configuration, YAML")


def run(args: argparse.Namespace) -> int:
    """Exit 2 for a bad configuration, 1 when the gateway can't start (a port in use, say)."""
    try:
        config = load(args.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        uvloop.run(run_gateway(config, _announce))
    except OSError as error:
        sys.stderr.write(f"spillway: can't start: {error}\n")
        return 1
    return 0


def _announce(gateway: Gateway) -> None:
    sys.stderr.write(f"spillway: ready on port {gateway.port}, admin on port {gateway.admin_port}\n")
