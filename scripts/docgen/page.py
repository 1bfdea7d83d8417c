"""What every made page has."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NOTE = "<!-- Made by scripts/generate-docs: edit the source named below, not this page. -->\n"


def cell(text: str) -> str:
    """As it must stand in a table."""
    return text.replace("|", "\\|")


def title_of(page: Path) -> str:
    """The first heading; what stands above it are comments of a made page."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            return line.removeprefix("# ")
    raise ValueError(f"{page} has no title")
