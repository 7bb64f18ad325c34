"""Pixel8M: its made-up files, and the corpus against a recomputation in plain Python."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from prepared_log import in_time, items, labels, sequences

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.corpus import find_corpus
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.synthetic import pixelrec
from torchrec_priors.synthetic.pixelrec import INTERACTIONS, ITEM_COLUMNS, ITEMS

LEAST = 30
MAPPING = Path(find_corpus("pixel8m").__file__).with_name("pixel8m_categories.csv")
CATEGORIES = {
    "Real Life", "Informational & Educational", "Fictional Character", "Music", "Science & Technology", "Entertainment",
    "Gaming", "Performance & Arts",
}  # fmt: skip


def _read(file):
    with file.open(encoding="utf8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Made-up files; tests must not change them."""
    folder = tmp_path_factory.mktemp("pixel8m") / "raw"
    find_corpus("pixel8m").generate(folder, 12_000, 5)
    return folder


@pytest.fixture
def tiny(tmp_path):
    """A small log of a test's own, to change."""
    find_corpus("pixel8m").generate(tmp_path / "raw", 1_000, 5)
    return tmp_path / "raw"


def test_the_files_are_as_published(raw):
    log, about = _read(raw / INTERACTIONS), _read(raw / ITEMS)
    assert len(log) == 12_000
    assert list(log[0]) == ["item_id", "user_id", "timestamp"]
    assert tuple(about[0]) == ITEM_COLUMNS
    assert len({(row["user_id"], row["item_id"]) for row in log}) == len(log)
    known = {row["item_id"] for row in about}
    assert len(known) == len(about)
    for row in log:
        assert row["item_id"] in known
        assert row["user_id"][0] == "u"
        assert 2012 < 1970 + int(row["timestamp"]) / 31_556_952 < 2022.5
    assert {row["tag"] for row in about} <= {row["tag"] for row in _read(MAPPING)}
    assert any(row["tag"] == "Miscellaneous" for row in about)
    assert any(not row["description"] for row in about)


def test_the_log_follows_from_rows_and_seed_alone(raw, tmp_path):
    tags = sorted({row["tag"] for row in _read(MAPPING)} - {"Miscellaneous"})
    pixelrec.generate(tmp_path / "again", 12_000, 5, lambda _: None, tags=tags, users_at_once=7)
    assert (tmp_path / "again" / INTERACTIONS).read_bytes() == (raw / INTERACTIONS).read_bytes()
    find_corpus("pixel8m").generate(tmp_path / "other", 12_000, 6)
    assert (tmp_path / "other" / INTERACTIONS).read_bytes() != (raw / INTERACTIONS).read_bytes()


def test_every_tag_has_a_category_and_miscellaneous_has_all():
    categories = defaultdict(set)
    for row in _read(MAPPING):
        assert row["category"] not in categories[row["tag"]]
        categories[row["tag"]].add(row["category"])
    assert set().union(*categories.values()) == CATEGORIES
    assert categories["Miscellaneous"] == CATEGORIES
    assert all(len(own) <= 3 for tag, own in categories.items() if tag != "Miscellaneous")
    assert categories["Food Production"] == {
        "Real Life",
        "Informational & Educational",
        "Entertainment",
    }
    assert categories["Celebrities Mix"] == {"Real Life", "Entertainment", "Performance & Arts"}


@pytest.mark.parametrize("catalogue", ["met", "all"])
def test_prepared_is_what_the_files_say(raw, catalogue, tmp_path):
    mapping = tmp_path / "mine.csv"
    every = [
        f"{row['tag']},x"
        for row in _read(raw / ITEMS)
        if row["tag"] < "D" and "," not in row["tag"]
    ]
    mapping.write_text(
        "\n".join(["tag,category", *every, "Miscellaneous,x", "Miscellaneous,y"]) + "\n"
    )
    options = (f"min_history={LEAST}", f"catalogue={catalogue}", f"categories={mapping}")
    made = prepare(Settings("pixel8m", raw, options=options), tmp_path / "data")

    log = [
        (row["user_id"], row["item_id"], int(row["timestamp"]) * 1000, None)
        for row in _read(raw / INTERACTIONS)
    ]
    expected = in_time(log, LEAST)
    assert sequences(tmp_path / "data") == expected
    users = Counter(user for user, *_ in log)
    short = {user: n for user, n in users.items() if n < LEAST}
    assert made.counts["dropped"][f"users of fewer than {LEAST} interactions"] == len(short)
    assert made.counts["interactions"] == len(log) - sum(short.values())

    met = {item for own in expected.values() for item, *_ in own}
    about = {
        row["item_id"]: row
        for row in _read(raw / ITEMS)
        if catalogue == "all" or row["item_id"] in met
    }
    found = items(tmp_path / "data")
    assert found.keys() == about.keys()
    for item, row in about.items():
        assert (found[item]["title"], found[item]["tag"]) == (row["title"], row["tag"])
        assert found[item]["view_number"] == float(row["view_number"])
    categories = {"Miscellaneous": {"x", "y"}, **{line.split(",")[0]: {"x"} for line in every}}
    categories["Miscellaneous"] = {"x", "y"}
    assert labels(tmp_path / "data", "category") == {
        item: categories.get(row["tag"], {"no category"}) for item, row in about.items()
    }
    assert labels(tmp_path / "data", "tag") == {item: {row["tag"]} for item, row in about.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        (INTERACTIONS, b"i1,,1620267781", "user_id must have a value: ''"),
        (
            INTERACTIONS,
            b"i0,u1,1620267781",
            "item_id must be listed in Pixel8M.csv of pixelrec_iteminfo: 'i0'",
        ),
        (INTERACTIONS, b"i1,u1,-1", "timestamp must be seconds since 1970: -1"),
        (INTERACTIONS, b"i1,u1,yesterday", "timestamp is not an integer"),
        (INTERACTIONS, b"i1,u1", "2 fields where 3 are expected"),
        (
            ITEMS,
            b"i999999,many,1,1,1,1,1,1,a title,Cats,",
            "view_number must be a number or empty: 'many'",
        ),
        (ITEMS, b"i999999,1,1,1,1,1,1,1,caf\xe9,Cats,", "not utf8 text"),
        (ITEMS, b",1,1,1,1,1,1,1,a title,Cats,", "item_id must have a value: ''"),
    ],
)
def test_a_bad_row_is_named_or_dropped_and_counted(tiny, file, line, says, tmp_path):
    lines = (tiny / file).read_bytes().splitlines(keepends=True)
    (tiny / file).write_bytes(b"".join([*lines[:9], line + b"\n", *lines[9:]]))
    settings = Settings("pixel8m", tiny, options=("min_history=17",))
    with pytest.raises(UserError, match=r"Pixel8M\.csv, line 10: ") as caught:
        prepare(settings, tmp_path / "data")
    assert says in str(caught.value)
    made = prepare(Settings(**{**vars(settings), "on_bad_row": "drop"}), tmp_path / "data")
    assert [
        rows for account, rows in made.counts["dropped"].items() if "Pixel8M.csv" in account
    ] == [1]


def test_missing_counts_titles_and_tags_are_kept_as_missing(tiny, tmp_path):
    lines = (tiny / ITEMS).read_text(encoding="utf8").splitlines()
    item = lines[1].split(",")[0]
    lines[1] = f"{item},,,,,,,,,,"
    (tiny / ITEMS).write_text("\n".join(lines) + "\n", encoding="utf8")
    prepare(
        Settings("pixel8m", tiny, options=("min_history=17", "catalogue=all")), tmp_path / "data"
    )
    found = items(tmp_path / "data")[item]
    assert (found["view_number"], found["title"], found["tag"]) == (None, "", "")
    assert labels(tmp_path / "data", "category")[item] == {"no category"}
    assert labels(tmp_path / "data", "tag")[item] == {"no tag"}


def test_an_item_that_stands_twice_is_refused(tiny, tmp_path):
    lines = (tiny / ITEMS).read_bytes().splitlines(keepends=True)
    (tiny / ITEMS).write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(
        UserError, match=rf"Pixel8M\.csv, line {len(lines) + 1}: the same item_id twice"
    ):
        prepare(Settings("pixel8m", tiny), tmp_path / "data")


@pytest.mark.slow
def test_files_are_told_by_their_headers(tiny, tmp_path):
    options = ("min_history=17",)
    plain = prepare(Settings("pixel8m", tiny, options=options), tmp_path / "plain")
    (tiny / ITEMS).rename(tiny / "about.csv")
    (tiny / INTERACTIONS).rename(tiny / "log.csv")
    assert (
        prepare(Settings("pixel8m", tiny, options=options), tmp_path / "flat").counts
        == plain.counts
    )
    (tiny / "again.csv").write_bytes((tiny / "log.csv").read_bytes())
    with pytest.raises(UserError, match=r"item_id, user_id, timestamp; found again\.csv, log\.csv"):
        prepare(Settings("pixel8m", tiny, options=options), tmp_path / "two")
    (tiny / "about.csv").unlink()
    (tiny / "again.csv").unlink()
    with pytest.raises(UserError, match="item_id, title, tag and counts; it has"):
        prepare(Settings("pixel8m", tiny, options=options), tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tag,category\nCats,\n", "line 2: a tag and a category are expected"),
        ("tag,category\n", "a tag and a category are expected"),
        ("tag,kind\nCats,x\n", "has no column category"),
    ],
)
def test_a_mapping_that_is_none_is_refused(tiny, text, says, tmp_path):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        prepare(
            Settings("pixel8m", tiny, options=(f"categories={tmp_path / 'mine.csv'}",)),
            tmp_path / "data",
        )
