"""The report as one HTML file that asks nothing of any server: styles and pictures stand in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from gateway.sim import pictures
from gateway.sim.figures import Figures
from gateway.sim.study import Study
from gateway.sim.sweep import Sweep
from gateway.sim.text_report import COMPARED, compared_cells, money, percent, policy_rows, seconds

STYLE = """
:root{color-scheme:light dark;--ink:#1f2933;--dim:#616e7c;--line:#d5dbe1;--back:#fff;--box:#f5f7fa}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--dim:#9aa5b1;--line:#3e4c59;--back:#161b22;--box:#1f2630}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:1080px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}
p,figcaption{color:var(--dim);margin:.2rem 0}
.facts{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.facts div{background:var(--box);min-width:7rem;border:1px solid var(--line);border-radius:8px;
padding:.5rem .9rem}
.facts b{display:block;font-size:1.3rem}.facts span{color:var(--dim);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:600}.word{text-align:left}tr.ours{font-weight:600}
figure{margin:.4rem 0 0}svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--dim)}.grid{stroke:var(--line)}
.mean,.peak{fill:none;stroke-width:1.6}.peak{opacity:.35;stroke-width:1}
.limit{stroke-dasharray:6 4;opacity:.8}
.legend span{margin-right:1rem}.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;
margin-right:.35em}footer{margin:2.5rem 0 1rem;color:var(--dim);font-size:.85rem}
"""


def html_report(studies: Sequence[Study], workload: str, seed: int, sweep: str = "") -> str:
    """The page: one part for each configuration; `sweep` is a part made by `sweep_part`."""
    title = "Spillway simulation: " + ", ".join(study.name for study in studies)
    body = "".join(_part(study) for study in studies)
    if len(studies) > 1:
        body = _side_by_side(studies) + body
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style>'
        "</head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(workload)}, seed {seed}</p>{sweep}{body}"
        "<footer>The decisions are those of the live gateway, driven by virtual time. Shares are of all "
        "requests; a request is <i>off preferred</i> when its preferred tier did not serve it. The bound "
        "knows the future, lets nobody wait and knows no faults.</footer></body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], first_is_ours: bool = False) -> str:
    """Columns of words stand to the left, those of numbers to the right."""
    cells = list(rows)
    words = [any(row[at][:1].isalpha() for row in cells) for at in range(len(heads))]
    lines = [_row("th", heads, words)]
    for at, row in enumerate(cells):
        lines.append(_row("td", row, words, "ours" if first_is_ours and at == 0 else ""))
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _row(tag: str, cells: Sequence[str], words: Sequence[bool], mark: str = "") -> str:
    inner = "".join(
        f'<{tag} class="word">{escape(cell)}</{tag}>' if is_word else f"<{tag}>{escape(cell)}</{tag}>"
        for cell, is_word in zip(cells, words, strict=True)
    )
    return f'<tr class="{mark}">{inner}</tr>' if mark else f"<tr>{inner}</tr>"


def _part(study: Study) -> str:
    course, ours = study.course, study.figures
    step = course["bucket_s"]
    limits = {name: tier["limit"] for name, tier in ours["tiers"].items()}
    rates = {name: [count / step for count in counts] for name, counts in course["requests"].items()}
    used = {name: (course["in_flight_mean"][name], course["in_flight_peak"][name]) for name in limits}
    shares = {name: 100 * f["off_preferred_share"] for name, _, f in policy_rows(study)}
    shares["bound"] = 100 * study.bound["off_preferred_share"]
    return "".join(
        [
            f"<h2>{escape(study.name)}</h2>{_facts(study)}",
            "<h2>Where requests went</h2><p>Requests a second by the tier that served them.</p>",
            pictures.stacked(rates, step, "s", "requests/s"),
            "<h2>Slots in use</h2><p>Mean and, paler, peak; limits dashed.</p>",
            pictures.against_limits(
                {name: mean for name, (mean, _) in used.items()},
                {name: peak for name, (_, peak) in used.items()},
                limits,
                step,
            ),
            "<h2>Beside other policies</h2><p>Share of requests off their preferred tier.</p>",
            pictures.bars(shares, "%", "spillway"),
            _policies(study),
            "<h2>Tiers</h2>",
            _tiers(ours),
            _gateways(study),
            _reasons(ours),
            _circuits(course),
        ]
    )


def _facts(study: Study) -> str:
    ours, score = study.figures, study.bound["score"]
    facts = {
        "requests": f"{ours['requests']:,}",
        "off preferred": percent(ours["off_preferred_share"]),
        "score (0 bound, 1 greedy)": "-" if score is None else f"{score:.3f}",
        "shed": f"{ours['shed']:,}",
        "failed": f"{ours['failed']:,}",
        "flaps": str(ours["flaps"]),
        "circuits opened": str(ours["circuits_opened"]),
        "TTFT p99": seconds(ours["ttft_s"]["p99"]),
    }
    if ours["fleet"]["is_shared"]:
        facts["gateways"] = str(ours["fleet"]["gateways"])
    if ours["cost"] is not None:
        facts["cost"] = money(ours["cost"])
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in facts.items())
    return f'<div class="facts">{cells}</div>'


_POLICY_HEADS = (
    "policy",
    "what it does",
    "off preferred",
    "shed",
    "failed",
    "flaps",
    "TTFT p50",
    "p99",
    "cost",
)


def _policies(study: Study) -> str:
    rows = [
        (
            name,
            says,
            percent(f["off_preferred_share"]),
            f"{f['shed']:,}",
            f"{f['failed']:,}",
            str(f["flaps"]),
            seconds(f["ttft_s"]["p50"]),
            seconds(f["ttft_s"]["p99"]),
            money(f["cost"]),
        )
        for name, says, f in policy_rows(study)
    ]
    estimate = " (an estimate)" if study.bound["is_estimate"] else ""
    bound = ("bound", f"clairvoyant, nobody waits{estimate}", percent(study.bound["off_preferred_share"]))
    return table(_POLICY_HEADS, [*rows, (*bound, *["-"] * 6)], first_is_ours=True)


def _tiers(ours: Figures) -> str:
    heads = ["tier", "requests", "share", "mean in flight", "peak", "limit"]
    heads += ["TTFT p50", "p90", "p99", "duration p50", "p90", "p99", "cost"]
    return table(heads, (list(_tier_cells(name, tier)) for name, tier in ours["tiers"].items()))


def _tier_cells(name: str, tier: Figures) -> Iterator[str]:
    yield from (name, f"{tier['requests']:,}", percent(tier["share"]), f"{tier['in_flight_mean']:.1f}")
    yield from (f"{tier['in_flight_peak']:,}", f"{tier['limit']:,}")
    for times in ("ttft_s", "duration_s"):
        yield from (seconds(tier[times][q]) for q in ("p50", "p90", "p99"))
    yield money(tier["cost"])


def _gateways(study: Study) -> str:
    fleet, step = study.figures["fleet"], study.course["bucket_s"]
    if not fleet["is_shared"]:
        return ""
    said = (
        f"<h2>Gateways</h2><p>{fleet['gateways']} share the limits, with {fleet['exchanges']:,} exchanges "
        f"with their store. {fleet['false_spills']:,} requests spilled and {fleet['false_sheds']:,} were "
        "refused though a slot was free, only not at their gateway.</p>"
    )
    rows = (
        (backend_id, f"{backend['peak']:,}", f"{backend['limit']:,}")
        for backend_id, backend in fleet["backends"].items()
    )
    said += table(("backend", "most in flight", "limit"), rows)
    if fleet["degraded_s"]:
        said += (
            f"<p>Without their store for {fleet['degraded_s']:,.1f} gateway-seconds, with a share of each "
            "limit meanwhile:</p>"
        )
        degraded = {"degraded": study.course["degraded_gateways"]}
        said += pictures.stacked(degraded, step, "s", "gateways without the store")
    return said


def _reasons(ours: Figures) -> str:
    rows = [
        (kind, reason, f"{count:,}")
        for kind in ("spills", "sheds", "failures")
        for reason, count in ours[kind].items()
    ]
    if not rows:
        return ""
    extra = (
        f"<p>{ours['retries']:,} retries, {ours['retries_denied']:,} denied by the budget, "
        f"{ours['hedges']:,} hedges.</p>"
    )
    return "<h2>Why</h2>" + table(("what", "reason", "requests"), rows) + extra


MAX_CIRCUIT_ROWS = 200


def _circuits(course: Figures) -> str:
    changes = course["circuits"]
    if not changes:
        return ""
    rows = [
        (
            f"{c['at_s']:.1f} s",
            str(c["gateway"]),
            c["backend_id"],
            c["circuit"],
            c["trigger"] or "",
            c["reason"] or "",
        )
        for c in changes[:MAX_CIRCUIT_ROWS]
    ]
    more = len(changes) - len(rows)
    rest = f"<p>{more:,} more are in the JSON report.</p>" if more else ""
    return "<h2>Circuits</h2>" + table(("at", "gateway", "backend", "is", "trigger", "reason"), rows) + rest


def _side_by_side(studies: Sequence[Study]) -> str:
    return "<h2>Side by side</h2>" + table(COMPARED, map(compared_cells, studies))


def sweep_part(sweep: Sweep, studies: Sequence[Study]) -> str:
    """The trade-off curve, where the values are numbers, and its table."""
    heading = f"<h2>{escape(sweep.path)}</h2>"
    rows = table((sweep.path, *COMPARED[1:]), map(compared_cells, studies))
    try:
        values = [float(study.name) for study in studies]
    except ValueError:
        return heading + rows
    lines = {
        "spillway": [study.figures["off_preferred_share"] for study in studies],
        "greedy": [study.baselines["greedy"]["off_preferred_share"] for study in studies],
        "bound": [study.bound["off_preferred_share"] for study in studies],
        "shed": [study.figures["shed"] / study.figures["requests"] for study in studies],
    }
    points = {
        name: [(x, 100 * share) for x, share in zip(values, shares, strict=True)]
        for name, shares in lines.items()
    }
    return heading + pictures.curves(points, sweep.path, "% off preferred") + rows
