"""PromQL of the chart, held to the gateway's own catalogue of metrics."""

from __future__ import annotations

import re

import promql_parser

from gateway.telemetry.catalogue import CATALOGUE, WORKERS_CATALOGUE

# What Prometheus adds to every series, by the ServiceMonitor.
TARGET_LABELS = {"namespace", "job", "pod", "instance", "region"}
PARTS = {"_bucket": {"le"}, "_sum": set(), "_count": set()}


def _labels_of_metrics() -> dict[str, set[str]]:
    known: dict[str, set[str]] = {
        name: set() for name in ("up", "process_resident_memory_bytes", "process_cpu_seconds_total")
    }
    for spec in (*CATALOGUE, *WORKERS_CATALOGUE):
        if spec.kind == "histogram":
            known |= {spec.full_name + part: {*spec.labels, *more} for part, more in PARTS.items()}
        else:
            known[spec.full_name] = set(spec.labels)
    return known


LABELS_OF_METRICS = _labels_of_metrics()


def problems(expression: str) -> list[str]:
    """What Prometheus could not answer: bad syntax, metrics and labels that do not exist."""
    try:
        tree = promql_parser.parse(in_prometheus(expression))
    except ValueError as error:
        return [f"{expression}: {error}"]
    found: list[str] = []
    _look(tree, found)
    return found


def in_prometheus(expression: str) -> str:
    """With Grafana's variable of time filled in."""
    return expression.replace("$__rate_interval", "5m")


def labels_of(expression: str) -> set[str]:
    """The labels that a result may carry: those grouped by."""
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",")}


def _look(node: object, found: list[str]) -> set[str]:
    """Adds what is wrong below `node`; returns the labels of the metrics there."""
    match node:
        case promql_parser.VectorSelector():
            return _selector(node, found)
        case promql_parser.MatrixSelector():
            return _selector(node.vector_selector, found)
        case promql_parser.AggregateExpr():
            below = _look(node.expr, found)
            by = set(node.modifier.labels) if node.modifier else set()
            found.extend(f"no label {label} to group by in {node.prettify()}" for label in by - below)
            return by
        case promql_parser.BinaryExpr():
            return _look(node.lhs, found) | _look(node.rhs, found)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            return _look(node.expr, found)
        case promql_parser.Call():
            return set().union(*(_look(argument, found) for argument in node.args))
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return set()
    raise AssertionError(f"not known here: {node!r}")


def _selector(selector: promql_parser.VectorSelector, found: list[str]) -> set[str]:
    name = selector.name or ""
    if name not in LABELS_OF_METRICS:
        found.append(f"no metric {name}")
        return set()
    labels = LABELS_OF_METRICS[name] | TARGET_LABELS
    matchers = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
    found.extend(f"{name} has no label {label}" for label in matchers.keys() - labels)
    # Else it would look at the gateways of every install.
    found.extend(f"{name} does not select by {label}" for label in {"namespace", "job"} - matchers.keys())
    return labels
