"""The pages that list the other pages of their folder."""

from docgen.page import NOTE, ROOT, title_of


def index(folder: str, title: str) -> str:
    """A page that lists the other pages of its folder by their titles."""
    pages = sorted(page for page in (ROOT / folder).glob("*.md") if page.name != "README.md")
    rows = "".join(f"- [{title_of(page)}]({page.name})\n" for page in pages)
    return f"{NOTE}<!-- Source: the titles of the pages in this folder -->\n\n# {title}\n\n{rows}"
