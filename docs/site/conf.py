"""Settings of the documentation site: `make docs` builds it, `make docs-serve` shows it.

The source folder is the repository, because the pages are also read on a code host, with links
between README.md, docs/ and datasets/. The site's order is that of docs/README.md: its headings are
the groups of the sidebar. Sphinx wants this order as `toctree` directives, which a code host would
show as they are, so they are added here, after a page has been read.
"""

import logging
import posixpath
import re
import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

SETTINGS = Path(__file__).resolve().parent
REPOSITORY = SETTINGS.parents[1]
sys.path.insert(0, str(REPOSITORY))

import torchrec_priors  # noqa: E402

project = "torchrec_priors"
author = "the authors of torchrec_priors"
release = torchrec_priors.__version__
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "docs/reference.rst",
    "datasets/*.md",
]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 6
default_role = "literal"  # docstrings have single backticks around code
highlight_language = "none"

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_search_scorer = str(SETTINGS / "static/scorer.js")
templates_path = ["templates"]
html_additional_pages = {"index": "index.html"}  # leads from the folder to the start page
html_copy_source = False
html_show_copyright = False

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s:]+\.(?:md|rst))\)")
_GROUP = re.compile(r"^## (.+)$", re.MULTILINE)
# Pages that list other pages -> the folder of these pages.
_LISTS = {
    "docs/figures/README": "docs/figures/",
    "docs/decisions/README": "docs/decisions/",
    "docs/corpora": "datasets/",
}


def setup(app: Sphinx) -> None:
    """Registers what Sphinx calls when it has read a page, and a language that it does not know."""
    # FBGEMM tells the root logger about each of its libraries when it is imported.
    logging.getLogger().addFilter(lambda record: record.levelno >= logging.WARNING)
    app.add_lexer("csv", TextLexer)
    app.connect("source-read", _add_order)


def _add_order(app: Sphinx, page: str, source: list[str]) -> None:
    """Adds the sidebar's groups to the start page, and the pages below a page to lists."""
    if page == root_doc:
        source[0] += _groups()
    elif page in _LISTS:
        below = [link for link in _linked(page, source[0]) if link.startswith(_LISTS[page])]
        source[0] += _toctree(below)


def _groups() -> str:
    """Returns a toctree for each group of docs/README.md."""
    page = "docs/README"
    _, *parts = _GROUP.split((REPOSITORY / f"{page}.md").read_text(encoding="utf8"))
    groups = zip(parts[::2], parts[1::2], strict=True)

    added = _toctree([page])
    for caption, text in groups:
        below = [link for link in _linked(page, text) if link != root_doc]
        added += _toctree(below, caption)
    return added


def _linked(page: str, text: str) -> list[str]:
    """Returns the pages that a page's text links, without the ends of their names."""
    folder = posixpath.dirname(page)
    paths = [posixpath.normpath(posixpath.join(folder, link)) for link in _LINK.findall(text)]
    names = [posixpath.splitext(path)[0] for path in paths]
    return [name for name in dict.fromkeys(names) if name != page]


def _toctree(pages: list[str], caption: str = "") -> str:
    """Returns a toctree that is not shown in the page itself."""
    options = ":hidden:\n"
    if caption:
        options += f":caption: {caption}\n"
    entries = "\n".join(f"/{page}" for page in pages)
    return f"\n\n```{{toctree}}\n{options}\n{entries}\n```\n"
