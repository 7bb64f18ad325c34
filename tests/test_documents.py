"""The documents: every link leads somewhere, and every command has the options that it is given."""

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
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
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
