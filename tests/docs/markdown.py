"""What the tests read of a Markdown page: its links, its anchors, its tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


class Link(NamedTuple):
    line: int
    target: str

    @property
    def is_external(self) -> bool:
        return re.match(r"[a-z][a-z0-9+.-]*:", self.target) is not None


def prose(text: str) -> list[str]:
    """The lines of a page, those of fenced blocks and comments empty."""
    lines, fence = [], None
    for line in text.splitlines():
        opening = re.match(r" *(`{3,}|~{3,})", line)
        if opening and fence in (None, opening[1]):
            fence = None if fence else opening[1]
            line = ""
        lines.append("" if fence or line.startswith("<!--") else line)
    assert fence is None, "a fenced block has no end"
    return lines


def links(text: str) -> list[Link]:
    found = []
    for number, line in enumerate(prose(text), 1):
        without_code = re.sub(r"`[^`]*`", "code", line)
        targets = re.findall(r"\]\(([^()\s]+)\)", without_code) + re.findall(
            r"^\[[^\]]+\]: (\S+)", without_code
        )
        found += [Link(number, target) for target in targets]
    return found


def anchors(text: str) -> set[str]:
    """What a forge and the site make of the headings. A second heading of the same words has none here:
    the two number it differently."""
    headings = [found[1] for line in prose(text) if (found := re.match(r"#{1,6} (.+)", line))]
    return {slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings}


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    _, _, below = text.partition(f" {heading}\n")
    assert below, f"no heading {heading}"
    block = re.search(r"(?m)^\|.*\n\|[-|: ]+\n((?:\|.*\n)+)", below)
    assert block, f"no table below {heading}"
    rows = (re.split(r"(?<!\\)\|", row)[1:-1] for row in block[1].splitlines())
    return [[text.strip() for text in row] for row in rows]


def codes(text: str) -> list[str]:
    """All that is set as code in a cell."""
    return re.findall(r"`([^`]+)`", text)
