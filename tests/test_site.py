"""The documentation site: it builds without a warning, no link is dead, and it can be read on a phone."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from in_a_browser import chromium_of

import torchrec_priors

pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install 'torchrec-priors[docs]'")
pytest.importorskip(
    "myst_parser", reason="MyST is not installed: pip install 'torchrec-priors[docs]'"
)
pytest.importorskip("furo", reason="Furo is not installed: pip install 'torchrec-priors[docs]'")

pytestmark = pytest.mark.timeout(900)  # the build imports PyTorch, and reads every page

REPOSITORY = Path(__file__).parents[1]


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, file):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(file.read_text(encoding="utf8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[name] for name in ("href", "src") if values.get(name)]
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-c", "docs/site"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "-d", folder / "trees", ".", folder / "html"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {file: _Page(file) for file in site.rglob("*.html") if "_static" not in file.parts}


def test_no_link_is_dead(site, pages):
    dead = []
    for file, page in pages.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            found = (file.parent / unquote(target.path)).resolve() if target.path else file
            anchor = unquote(target.fragment)
            if not found.is_file():
                dead.append(f"{file.relative_to(site)}: {link}")
            elif anchor and found in pages and anchor not in pages[found].anchors:
                dead.append(f"{file.relative_to(site)}: {link} has no such anchor")
    assert not dead
    assert sum(len(page.links) for page in pages.values()) > 1_000


def test_the_reference_has_every_name_of_the_package(site, pages):
    anchors = pages[site / "docs/reference.html"].anchors
    assert {f"torchrec_priors.{name}" for name in torchrec_priors.__all__} <= anchors


def test_the_site_begins_at_the_readme_with_the_groups_of_pages_and_has_a_search(site):
    start = (site / "README.html").read_text(encoding="utf8")
    for group in ("First steps", "Own data", "Training", "Serving", "Scale"):
        assert f">{group}<" in start
    assert 'url=README.html"' in (site / "index.html").read_text(encoding="utf8")
    assert "docs/serving" in (site / "searchindex.js").read_text(encoding="utf8")


def test_on_a_phone_wide_tables_scroll_and_pages_do_not(site):
    sync_api = pytest.importorskip(
        "playwright.sync_api",
        reason="playwright is not installed: pip install 'torchrec-priors[browser]'",
    )
    with chromium_of(sync_api) as chromium:
        view = chromium.new_page(viewport={"width": 390, "height": 844})
        for page in (
            "README",
            "docs/commands",
            "docs/keys",
            "docs/figures/README",
            "docs/reference",
        ):
            view.goto((site / f"{page}.html").as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") == 390, page

        view.goto((site / "docs/figures/README.html").as_uri())
        wide = "e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX === 'auto'"
        tables = f"Array.from(document.querySelectorAll('.table-wrapper')).filter({wide}).length"
        assert view.evaluate(tables) >= 3


def test_the_search_finds_pages_for_users_before_decisions(site):
    sync_api = pytest.importorskip(
        "playwright.sync_api",
        reason="playwright is not installed: pip install 'torchrec-priors[browser]'",
    )
    with chromium_of(sync_api) as chromium:
        view = chromium.new_page()
        view.goto(f"{(site / 'search.html').as_uri()}?q=repeats")
        found = view.locator("ul.search > li > a")
        view.get_by_text("Search finished").wait_for()
        pages = [link.get_attribute("href") for link in found.all()]
    decisions = [place for place, page in enumerate(pages) if "docs/decisions/" in page]
    assert "docs/configuration.html" in pages[0]
    assert decisions == list(range(decisions[0], len(pages)))
