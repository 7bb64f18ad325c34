"""The page about one's own table is true: its commands, as they are written, print what it shows."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from torchrec_priors.apps import command
from torchrec_priors.apps.describe import describe
from torchrec_priors.apps.prepare import prepare
from torchrec_priors.apps.prior import Kind, prior
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import PreparedData

REPOSITORY = Path(__file__).resolve().parents[2]
APPS = {"prepare": prepare, "describe": describe, "prior": prior}


@pytest.fixture(scope="module")
def page():
    text = (REPOSITORY / "docs/data.md").read_text(encoding="utf8")
    return text.partition("## Your own table\n")[2].partition("\n## ")[0]


def _blocks(page, language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def _commands(page):
    lines = "".join(_blocks(page, "sh")).splitlines()
    return [shlex.split(line) for line in lines]


@pytest.fixture
def folder(page, tmp_path, monkeypatch):
    """A folder with the page's files, in which its commands run."""
    monkeypatch.chdir(tmp_path)
    names = ["events.csv", "catalogue.csv", "users.csv"]
    for name, content in zip(names, _blocks(page, "csv"), strict=True):
        Path(name).write_text(content)
    (toml,) = _blocks(page, "toml")
    Path("shop.toml").write_text(toml)
    return tmp_path


def _run(words, capsys):
    """Runs one of the page's commands in this process; returns what it prints."""
    with pytest.raises(SystemExit) as ended:
        command.run(APPS[words[1]], words[2:], single_process=True)
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


def test_the_example_prints_what_the_page_shows(page, folder, capsys):
    prepares = [words for words in _commands(page) if words[1] == "prepare"]
    (shown,) = _blocks(page, "")
    assert _run(prepares[0], capsys) == shown
    description = _run(["", "describe", "prepared/shop"], capsys)
    assert description.startswith(shown.partition("written to")[0])
    assert "histories: 7 to 7 interactions" in description
    assert "11 March 2024 17:20  view  006  Bottle" in description


@pytest.mark.slow
def test_a_file_of_options_gives_the_same_data_set(page, folder, capsys):
    prepares = [words for words in _commands(page) if words[1] == "prepare"]
    _run(prepares[0], capsys)
    first = PreparedData("prepared/shop").manifest
    of_toml = [word.replace("prepared/shop", "prepared/toml") for word in prepares[1]]
    _run(of_toml, capsys)
    second = PreparedData("prepared/toml").manifest
    assert (first.name, second.name) == ("events", "shop")
    assert second.content_sha256 == first.content_sha256


@pytest.mark.slow
def test_priors_are_listed_and_removed(page, folder, capsys):
    _run(_commands(page)[0], capsys)
    before = PreparedData("prepared/shop").manifest
    Path("moods.csv").write_text("item_id,label\n001,calm\n003,calm\n")
    on_data = ["--data", "prepared/shop"]
    _run(["", "prior", "item", *on_data, "--name", "mood", "--from", "moods.csv"], capsys)
    assert _run(["", "prior", "list", *on_data], capsys).splitlines() == [
        "prior category (item): bikes 2, clothing 2, accessories 2; came with the data",
        "prior tags (item): new 3, blue 2, no tags 2; came with the data",
        "prior type (event): view 6, buy 3; came with the data",
        "prior segment (user): commuter 2, racer 1; came with the data",
        "prior mood (item): no mood 4, calm 2; added from moods.csv",
    ]

    removed = _run(["", "prior", "remove", *on_data, "--name", "mood"], capsys)
    assert removed == "removed from prepared/shop: prior mood (item): no mood 4, calm 2\n"
    assert PreparedData("prepared/shop").manifest == before
    assert not Path("prepared/shop/priors/mood.parquet").exists()

    with pytest.raises(UserError, match="has no prior 'mood'"):
        prior(Kind.remove, "prepared/shop", "mood")
    with pytest.raises(UserError, match="prior 'tags' came with the data"):
        prior(Kind.remove, "prepared/shop", "tags")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--table", "events.csv", "--out", "x"], "--user is missing"),
        (
            ["--table", "no.csv", "--user", "u", "--item", "i", "--time", "t", "--out", "x"],
            "no.csv",
        ),
        (["--table", "events.csv", "--raw", "."], "--out is missing"),
        (["--table", "events.csv", "--raw", ".", "--out", "x"], "--raw cannot be combined"),
        (["--out", "x"], "--table is for a log of your own"),
        (["--dataset", "movielens", "--out", "x"], "--raw is missing"),
    ],
)
def test_what_is_missing_is_one_line(words, says, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        command.run(prepare, words, single_process=True)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not Path("x").exists()


@pytest.mark.slow
def test_the_example_in_python(page, folder, capsys):
    pytest.importorskip("pandas")
    (code,) = _blocks(page, "python")
    exec(compile(code, "docs/data.md", "exec"), {})
    assert capsys.readouterr().out == "3\n"
    manifest = PreparedData("prepared/from-frames").manifest
    assert manifest.settings["understood"][1] == "  user_id: users, text such as 'ann'"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_tables_to_a_recommendation_by_commands_alone(page, folder):
    printed = {}
    for words in _commands(page):
        app = words[1]
        if app not in ("prepare", "train", "recommend") or app in printed:
            continue
        words = [
            word.replace("torchx_configs", str(REPOSITORY / "torchx_configs")) for word in words
        ]
        if app == "train":
            words += ["training.steps=4", "training.evaluate_every=2"]
        done = subprocess.run(
            [sys.executable, "-m", "torchrec_priors.apps", *words[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed[app] = done.stdout

    assert "of 7 items of user ann" in printed["recommend"]
    assert re.search(r"^ +1 +00[1-6] +\w+", printed["recommend"], re.MULTILINE)
