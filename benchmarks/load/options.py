"""The options that choose a shape, the same for Locust and for `scripts/bench load`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.load.shapes import Diurnal, Replay, Shape, Spike
from benchmarks.load.traces import read_trace

_OF_SHAPE = {
    "spike": ("base_rps", "factor", "before", "spike_for", "after"),
    "diurnal": ("base_rps", "factor", "period"),
    "replay": ("trace", "trace_from", "trace_to", "speed_up"),
}
SHAPES = tuple(_OF_SHAPE)
FACTORS = {"spike": 12.0, "diurnal": 4.0}  # where none is given
_ABOVE_ZERO = ("base_rps", "spike_for", "period", "speed_up")


def add_shape_options(add: Callable[..., Any]) -> None:
    """`add` is a parser's add_argument."""
    add("--seed", type=int, default=1, help="of arrivals, kinds of clients, sizes, patience")
    add("--base-rps", type=float, default=10.0, help="spike, diurnal: requests/s outside of it")
    add("--factor", type=float, default=0.0, help="how many times the base (default: spike 12, diurnal 4)")
    add("--before", type=float, default=10.0, help="spike: seconds of base before")
    add("--spike-for", type=float, default=20.0, help="spike: its seconds")
    add("--after", type=float, default=15.0, help="spike: seconds of base after")
    add("--period", type=float, default=300.0, help="diurnal: seconds of a day")
    add("--trace", default="", help="replay: CSV (or .gz) with t_seconds,input_tokens,output_tokens")
    add("--trace-from", type=float, default=0.0, help="replay: begin at this second of the trace")
    add("--trace-to", type=float, default=math.inf, help="replay: end before this one")
    add("--speed-up", type=float, default=1.0, help="replay: divides the trace's times")


def shape_of(options: Any) -> Shape | None:
    """None when there is none. Raises TraceError, and ValueError for options that mean nothing."""
    for name in _ABOVE_ZERO:
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0")
    if options.factor < 0 or options.before < 0 or options.after < 0:
        raise ValueError("--factor, --before and --after can't be negative")
    if options.shape == "spike":
        times_s = (options.before, options.spike_for, options.after)
        return Spike(options.base_rps, options.factor or FACTORS["spike"], *times_s)
    if options.shape == "diurnal":
        return Diurnal(options.base_rps, options.factor or FACTORS["diurnal"], options.period)
    if options.shape == "replay":
        if not options.trace:
            raise ValueError("--shape replay needs --trace FILE")
        return Replay(read_trace(Path(options.trace), options.trace_from, options.trace_to), options.speed_up)
    return None


def told_again(options: Any) -> list[str]:
    """The options of the chosen shape as words of a command line."""
    names = ("shape", "seed", *_OF_SHAPE[options.shape])
    return [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
