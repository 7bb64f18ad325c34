"""The page as a document: whole, alone, escaped, and every figure described."""

import copy
import itertools
import re
import shutil
from html.parser import HTMLParser

import pytest
from made_up import HEADS

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.report.examples import AT_RANDOM, SOUGHT, examples
from torchrec_priors.report.page import write_page
from torchrec_priors.report.runs import find
from torchrec_priors.report.sections import sections

VOID = {"meta", "link", "br", "img"}


class Document(HTMLParser):
    """Elements in order, with what they must close; `text` is what is read."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.wrong = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        self.text += data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def document(page):
    return Document(page.read_text(encoding="utf8"))


@pytest.mark.slow
def test_every_element_is_closed_every_id_is_there_once_and_every_link_leads_somewhere(document):
    assert not document.wrong
    assert not document.open
    ids = [attributes["id"] for _, attributes in document.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in document.elements:
        named = attributes.get("aria-labelledby", "").split()
        if (attributes.get("href") or "").startswith("#"):
            named.append(attributes["href"][1:])
        named += re.findall(
            r"url\(#([^)]+)\)", " ".join(str(value) for value in attributes.values())
        )
        assert set(named) <= set(ids)


def test_nothing_is_fetched(page, document):
    for _, attributes in document.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert re.match(r"#|data:", attributes.get(name) or "#"), attributes
    assert not document.all("iframe", "object")
    assert document.all("link") == [{"rel": "icon", "href": "data:,"}]
    assert document.all("script") == [{}], "the page's own, without an address"
    assert "@import" not in page.read_text()
    assert page.stat().st_size < 2_000_000


def test_headings_go_down_by_one(document):
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_plot_has_text_a_name_and_a_table_of_its_numbers(document):
    plots = document.all("svg")
    assert len(plots) >= 8
    assert all(plot["role"] == "img" and plot["viewbox"] for plot in plots)
    assert len(document.all("desc")) == len(document.all("title")) - 1 == len(plots)
    assert document.text.count("Numbers of “") == len(plots)
    assert not re.search(r"(stroke|fill): #", str(document.elements)), "colours are the page's"


def test_names_and_titles_are_text_whatever_they_hold(document):
    assert "long-term / <Drama>" in HEADS[1]
    assert "head: long-term / <Drama>" in document.text
    assert "--runs <a> & b" in document.text
    assert not document.all("drama", "a&")


def test_what_the_page_says(document):
    for words in (
        "Turn on “genre-lt-st-2” for everyone",
        "one-head",
        "genre averaged",
        "The commands of the recommended model, “genre-lt-st-2”",
        "Accuracy against diversity",
        "Sizes, contexts, segments",
        "Accuracy by group of users, without and with a prior of users",
        "seeds 0, 1",
        "dropped",
        "row-wise",
        "evaluation.fusion",
        "Means over seeds",
        "± ",
        "one for each of N segments of the horizon",
    ):
        assert words in document.text, words
    for words in ("Table 2", "Figure 3", "The paper’s tables"):
        assert words not in document.text, "of other data sets than the paper's"


@pytest.mark.slow
def test_the_papers_data_sets_have_its_tables(section, tmp_path):
    named = copy.copy(section)
    named.name = "pixel8m"
    text = Document(write_page([named], [], tmp_path, "report").read_text()).text
    for words in (
        "The paper’s tables and figures",
        "Table 2: overall performance",
        "Figure 3",
        "Not among these runs: Table 9",
    ):
        assert words in text, words


def test_example_users_are_those_of_the_rule_and_the_same_every_time(section):
    found = examples(section)
    assert found == examples(section)
    assert [user.why for user in found.users].count("a new interest met") == SOUGHT
    assert len(found.users) == SOUGHT + AT_RANDOM
    assert "genre-lt-st-2" in found.rule
    for user in found.users:
        base, ours, *heads = user.columns
        assert base.title.startswith("one-head")
        assert {column.title for column in heads} == {f"head: {head}" for head in HEADS}
        reasons = {column.title: column.reason for column in heads}
        comedy = reasons["head: short-term / Comedy"]
        assert comedy.startswith("because ")
        assert comedy.endswith(", expected within the next 4 items")
        assert "Comedy" in comedy
        assert reasons["head: long-term / <Drama>"] == "", "no head of this tree"
        assert len(base.items) == len(ours.items) == 10
        if user.why == "a new interest met":
            met = {item.title for item in ours.items if item.mark == "new"}
            assert met - {item.title for item in base.items}
            assert met <= {item.title for item in user.targets}
        assert all(item.title.startswith("Café") for item in user.history)


@pytest.mark.slow
def test_the_same_runs_make_the_same_page(made_up_runs, page, tmp_path):
    found = find([made_up_runs])
    again = write_page(
        sections(found.results, None), [], tmp_path, "torchrec-priors report --runs <a> & b"
    )
    assert again.read_text() == page.read_text()


def test_a_page_without_the_data_set_shows_what_the_runs_hold(made_up_runs, tmp_path):
    runs = shutil.copytree(made_up_runs, tmp_path / "runs")
    for run in runs.iterdir():
        file = run / "data.json"
        origin = read_json(file, remedy="")
        write_json(file, origin | {"path": f"/nowhere{origin['path']}"})
    found = find([runs])
    file = write_page(sections(found.results, None), ["a reason"], tmp_path / "out", "report")
    document = Document(file.read_text())
    assert not document.wrong
    for words in (
        "The data set is not there",
        "a reason",
        "The commands of the reference row",
        "Not among these runs: ",
        "Example users (needs",
    ):
        assert words in document.text
    assert "bootstrap" not in document.text


@pytest.mark.slow
def test_predictions_that_are_gone_cost_a_row_its_intervals_alone(made_up_runs, tmp_path):
    runs = shutil.copytree(made_up_runs, tmp_path / "runs")
    for seed in (0, 1):
        (runs / f"genre-seed{seed}" / "eval/test/predictions.parquet").unlink()
    found = find([runs])
    text = Document(
        write_page(sections(found.results, None), [], tmp_path / "out", "report").read_text()
    ).text
    assert "“genre” has no intervals" in text
    assert "“genre averaged” has no intervals" not in text


@pytest.mark.slow
def test_a_seed_that_is_gone_leaves_the_others_intervals_and_is_named(made_up_runs, tmp_path):
    runs = shutil.copytree(made_up_runs, tmp_path / "runs")
    (runs / "genre-seed1" / "eval/test/predictions.parquet").unlink()
    found = find([runs])
    text = Document(
        write_page(sections(found.results, None), [], tmp_path / "out", "report").read_text()
    ).text
    assert "“genre” has intervals of only its other seeds: seed 1: " in text
    assert "no intervals" not in text
