"""The command line of the mock engine: `spillway mock-engine` and `python -m gateway.mock_engine`."""

import argparse
import asyncio
import re
import signal
import sys

import uvloop

from gateway.mock_engine.faults import FaultError, parse_flag
from gateway.mock_engine.server import MockEngine
from gateway.mock_engine.settings import FIXED, Settings
from gateway.sim.engine import PRESETS

UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
EPILOG = """\
faults: KIND[,KEY=VALUE...], for example
  --fault error,status=503,retry_after_s=2,next=3     --fault stall,after_tokens=5,probability=0.1
  --fault slow,factor=4                               --fault refuse,for_s=2
kinds: refuse, reset, error, hang_before_head, hang_after_head, stall, cut, slow
At run time: GET or POST /mock/faults, {"faults": [{"kind": "error"}]}; each POST replaces all faults.
Signals: SIGTERM, SIGINT stop; SIGUSR1 refuses connections, and accepts them again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the mock engine's options on `parser`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("--port", type=int, default=0, help="data port (default: a free one)")
    parser.add_argument("--control-port", type=int, help="also serve /mock/faults here (0: a free one)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--name", default="mock", help="shown at start and as the owner of the models")
    parser.add_argument("--model", action="append", metavar="NAME", help="repeatable (default: mock-model)")
    parser.add_argument(
        "--strict-model", action="store_true", help="answer 404 to requests for any other model"
    )
    parser.add_argument("--preset", choices=[FIXED, *PRESETS], default=FIXED, help="timing (default: fixed)")
    parser.add_argument(
        "--ttft", type=_duration_s, default=0.05, help="fixed: time to first token (default: 50ms)"
    )
    parser.add_argument(
        "--tpot", type=_duration_s, default=0.01, help="fixed: time per further token (default: 10ms)"
    )
    parser.add_argument("--max-num-seqs", type=_positive, help="seats (default: the preset's; 256 for fixed)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults' draws (default: 0)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND[,KEY=VALUE...]", help="see below"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0; 1 if the port is taken; 2 if settings mean nothing."""
    try:
        settings = settings_from(args)
        return uvloop.run(_serve(settings))
    except (FaultError, ValueError) as exc:
        print(f"mock engine: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as exc:
        print(f"mock engine: {exc}", file=sys.stderr)  # noqa: T201
        return 1


def settings_from(args: argparse.Namespace) -> Settings:
    """The frozen settings of a parsed command line. Raises FaultError."""
    return Settings(
        name=args.name,
        host=args.host,
        port=args.port,
        control_port=args.control_port,
        models=tuple(args.model or ("mock-model",)),
        strict_model=args.strict_model,
        preset=args.preset,
        ttft_s=args.ttft,
        tpot_s=args.tpot,
        max_num_seqs=args.max_num_seqs,
        seed=args.seed,
        faults=tuple(map(parse_flag, args.fault)),
    )


async def _serve(settings: Settings) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with MockEngine(settings) as engine:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        loop.add_signal_handler(signal.SIGUSR1, engine.toggle_refuse)
        control = f" control {engine.control_port}" if engine.control_port is not None else ""
        print(f"mock engine {settings.name} on {engine.url}{control}", flush=True)  # noqa: T201
        await stopped.wait()
    return 0


def _duration_s(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m)|0", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 50ms, 2s or 0")
    return float(match[1]) * UNITS_S[match[2]] if match[1] else 0.0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
