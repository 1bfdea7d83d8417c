"""The report as text for a terminal or a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gateway.sim.figures import Figures
from gateway.sim.fleet_figures import fullest_backend
from gateway.sim.study import Study
from gateway.sim.sweep import Sweep

Table = Sequence[Sequence[str]]


def text_report(study: Study) -> str:
    """Everything but the course over time."""
    ours = study.figures
    parts = [
        f"{study.name}: {ours['requests']:,} requests in {study.span_s:,.0f} s",
        _table(_policies(study)),
        _score_line(study),
        _table(_tiers(ours)),
        *_lines(ours),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def side_by_side(studies: Sequence[Study]) -> str:
    """One row for each configuration."""
    return _table([COMPARED, *(compared_cells(study) for study in studies)])


def sweep_report(sweep: Sweep, studies: Sequence[Study]) -> str:
    """One row for each value of the setting."""
    return _table([(sweep.path, *COMPARED[1:]), *(compared_cells(study) for study in studies)])


COMPARED = (
    *("configuration", "off preferred", "bound", "greedy", "shed", "failed", "flaps"),
    *("ttft p99", "duration p99", "cost"),
)


def compared_cells(study: Study) -> tuple[str, ...]:
    """The cells under COMPARED."""
    ours = study.figures
    return (
        study.name,
        percent(ours["off_preferred_share"]),
        percent(study.bound["off_preferred_share"]),
        percent(study.baselines["greedy"]["off_preferred_share"]),
        f"{ours['shed']:,}",
        f"{ours['failed']:,}",
        str(ours["flaps"]),
        seconds(ours["ttft_s"]["p99"]),
        seconds(ours["duration_s"]["p99"]),
        money(ours["cost"]),
    )


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def seconds(value: float | None) -> str:
    """Three digits, in the unit that reads best."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def money(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def policy_rows(study: Study) -> Iterator[tuple[str, str, Figures]]:
    """Name, what it does, its figures: ours first."""
    yield "spillway", "this configuration", study.figures
    for name, figures in study.baselines.items():
        yield name, figures["says"], figures


def _policies(study: Study) -> Table:
    rows = [["policy", "off preferred", "shed", "failed", "flaps", "ttft p50", "ttft p99", "cost"]]
    for name, _, f in policy_rows(study):
        ttft = f["ttft_s"]
        rows.append(
            [
                name,
                percent(f["off_preferred_share"]),
                str(f["shed"]),
                str(f["failed"]),
                str(f["flaps"]),
                seconds(ttft["p50"]),
                seconds(ttft["p99"]),
                money(f["cost"]),
            ]
        )
    return [*rows, ["bound", percent(study.bound["off_preferred_share"]), *["-"] * 6]]


def _score_line(study: Study) -> str:
    score = study.bound["score"]
    estimate = " (an estimate: the engines' times depend on their load)" if study.bound["is_estimate"] else ""
    if score is None:
        return f"score: none, greedy reaches the bound{estimate}"
    return f"score: {score:.3f} (0: the clairvoyant bound, 1: greedy){estimate}"


def _tiers(ours: Figures) -> Table:
    rows = [["tier", "requests", "share", "in flight mean", "peak", "limit", "ttft p50", "p90", "p99"]]
    rows[0] += ["duration p50", "p90", "p99", "cost"]
    for name, tier in ours["tiers"].items():
        times = [
            *(seconds(tier["ttft_s"][q]) for q in ("p50", "p90", "p99")),
            *(seconds(tier["duration_s"][q]) for q in ("p50", "p90", "p99")),
        ]
        occupancy = [f"{tier['in_flight_mean']:.1f}", str(tier["in_flight_peak"]), f"{tier['limit']:,}"]
        rows.append(
            [name, f"{tier['requests']:,}", percent(tier["share"]), *occupancy, *times, money(tier["cost"])]
        )
    return rows


def _lines(ours: Figures) -> Iterator[str]:
    for name in ("spills", "sheds", "failures"):
        if ours[name]:
            yield f"{name}: " + ", ".join(f"{reason} {count:,}" for reason, count in ours[name].items())
    yield (
        f"circuits opened {ours['circuits_opened']}, retries {ours['retries']} "
        f"(denied {ours['retries_denied']}), hedges {ours['hedges']}, flaps {ours['flaps']}, "
        f"held {ours['held']:,} (p50 {seconds(ours['held_s']['p50'])}, p99 {seconds(ours['held_s']['p99'])})"
    )

    fleet = ours["fleet"]
    if fleet["is_shared"]:
        backend_id, peak, limit = fullest_backend(fleet)
        yield (
            f"gateways {fleet['gateways']}, false spills {fleet['false_spills']:,}, "
            f"false sheds {fleet['false_sheds']:,}, fullest {backend_id} with {peak:,} of {limit:,}, "
            f"store degraded for {fleet['degraded_s']:,.1f} gateway-seconds, exchanges {fleet['exchanges']:,}"
        )


def _table(rows: Table) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[Any]) -> str:
        first, *others = (str(cell) for cell in row)
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))
