"""A corpus is one file, found by its name or its path; a user's own file needs no other edited."""

import re
from dataclasses import replace
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import Corpus, Labels, find_corpus, known_corpora
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.prepared.manifest import read_manifest

OWN_CORPUS = '''
"""Purchases of a shop: `log.csv` (customer, article, ms) and `articles.csv` (article, title, department)."""

import ibis
import pyarrow as pa

from torchrec_priors.preparation.corpus import Corpus, Labels
from torchrec_priors.preparation.raw import LINE, read_table, require_files


def load(raw, bad_rows):
    require_files(raw, ["log.csv", "articles.csv"])
    text = pa.string()
    fields = {"user_id": text, "item_id": text, "timestamp": pa.int64()}
    log = read_table(raw / "log.csv", ",", fields, bad_rows)
    fields = {"item_id": text, "title": text, "label": text}
    articles = read_table(raw / "articles.csv", ",", fields, bad_rows)
    labels = articles.filter(pa.compute.not_equal(articles["label"], "")).select(["item_id", "label"])
    return Corpus(
        name="shop",
        interactions=ibis.memtable(log.rename_columns(["user_id", "item_id", "timestamp", "order"])),
        items=ibis.memtable(articles.select(["item_id", "title"])),
        category_prior="department",
        default_horizon=1,
        item_priors=[Labels("department", ibis.memtable(labels), "no department")],
    )
'''


@pytest.fixture
def shop(tmp_path):
    """(corpus file, raw folder): Ann buys tea, cup, tea, pot; Bob pot, cup, tea; Cem, dropped, a book."""
    raw = tmp_path / "raw"
    raw.mkdir()
    log = [
        "ann,tea,10",
        "bob,tea,30",
        "ann,cup,20",
        "bob,pot,10",
        "ann,tea,30",
        "bob,cup,20",
        "ann,pot,40",
        "cem,book,1",
    ]
    (raw / "log.csv").write_text("\n".join(log))
    (raw / "articles.csv").write_text(
        "tea,Tea,food\ncup,Cup,kitchen\npot,Pot,kitchen\nbook,Book,\n"
    )
    file = tmp_path / "my_shop.py"
    file.write_text(OWN_CORPUS)
    return file, raw


def test_a_users_own_file_is_prepared_end_to_end(shop, tmp_path):
    file, raw = shop
    manifest = prepare(Settings(str(file), raw), tmp_path / "prepared")
    assert manifest == read_manifest(tmp_path / "prepared")
    assert (manifest.name, manifest.horizon, manifest.events, manifest.user_group) == (
        "shop",
        1,
        [],
        None,
    )
    assert manifest.counts["dropped"] == {
        "users of at most twice the horizon": 1,
        "their interactions": 1,
    }
    assert [(prior.name, prior.kind, prior.groups, prior.sizes) for prior in manifest.priors] == [
        ("department", "item", ["kitchen", "no department", "food"], [2, 1, 1])
    ]

    items = pq.read_table(tmp_path / "prepared" / "items.parquet").to_pydict()
    frequency = dict(zip(items["item_id"], items["frequency"], strict=True))
    assert frequency == {"tea": 1, "cup": 1, "pot": 1, "book": 0}
    users = pq.read_table(tmp_path / "prepared" / "sequences")
    assert users.column_names == ["user_id", "items", "timestamps"], (
        "columns of what the corpus has not"
    )
    named = [[items["item_id"][row] for row in rows] for rows in users["items"].to_pylist()]
    assert dict(zip(users["user_id"].to_pylist(), named, strict=True)) == {
        "ann": ["tea", "cup", "tea", "pot"],
        "bob": ["pot", "cup", "tea"],
    }
    pairs = pq.read_table(tmp_path / "prepared" / "priors" / "department.parquet").to_pydict()
    assert sorted(
        (items["item_id"][row], group) for row, group in zip(*pairs.values(), strict=True)
    ) == [
        ("book", 1),
        ("cup", 0),
        ("pot", 0),
        ("tea", 2),
    ]


def test_an_edited_corpus_file_is_other_settings(shop, tmp_path):
    """The same path with other content makes another data set."""
    file, raw = shop
    prepare(Settings(str(file), raw), tmp_path / "prepared")
    file.write_text(OWN_CORPUS.replace('"department"', '"aisle"'))
    with pytest.raises(UserError, match="other settings"):
        prepare(Settings(str(file), raw), tmp_path / "prepared")


def test_a_relative_path_will_do(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_corpus("my_shop.py").load(shop[1], None).name == "shop"


def test_every_shipped_corpus_is_found_by_the_name_of_its_file():
    assert "movielens" in known_corpora()
    for name in known_corpora():
        assert callable(find_corpus(name).load)


def test_a_new_file_beside_the_others_is_a_new_name(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "torchrec_priors.preparation.corpus._FOLDERS", (tmp_path / "absent", tmp_path)
    )
    assert find_corpus("my_shop").load(shop[1], None).name == "shop"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("movilens", "unknown data set 'movilens': did you mean 'movielens'?"),
        ("zzz", "unknown data set 'zzz': valid: .*movielens"),
        ("nowhere/mine.py", "--dataset: there is no file 'nowhere/mine.py'"),
    ],
)
def test_an_unknown_corpus_names_the_nearest(name, hint):
    with pytest.raises(UserError, match=hint):
        find_corpus(name)


def test_a_file_here_that_is_named_without_its_ending_is_suggested(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError,
        match=r"unknown data set 'my_shop': to use the file 'my_shop\.py', .*--dataset my_shop",
    ):
        find_corpus("my_shop")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "x = 1\ndef load(raw, bad_rows)\n    pass\n",
            "mine.py', line 2: SyntaxError: expected ':'",
        ),
        (
            "\n\nimport nothing_like_it\n",
            "mine.py', line 3: ModuleNotFoundError: No module named 'nothing_like_it'",
        ),
        (
            "def f():\n    return 1 / 0\n\nf()\n",
            "mine.py', line 2: ZeroDivisionError: division by zero",
        ),
        ("raise ValueError('one\\ntwo')\n", "mine.py', line 1: ValueError: one two"),
        (
            "def load(raw):\n    pass\n",
            "mine.py' defines load(raw) where load(raw, bad_rows) is called",
        ),
        (
            "def load(raw, bad_rows, engine, more):\n    pass\n",
            "defines load(raw, bad_rows, engine, more) where",
        ),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_line_and_error(
    text, says, tmp_path, monkeypatch
):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "mine.py"), "mine.py"):
        with pytest.raises(UserError, match=re.escape(says)) as caught:
            find_corpus(name)
        assert "\n" not in str(caught.value)


def test_an_error_inside_a_users_load_is_named_with_its_line(shop, tmp_path):
    file, raw = shop
    file.write_text("def load(raw, bad_rows):\n    return {}['price']\n")
    with pytest.raises(UserError, match=r"my_shop\.py', line 2: KeyError: 'price'"):
        prepare(Settings(str(file), raw), tmp_path / "prepared")


def test_a_users_file_may_hold_dataclasses_of_any_kind(tmp_path):
    lines = [
        "from __future__ import annotations",
        "from dataclasses import dataclass",
        "@dataclass",
        "class Row:",
    ]
    (tmp_path / "mine.py").write_text(
        "\n".join([*lines, "    a: int", "def load(raw, bad_rows): return Row(1)", ""])
    )
    assert find_corpus(str(tmp_path / "mine.py")).load(None, None).a == 1


def test_a_file_that_loads_nothing_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("raw = 1\n")
    with pytest.raises(UserError, match=r"mine\.py' defines no function `load`"):
        find_corpus(str(tmp_path / "mine.py"))


def test_a_raw_file_that_cannot_be_opened_is_not_blamed_on_the_output(shop, tmp_path):
    file, raw = shop
    file.write_text("def load(raw, bad_rows):\n    open(raw / 'prices.csv')\n")
    with pytest.raises(UserError, match=r"--raw: there is no file '.*prices\.csv'") as caught:
        prepare(Settings(str(file), raw), tmp_path / "prepared")
    assert "--out" not in str(caught.value)


def _corpus(**changes) -> Corpus:
    """A sound corpus of two users and three items, but for the changes."""
    log = {
        "user_id": [1] * 4 + [2] * 3,
        "item_id": [10, 11, 12, 10, 12, 11, 10],
        "timestamp": [*range(7)],
    }
    sound = Corpus(
        name="mine",
        interactions=ibis.memtable(pa.table({**log, "order": [*range(7)]})),
        items=ibis.memtable(pa.table({"item_id": [10, 11, 12], "title": ["a", "b", "c"]})),
        category_prior="kind",
        default_horizon=1,
        item_priors=[_labels([10, 11, 12], ["x", "y", "x"])],
        user_priors=[
            Labels("team", ibis.memtable(pa.table({"user_id": [1], "label": ["red"]})), "no team")
        ],
    )
    return replace(sound, **changes)


def _labels(items: list[int], labels: list[str | None], name: str = "kind") -> Labels:
    table = pa.table({"item_id": items, "label": pa.array(labels, pa.string())})
    return Labels(name, ibis.memtable(table), remainder="other")


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"category_prior": "genre"}, "category_prior 'genre' is not an item prior: valid: kind"),
        (
            {"category_prior": "kin"},
            "category_prior 'kin' is not an item prior: did you mean 'kind'?",
        ),
        ({"category_prior": "team"}, "category_prior 'team' is not an item prior"),
        ({"item_priors": [_labels([10], ["x"])] * 2}, "defines a prior twice"),
        (
            {"item_priors": [_labels([10], ["x"]), _labels([10], ["x"], "team")]},
            "defines a prior twice",
        ),
        ({"events": ("view",), "event_prior": "kind"}, "defines a prior twice"),
        ({"events": ("view", "buy")}, "give both events and event_prior, or neither"),
        ({"event_prior": "action"}, "give both events and event_prior, or neither"),
        ({"user_group": "kind"}, "user_group 'kind' is not a user prior: valid: team"),
        ({"item_priors": _labels([10], ["x"])}, "item_priors must be a list of Labels"),
        (
            {"user_priors": [ibis.memtable(pa.table({"user_id": [1]}))]},
            "user_priors must be a list of Labels",
        ),
    ],
)
def test_a_corpus_that_contradicts_itself_is_refused(changes, mistake):
    _corpus()
    with pytest.raises(UserError, match=f"corpus 'mine'.*{re.escape(mistake)}"):
        _corpus(**changes)


class _Loaded:
    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def load(self, raw, bad_rows) -> Corpus:
        return self.corpus


def _prepare(corpus: Corpus, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torchrec_priors.preparation.inputs.find_corpus", lambda _: _Loaded(corpus))
    monkeypatch.setattr("torchrec_priors.preparation.inputs.corpus_path", lambda _: Path(__file__))
    return prepare(Settings("mine", folder), folder / "prepared")


def _members(folder: Path) -> set[tuple[int, int]]:
    """(original item, group) of the prior `kind`."""
    ids = pq.read_table(folder / "prepared" / "items.parquet")["item_id"].to_pylist()
    pairs = pq.read_table(folder / "prepared" / "priors" / "kind.parquet").to_pydict()
    return {(ids[row], group) for row, group in zip(pairs["item"], pairs["group"], strict=True)}


def test_an_item_without_a_label_falls_to_the_remainder(tmp_path, monkeypatch):
    manifest = _prepare(_corpus(item_priors=[_labels([10, 12], ["x", "x"])]), tmp_path, monkeypatch)
    assert manifest.prior("kind").groups == ["x", "other"]
    assert _members(tmp_path) == {(10, 0), (12, 0), (11, 1)}
    assert manifest.prior("team").groups == ["red", "no team"]


def test_an_item_whose_label_is_null_falls_to_the_remainder(tmp_path, monkeypatch):
    manifest = _prepare(
        _corpus(item_priors=[_labels([10, 11, 12], ["x", None, "x"])]), tmp_path, monkeypatch
    )
    assert manifest.prior("kind").groups == ["x", "other"]
    assert _members(tmp_path) == {(10, 0), (12, 0), (11, 1)}


def test_repeated_labels_and_labels_of_unknown_items_count_once_and_never(tmp_path, monkeypatch):
    labels = _labels([10, 10, 10, 99, 11, 12], ["y", "y", "x", "z", "x", "other"])
    manifest = _prepare(_corpus(item_priors=[labels]), tmp_path, monkeypatch)
    assert (manifest.prior("kind").groups, manifest.prior("kind").sizes) == (
        ["x", "y", "other"],
        [2, 1, 1],
    )
    assert _members(tmp_path) == {(10, 0), (10, 1), (11, 0), (12, 2)}


def test_interactions_outside_the_catalogue_are_refused_by_their_number_and_the_first(
    tmp_path, monkeypatch
):
    items = ibis.memtable(pa.table({"item_id": [10], "title": ["a"]}))
    says = "4 interactions with items outside its catalogue (2 items, first 11): leave such rows out in the corpus file"
    with pytest.raises(
        UserError, match=f"^corpus 'mine': {re.escape(says)} \\(keep_valid\\), or add"
    ):
        _prepare(_corpus(items=items), tmp_path, monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_a_catalogue_that_repeats_items_is_refused_by_their_number_and_the_first(
    tmp_path, monkeypatch
):
    ids = [10, 12, 11, 12, 11, 12]
    items = ibis.memtable(pa.table({"item_id": ids, "title": ["a"] * 6}))
    with pytest.raises(
        UserError, match=r"^corpus 'mine': .* item 11 more than once \(2 such items\): keep one row"
    ):
        _prepare(_corpus(items=items), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        (
            [0, 1, 2, 0, 1, 0, 7],
            "2 interactions have an event code outside 0 to 1, such as 2: .*view, buy",
        ),
        ([0, 1, -1, 0, 1, 0, 0], "1 interactions have an event code outside 0 to 1, such as -1"),
        (
            [0, 1, None, 0, 1, 0, 0],
            "1 interactions have an event code outside 0 to 1, such as none",
        ),
    ],
)
def test_event_codes_without_a_name_are_refused(codes, says, tmp_path, monkeypatch):
    log = {
        "user_id": [1] * 4 + [2] * 3,
        "item_id": [10, 11, 12, 10, 12, 11, 10],
        "timestamp": [*range(7)],
    }
    table = pa.table({**log, "order": [*range(7)], "event": pa.array(codes, pa.int8())})
    corpus = _corpus(
        interactions=ibis.memtable(table), events=("view", "buy"), event_prior="action"
    )
    with pytest.raises(UserError, match=f"^corpus 'mine': {says}"):
        _prepare(corpus, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("log", "says"),
    [("", "holds no interaction:"), ("nonsense\n", "holds no interaction after 1 dropped rows:")],
)
def test_a_log_without_an_interaction_is_refused_as_such(log, says, shop, tmp_path):
    file, raw = shop
    (raw / "log.csv").write_text("\n" + log)
    with pytest.raises(UserError, match=f"^corpus 'shop': its log {says}"):
        prepare(Settings(str(file), raw, on_bad_row="drop"), tmp_path / "prepared")
