"""The site is built by what is to publish it, and a page of it asks no other server for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.markdown import DOCS, ROOT

pytestmark = pytest.mark.slow

ZENSICAL = Path(sys.executable).with_name("zensical")


def copy_sources(folder: Path) -> None:
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [ZENSICAL, "build", "--config-file", "mkdocs.yml", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=50)


class Loaded(HTMLParser):
    """What a browser fetches for a page, without being asked by its reader."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = {"script": "src", "img": "src", "link": "href", "iframe": "src"}.get(tag)
        self.urls += [value for key, value in attrs if key == name and value]


def test_the_site_is_whole_and_asks_nobody(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    pages = {page.relative_to(site).as_posix() for page in site.rglob("*.html")}
    expected = {page.relative_to(DOCS).with_suffix(".html").as_posix() for page in DOCS.rglob("*.md")}
    assert {name.replace("README.html", "index.html") for name in expected} <= pages
    for name in pages:
        text = (site / name).read_text(encoding="utf-8")
        loaded = Loaded()
        loaded.feed(text)
        assert [url for url in loaded.urls if re.match(r"(https?:)?//", url)] == [], name
        # Diagrams of this kind are drawn by a script that the theme fetches from elsewhere.
        assert 'class="mermaid"' not in text, name
        missing = [
            url for url in loaded.urls if not (site / name).parent.joinpath(url.split("?")[0]).exists()
        ]
        assert missing == [] or name == "404.html", name


@pytest.mark.parametrize("target", ["nowhere.md", "metrics.md#nowhere"])
def test_a_broken_link_ends_the_build(tmp_path: Path, target: str) -> None:
    copy_sources(tmp_path)
    with (tmp_path / "docs" / "tutorial.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[more]({target})\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert "1 issue found" in done.stdout + done.stderr
