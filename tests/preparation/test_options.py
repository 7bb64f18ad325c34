"""Options of a corpus: typed, checked, recorded."""

import re
from pathlib import Path

import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import find_corpus, generate_log
from torchrec_priors.preparation.options import divide_options, read_generation, read_options
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import read_manifest

CORPUS = """
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import pyarrow as pa

from torchrec_priors.preparation.corpus import Corpus, Labels


@dataclass(frozen=True)
class Options:
    users: int = 3
    colour: Literal["red", "blue"] = "red"
    words: Path = Path(__file__)


def load(raw, bad_rows, engine, options):
    rows = [(user, item, item, item) for user in range(options.users) for item in range(4)]
    columns = zip(("user_id", "item_id", "timestamp", "order"), map(list, zip(*rows)))
    items = pa.table({"item_id": range(4), "title": list("abcd")})
    labels = pa.table({"item_id": range(4), "label": [options.colour] * 4})
    return Corpus(
        name="mine",
        interactions=ibis.memtable(pa.table(dict(columns))),
        items=ibis.memtable(items),
        category_prior="colour",
        default_horizon=1,
        item_priors=[Labels("colour", ibis.memtable(labels), "none")],
    )
"""


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "raw").mkdir()
    file = tmp_path / "mine.py"
    file.write_text(CORPUS)
    return file


def test_options_reach_the_corpus_and_the_manifest(corpus, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("tea")
    options = ("users=5", "colour=blue", f"words={words}")
    made = prepare(Settings(str(corpus), tmp_path / "raw", options=options), tmp_path / "data")
    assert made.counts["users"] == 5
    assert made.prior("colour").groups[0] == "blue"
    kept = read_manifest(tmp_path / "data").settings["options"]
    assert (kept["users"], kept["colour"], kept["words"]["file"]) == (5, "blue", "words.txt")
    default = prepare(Settings(str(corpus), tmp_path / "raw"), tmp_path / "default").settings[
        "options"
    ]
    assert (default["users"], default["words"]["file"]) == (3, "mine.py")


def test_other_options_or_another_file_are_another_data_set(corpus, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("tea")
    settings = Settings(str(corpus), tmp_path / "raw", options=(f"words={words}",))
    prepare(settings, tmp_path / "data")
    prepare(settings, tmp_path / "data")  # already there
    with pytest.raises(UserError, match="other settings"):
        prepare(Settings(str(corpus), tmp_path / "raw", options=("users=4",)), tmp_path / "data")
    words.write_text("cup")
    with pytest.raises(UserError, match="other settings"):
        prepare(settings, tmp_path / "data")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["user=1"], "--option: this corpus has no option 'user': did you mean 'users'?"),
        (["users"], "--option: 'users' is not an option: write key=value"),
        (["users=many"], "--option: users = 'many': input should be a valid integer"),
        (["colour=green"], "--option: colour = 'green': input should be 'red' or 'blue'"),
        (["words=nowhere.txt"], "--option: words = 'nowhere.txt': the file does not exist"),
        (["users=1", "users=2"], "--option: 'users' is given twice"),
    ],
)
def test_a_wrong_option_is_named(corpus, given, says):
    with pytest.raises(UserError) as caught:
        read_options(find_corpus(str(corpus)), given)
    assert str(caught.value).startswith(says)


def test_a_corpus_without_options_takes_none():
    assert read_options(find_corpus("movielens"), []) is None
    with pytest.raises(UserError, match="this corpus has no option 'users': valid: none"):
        read_options(find_corpus("movielens"), ["users=1"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("def load(raw, bad_rows, engine, options)", "def load(raw, bad_rows, engine)"),
            "engine, options) is called",
        ),
        (("@dataclass(frozen=True)\n", ""), "`Options` of the corpus file must be a dataclass"),
    ],
)
def test_a_file_whose_options_do_not_fit_is_refused(corpus, change, says):
    corpus.write_text(CORPUS.replace(*change))
    with pytest.raises(UserError, match=re.escape(says)):
        find_corpus(str(corpus))


@pytest.mark.parametrize("name", ["merrec", "pixel8m", "ebnerd", "globo", "completejourney"])
def test_a_shipped_corpus_explains_each_option_in_its_card(name):
    found = find_corpus(name)
    card = Path(found.__file__).with_suffix(".md").read_text(encoding="utf8")
    for option in vars(read_options(found, [])):
        assert f"| `{option}` |" in card
        assert f"{option}: " in found.Options.__doc__


GENERATION = """

@dataclass(frozen=True)
class Generation:
    pace: float = 1.0


def generate(raw, rows, seed, report, options):
    (raw / "log.txt").write_text(f"{rows} rows of seed {seed} at {options.pace}")
"""


def test_options_of_a_generated_log_are_apart_from_those_of_the_corpus(corpus, tmp_path):
    corpus.write_text(CORPUS + GENERATION)
    found = find_corpus(str(corpus))
    given = ["users=4", "pace=2.5", "colour=blue"]
    assert divide_options(found, given) == (("users=4", "colour=blue"), ("pace=2.5",))
    assert read_generation(found, ["pace=2.5"]).pace == 2.5
    generate_log(str(corpus), tmp_path / "raw", 7, 3, print, ["pace=2.5"])
    assert (tmp_path / "raw" / "log.txt").read_text() == "7 rows of seed 3 at 2.5"

    with pytest.raises(UserError, match="'pace' is an option of a generated log: give it together"):
        read_options(found, given)
    with pytest.raises(UserError, match="no option 'pac': did you mean 'pace'"):
        read_options(found, ["pac=1"])
    with pytest.raises(UserError, match="pace = 'fast': input should be a valid number"):
        read_generation(found, ["pace=fast"])
    assert read_options(found, []).users == 3


def test_a_corpus_without_options_of_generated_logs_takes_none(corpus):
    assert divide_options(find_corpus(str(corpus)), ["users=4", "pace=1"])[1] == ()
    assert read_generation(find_corpus(str(corpus)), []) is None
