"""The README's commands as they are written: from a CSV file to recommendations, without Python."""

import re
import shlex

import pytest
from command_line import REPOSITORY, app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _section(document, heading):
    text = (REPOSITORY / document).read_text(encoding="utf8")
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def _blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_a_first_recommendation_from_a_csv_file(tmp_path):
    """On the files that docs/data.md has to paste."""
    events, catalogue, _ = _blocks(_section("docs/data.md", "Your own table"), "csv")
    (tmp_path / "events.csv").write_text(events)
    (tmp_path / "catalogue.csv").write_text(catalogue)

    section = _section("README.md", "A first recommendation from a CSV file")
    (commands,) = _blocks(section, "sh")
    typed = [shlex.split(line)[1:] for line in commands.splitlines()]
    assert [words[0] for words in typed] == ["prepare", "train", "evaluate", "recommend", "serve"]

    said = [app(*words, cwd=tmp_path).stdout for words in typed[:-1]]
    assert "3 users, 6 items" in said[0]
    assert "best validation" in said[1]
    assert "ndcg@10" in said[2]
    assert "because of" in said[3]

    (commands,) = _blocks(_section("README.md", "What is best on your log"), "sh")
    for line in commands.splitlines():
        words = shlex.split(line)[1:]
        steps = ["training.steps=2"] if words[0] == "train" and "plain.name" not in line else []
        app(*words, *steps, cwd=tmp_path)
    page = next((tmp_path / "page").glob("*.html")).read_text(encoding="utf8")
    assert all(name in page for name in ("shop", "categories", "item-knn"))

    asked = [word.replace("runs/shop", "runs/categories") for word in typed[3]]
    assert "bikes" in app(*asked, cwd=tmp_path).stdout


def test_prepare_prints_what_the_first_run_shows(ml_raw, tmp_path):
    section = _section("docs/first-run.md", "A real log")
    (shown,) = [block for block in _blocks(section, "") if block.startswith("movielens: ")]
    typed = next(
        line for line in section.splitlines() if line.startswith("torchrec-priors prepare")
    )
    (tmp_path / "ml-100k").symlink_to(ml_raw)

    said = app(*shlex.split(typed)[1:], cwd=tmp_path).stdout

    assert said == shown
