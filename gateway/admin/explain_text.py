"""The page of `/api/v1/explain` in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Page = dict[str, Any]


def explain_text(page: Page) -> str:
    """Several lines, the last one ended too."""
    lines = [*_lines(page)]
    for other in page.get("differing", ()):
        lines += ["", f"worker {_numbers(other['workers'])} would do otherwise:", *_lines(other)]
    return "\n".join(lines) + "\n"


def _lines(page: Page) -> Iterator[str]:
    yield f"A request {_asked(page)} {page['words']}."
    if page["spill_reason"] is not None:
        yield f"Not to the preferred tier {page['preferred_tier']} ({page['spill_reason']})."
    if page["passed_over"] is not None:
        yield f"Tiers that do not serve: {page['passed_over']}."
    if page["taken"] is not None:
        yield f"Should it fail there before its first byte: {_then(page)}."
    if page["key"] is not None:
        yield f"Key {page['key']['name']}: {_rules(page['key'])}."
    for header in page["headers"]:
        yield f"Header {header['name']}: {header['effect']}."
    if page["plan"]:
        yield from ("", "In the plan, in this order:", *_table([_in_row(row) for row in page["plan"]]))
    if page["left_out"]:
        yield from ("", "Not in the plan:", *_table([_out_row(row) for row in page["left_out"]]))


def _rules(key: Page) -> str:
    """How much of the limits is in use is not told: each gateway counts its own part."""
    rules = [
        f"models {', '.join(key['models'])}" if key["models"] else "any model",
        f"residency {', '.join(key['residency'])}" if key["residency"] else "any residency",
        f"at most {key['rate']}" if key["rate"] else "",
        f"at most {key['max_in_flight']} in flight" if key["max_in_flight"] else "",
    ]
    return "; ".join(filter(None, rules))


def _asked(page: Page) -> str:
    if page["model"] is None:
        return "that names no model"
    rule = page["route_model"]
    by = f" (by the rule {rule})" if rule not in (None, "other", page["model"]) else ""
    return f"for {page['model']}{by}"


def _then(page: Page) -> str:
    roomy = {row["backend"] for row in page["plan"] if row["has_room"]}
    then = [backend for backend in page["after_failure"] if backend in roomy]
    more = f", and {len(then) - 3} more" if len(then) > 3 else ""
    return ", then ".join(then[:3]) + more if then else "nobody else has room"


def _in_row(row: Page) -> tuple[str, ...]:
    occupancy = f"{row['in_flight']}/{row['limit']}" + ("" if row["has_room"] else " full")
    chance = f"{max(row['chance'] * 100, 1):.0f} %" if row["chance"] else ""
    known = f" (as {row['upstream_model']})" if row["upstream_model"] else ""
    why = f"{row['reason']}: {row['words']}"
    return (f"{row['place']}", row["tier"], row["backend"] + known, occupancy, chance, why)


def _out_row(row: Page) -> tuple[str, ...]:
    return ("-", row["tier"], row["backend"] or row["cluster"], f"{row['reason']}: {row['words']}")


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(map(str.ljust, row, widths)).rstrip()


def _numbers(workers: Sequence[int]) -> str:
    return ", ".join(map(str, workers))
