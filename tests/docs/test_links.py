"""Every link of every page leads somewhere, here as on the site, and every page can be found."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.docs.markdown import DOCS, ROOT, Link, anchors, links, slug

PAGES = sorted(
    page
    for pattern in ("*.md", "{}/**/*.md")
    for folder in ("docs", "benchmarks", "helm", "container")
    for page in ROOT.glob(pattern.format(folder))
)


@cache
def anchors_of(page: Path) -> set[str]:
    return anchors(page.read_text(encoding="utf-8"))


def mistake(page: Path, link: Link) -> str | None:
    name, _, anchor = link.target.partition("#")
    place = (page.parent / name).resolve() if name else page
    if not place.exists():
        return "there is no such file"
    if anchor and anchor not in anchors_of(place):
        return f"{place.name} has no such heading"
    if DOCS in page.parents and DOCS not in place.parents:
        return "the site has only what is below docs/: name the file instead"
    if DOCS in page.parents and place.is_dir():
        return "the site has no page for a folder: link to the page in it"
    return None


def mistakes(page: Path) -> list[str]:
    found = links(page.read_text(encoding="utf-8"))
    told = ((link, mistake(page, link)) for link in found if not link.is_external)
    return [f"{page.relative_to(ROOT)}:{link.line}: {link.target}: {what}" for link, what in told if what]


def test_every_link_leads_somewhere() -> None:
    assert [line for page in PAGES for line in mistakes(page)] == []


def test_no_page_has_the_marks_of_a_merge() -> None:
    assert [
        f"{page.relative_to(ROOT)}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if line.startswith(("<<<<<<< ", ">>>>>>> "))
    ] == []


def test_what_is_wrong_with_a_link_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n\n`[a](b)`\n```\n[c](d)\n```\n[ok](#top) [web](https://x.test/#y)\n[e](f.md) [g](#h)\n"
    )
    found = [link for link in links(page.read_text()) if not link.is_external]
    assert [(link.line, link.target, mistake(page, link)) for link in found] == [
        (7, "#top", None),
        (8, "f.md", "there is no such file"),
        (8, "#h", "page.md has no such heading"),
    ]


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [("Use it", "use-it"), ("`clusters[].health`", "clustershealth"), ("What's a_b - c?", "whats-a_b---c")],
)
def test_anchors_are_made_as_forges_make_them(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


class Loader(yaml.SafeLoader):
    """The site's configuration names Python functions; here they are only names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def nav_pages(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    assert isinstance(entries, list | type({}.values()))
    return [page for entry in entries for page in nav_pages(entry)]


def test_the_nav_has_every_page_once() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    expected = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert sorted(nav_pages(config["nav"])) == expected
    assert [next(iter(entry)) for entry in config["nav"]] == [
        "Home",
        "Tutorial",
        "How-to guides",
        "Reference",
        "Explanation",
    ]
