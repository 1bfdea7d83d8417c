"""The report for machines: the same input and seed give the same bytes."""

from __future__ import annotations

import orjson

from gateway.sim.study import Study


def json_report(study: Study, workload: str, seed: int) -> bytes:
    """No time of day, no host, no path: nothing that differs between two runs of the same."""
    report = {"workload": workload, "seed": seed, **study.as_dict()}
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
