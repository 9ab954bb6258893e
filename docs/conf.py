"""The site that `make docs` builds of the repository's Markdown: with a table of contents and a search, and nothing from elsewhere.

The source directory is the repository, so that links between pages mean the same on GitHub and in the site. The table of contents
is read from the lists of `docs/index.md`: a heading is a part, a list item a page.
"""

import re

from sphinx.application import Sphinx

project = "Toolwise"
copyright = "The Toolwise authors, Apache-2.0"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "*/README.md"]
# Directories that hold no page: without this, Sphinx walks all of them.
exclude_patterns = [".*", "runs", "site", "tests", "wandb", "outputs"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Toolwise"
html_copy_source = False
html_show_sphinx = False
# Summaries of results are fetched page by page, which a browser refuses for files.
html_show_search_summary = False
PART = re.compile(r"^## (.+)$|^(?:\d+\.|-) \[([^\]]+)\]\(([^)]+)\.md\)", re.MULTILINE)


def add_contents(_app: Sphinx, name: str, content: list[str]) -> None:
    """Give Sphinx the table of contents that the index shows as lists."""
    if name != root_doc:
        return
    parts: list[tuple[str, list[str]]] = []
    for part, title, page in PART.findall(content[0]):
        if part:
            parts.append((part, []))
        else:
            parts[-1][1].append(f"{title} <{page}>")
    for part, pages in parts:
        content[0] += "\n".join(["", "```{toctree}", ":hidden:", ":titlesonly:", f":caption: {part}", "", *pages, "```", ""])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
