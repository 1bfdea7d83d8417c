"""The nav of mkdocs.yml: every page of docs/, by its kind and title. All above `nav:` is written by hand."""

import json
from collections.abc import Iterable

from docgen.page import ROOT, title_of

CONFIG = "mkdocs.yml"
DOCS = ROOT / "docs"
EXPLANATIONS = ("explanation.md", "engine-model.md")
# The pages at the top whose kind is not reference.
OTHER_KINDS = ("index.md", "tutorial.md", *EXPLANATIONS)


def navigation() -> str:
    by_hand, _, _ = (ROOT / CONFIG).read_text(encoding="utf-8").partition("\nnav:\n")
    references = [page.name for page in DOCS.glob("*.md") if page.name not in OTHER_KINDS]
    by_title = sorted(references, key=lambda name: _label(name).lower())
    lines = [
        "  - Home: index.md",
        "  - Tutorial: tutorial.md",
        "  - How-to guides:",
        *_entries(["how-to/README.md", *_folder("how-to")], "    "),
        "  - Reference:",
        *_entries(by_title, "    "),
        "  - Explanation:",
        *_entries(EXPLANATIONS, "    "),
        "    - Decisions:",
        *_entries(["adr/README.md", *_folder("adr")], "      "),
    ]
    return f"{by_hand}\nnav:\n" + "\n".join(lines) + "\n"


def _folder(name: str) -> list[str]:
    return sorted(f"{name}/{page.name}" for page in (DOCS / name).glob("*.md") if page.name != "README.md")


def _entries(pages: Iterable[str], indent: str) -> list[str]:
    # JSON's quotes are YAML's, so that a title may hold what it likes.
    return [f"{indent}- {json.dumps(_label(page), ensure_ascii=False)}: {page}" for page in pages]


def _label(page: str) -> str:
    title = title_of(DOCS / page).replace("`", "").removeprefix("The ")
    return title[0].upper() + title[1:]
