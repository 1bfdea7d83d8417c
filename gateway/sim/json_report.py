"""The report for machines: the same input and seed give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gateway.sim.figures import Figures
from gateway.sim.study import Study


def json_report(studies: Sequence[Study], workload: str, seed: int, sweep: Figures | None = None) -> bytes:
    """No time of day, no host, no path: nothing that differs between two runs of the same."""
    report = {
        "workload": workload,
        "seed": seed,
        "configs": [study.as_dict() for study in studies],
        "sweep": sweep,
    }
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
