"""The documents: links lead somewhere, commands have the options they are given, every page is listed."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [
    file
    for pattern in ("*.md", "docs/**/*.md", "datasets/*.md", "torchx_configs/**/*.toml")
    for file in sorted(REPOSITORY.glob(pattern))
]
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")  # of links, and of pictures
_MENTIONED = re.compile(r"\bdocs/[\w./-]+\.md(?:#[\w-]+)?")
_COMMAND = re.compile(r"(?:torchrec-priors|-m torchrec_priors\.apps\.)\s*(\w+) [^\n`#]*")


def _anchors(text):
    """Those that GitHub gives a document's headings."""
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(_FENCED.sub("", text))
    }


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_links_lead_somewhere(file):
    for target in _LINK.findall(_FENCED.sub("", file.read_text(encoding="utf8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (file.parent / path).resolve() if path else file
        assert found.exists(), f"{target} is not there"
        if anchor:
            assert anchor in _anchors(found.read_text(encoding="utf8")), (
                f"{target}: there is no such heading"
            )


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_commands_have_the_options_that_they_are_given(file):
    for match in _COMMAND.finditer(file.read_text(encoding="utf8").replace("\\\n", " ")):
        app = importlib.import_module(f"torchrec_priors.apps.{match[1]}")
        known = {"--help"}
        one = typer.Typer(add_completion=False)
        one.command()(getattr(app, match[1]))
        for parameter in typer.main.get_command(one).params:
            known |= {*parameter.opts, *parameter.secondary_opts}
        given = {
            word.partition("=")[0] for word in shlex.split(match[0]) if re.match(r"--?[a-z]", word)
        }
        unknown = given - known - {"-m"}
        assert not unknown, f"{match[0].strip()}: there is no {unknown}"


def test_pages_that_code_mentions_are_there():
    """Error messages, comments and notebooks name pages, too."""
    mentioned = set()
    for folder in ("torchrec_priors", "datasets", "tools", "torchx_configs", "notebooks", "deploy"):
        for file in (REPOSITORY / folder).rglob("*"):
            if file.suffix in (".py", ".toml", ".html", ".sh", ".ipynb", ".yaml"):
                mentioned |= set(_MENTIONED.findall(file.read_text(encoding="utf8")))
    assert "docs/keys.md" in mentioned
    for target in sorted(mentioned):
        path, _, anchor = target.partition("#")
        text = (REPOSITORY / path).read_text(encoding="utf8")
        assert not anchor or anchor in _anchors(text), f"{target}: there is no such heading"


def test_every_page_is_listed():
    """By docs/README.md, which is also the order of the site, or by a page that lists pages."""
    docs = REPOSITORY / "docs"
    listed = set()
    for name in ("README.md", "figures/README.md", "decisions/README.md", "corpora.md"):
        text = (docs / name).read_text(encoding="utf8")
        paths = (link.partition("#")[0] for link in _LINK.findall(text) if "://" not in link)
        listed |= {((docs / name).parent / path).resolve() for path in paths}
    pages = {*docs.rglob("*.md"), *(REPOSITORY / "datasets").glob("*.md")}
    missing = pages - listed - {docs / "README.md"}
    assert not missing


def test_the_readme_is_short_and_so_are_its_pictures():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf8")
    assert len(readme.splitlines()) < 150
    pictures = {link for link in _LINK.findall(readme) if link.startswith("docs/pictures/")}
    assert len(pictures) == 2
    assert all((REPOSITORY / picture).stat().st_size < 200_000 for picture in pictures)
